"""Charts: arithmetic done by hand, and pictures that any XML parser reads."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from jielong import charts
from jielong.charts import Series, Words

SVG = "{http://www.w3.org/2000/svg}"


def records(losses: list[float | None]) -> list[dict[str, Any]]:
    return [{"step": n, "tokens": 100 * n, "loss": loss} for n, loss in enumerate(losses, 1)]


def draw(series: list[Series], **options: Any) -> str:
    title = Words("Loss <raw> & more", "损失")
    return charts.line_chart(series, "x", title, Words("falls", "下降"), Words("tokens", "词元"), **options)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.9, 9.1, [4, 6, 8]),
        (0, 0.001, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (0, 24_576_000, [0, 5e6, 1e7, 1.5e7, 2e7]),
    ],
)
def test_ticks_are_one_two_or_five(low: float, high: float, expected: list[float]) -> None:
    assert charts.nice_ticks(low, high) == expected
    assert "-0" not in [f"{tick:g}" for tick in charts.nice_ticks(low, high)]


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 37.0, 1e9])
def test_ticks_stay_inside_and_are_few(scale: float) -> None:
    for width in (0.0013, 0.11, 1.0, 3.7, 9.9):
        ticks = charts.nice_ticks(scale, scale * (1 + width), 3)
        assert 3 <= len(ticks) <= 7
        assert all(scale * 0.999 <= tick <= scale * (1 + width) * 1.001 for tick in ticks)


def test_finite() -> None:
    assert charts.finite(3) == 3.0
    values: list[object] = [None, math.nan, math.inf, -math.inf, "3", True, []]
    for value in values:
        assert charts.finite(value) is None


def test_smoothing_by_hand() -> None:
    """Half-life 0.05 after one value, 0.1 after two: keep = 2^-10 for the second; (1-k) b + k (1-k_1) a over the weights."""
    first, second = 0.5**20, 0.5**10
    total = second * (1 - first) * 8.0 + (1 - second) * 4.0
    weight = second * (1 - first) + (1 - second)
    assert charts.smooth([8.0, 4.0], half_life=5) == pytest.approx([8.0, total / weight])


def test_smoothing_of_a_constant_is_the_constant_and_gaps_stay() -> None:
    assert charts.smooth([2.0, None, 2.0, 2.0], half_life=10) == pytest.approx([2.0, None, 2.0, 2.0])
    assert charts.smooth([1.0, 5.0], half_life=0) == [1.0, 5.0]


def test_thinning_keeps_ends_spikes_and_gaps() -> None:
    points: list[charts.Point] = [(float(n), math.sin(n / 500)) for n in range(10_000)]
    points[7777] = (7777.0, 99.0)
    points[5000:5200] = [(float(n), None) for n in range(5000, 5200)]
    thinned = charts.thin(points)
    assert len(thinned) <= charts.MAX_POINTS + 2
    assert thinned[0] == points[0] and thinned[-1] == points[-1]
    assert points[7777] in thinned
    assert any(y is None for _, y in thinned)
    assert [x for x, _ in thinned] == sorted(x for x, _ in thinned)
    assert charts.thin(points[:10]) == points[:10]


def test_spread_keeps_ends_and_favours_the_beginning() -> None:
    rows = list(range(100))
    chosen = charts.spread(rows, 9)
    assert chosen[0] == 0 and chosen[-1] == 99 and len(chosen) <= 9
    assert chosen[len(chosen) // 2] < 50
    assert charts.spread([1, 2], 9) == [1, 2]


def test_counts_and_durations_in_both_languages() -> None:
    assert charts.count(25_961) == Words("25,961", "25,961")
    assert charts.count(1_234_567) == Words("1.23M", "123 万")
    assert charts.count(24_576_000) == Words("24.6M", "2,458 万")
    assert charts.count(310_000_000) == Words("310M", "3.1 亿")
    assert charts.count(None) is None and charts.count(math.nan) is None
    assert charts.duration(95) == Words("1 min 35 s", "1 分 35 秒")
    assert charts.duration(3723) == Words("1 h 02 min", "1 小时 02 分")


def test_a_chart_is_xml_with_title_description_and_both_languages() -> None:
    root = ET.fromstring(draw([Series(Words("training", "训练"), [(1, 3.0), (2, 2.0)])]))
    assert root.get("role") == "img" and root.get("aria-labelledby") == "x-title x-desc"
    title = root.find(f"{SVG}title")
    assert title is not None and title.text == "Loss <raw> & more · 损失"
    assert root.find(f"{SVG}desc") is not None
    languages = [span.get("lang") for span in root.iter(f"{SVG}tspan") if span.get("class") == "t"]
    assert languages.count("en") == languages.count("zh") > 0


def test_a_gap_lifts_the_pen() -> None:
    root = ET.fromstring(draw([Series(None, [(1, 3.0), (2, None), (3, 2.0), (4, 1.0)])]))
    (line,) = [path for path in root.iter(f"{SVG}path") if path.get("class") == "s0"]
    assert line.get("d", "").count("M") == 2 and line.get("d", "").count("L") == 1


@pytest.mark.parametrize("points", [[(5.0, 3.0)], [(0.0, 0.0)], [(1.0, 2.0), (2.0, 2.0)], [(1.0, -1.0), (2.0, 1e9)]])
@pytest.mark.parametrize("from_zero", [False, True])
def test_degenerate_ranges_are_drawn(points: list[charts.Point], from_zero: bool) -> None:
    svg = draw([Series(None, points, "marks")], from_zero=from_zero)
    ET.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg


def test_loss_chart_without_a_finite_loss_is_empty() -> None:
    assert charts.loss_chart([], "loss", (300, 200)) == ""
    assert charts.loss_chart(records([None, None]), "loss", (300, 200)) == ""
    assert charts.small_charts(records([1.0]), (300, 200)) == []


def test_loss_chart_survives_null_losses_and_missing_keys() -> None:
    metrics = [*records([5.0, None, math.nan, 4.0]), {"step": 9}, {"tokens": None, "loss": 3.0}]
    metrics[3] |= {"validation_loss": 4.2, "validation_bits_per_byte": 1.5, "learning_rate": 1e-3, "grad_norm": None}
    ET.fromstring(charts.loss_chart(metrics, "loss", (300, 200)))
    small = [ET.fromstring(svg) for svg in charts.small_charts(metrics, (300, 200))]
    assert [svg.get("aria-labelledby") for svg in small] == [
        "validation_bits_per_byte-title validation_bits_per_byte-desc",
        "learning_rate-title learning_rate-desc",
    ]


def test_a_long_run_makes_a_small_picture() -> None:
    metrics = records([3 + 6 / (1 + n / 50) for n in range(20_000)])
    assert len(charts.loss_chart(metrics, "loss", (860, 380))) < 60_000


def test_standalone_is_xml_with_style_and_background() -> None:
    text = charts.standalone(draw([Series(None, [(1, 3.0), (2, 2.0)])], size=(400, 200)))
    root = ET.fromstring(text.encode("utf-8"))
    assert root.get("viewBox") == "-16 -12 432 224"
    assert [child.tag for child in root][:2] == [f"{SVG}style", f"{SVG}rect"]


def test_a_vertical_marks_a_value_of_x() -> None:
    svg = draw(
        [Series(None, [(0, 0.0), (1, 1.0)])], verticals=[(0.8, Words("chosen", "所选")), (0.1, Words("low", "低"))]
    )
    lines = [path for path in ET.fromstring(svg).iter(f"{SVG}path") if path.get("stroke-dasharray")]
    assert (
        len(lines) == 2
        and "chosen" in svg
        and 'text-anchor="start" fill="#6f6a62"><tspan class="t" lang="en">low' in svg
    )


def test_the_loss_chart_marks_phases_and_steps_not_taken() -> None:
    """Steps 1 and 2 are of the first phase, 3 and 4 of the second: the border is where 2 ended. Step 4 was not taken."""
    metrics = [row | {"phase": n // 2} for n, row in enumerate(records([4.0, 3.0, 2.0, None]))]
    metrics[3]["skipped"] = "loss is nan"
    assert charts.phase_borders(metrics) == [(200.0, Words("phase 2", "阶段 2"))]
    root = ET.fromstring(charts.loss_chart(metrics, "loss", (400, 300)))
    paths = list(root.iter(f"{SVG}path"))
    assert sum(path.get("stroke-dasharray") is not None for path in paths) == 1
    (tick,) = [path for path in paths if "tick" in path.get("class", "")]
    title = tick.find(f"{SVG}title")
    assert title is not None and title.text == "step not taken · 该步未采用"
    plain = charts.loss_chart(records([4.0, 3.0]), "loss", (400, 300))
    assert "tick" not in plain and "dasharray" not in plain
    assert charts.phase_borders([]) == charts.phase_borders(records([1.0, 2.0])) == []


def test_words_of_neighbouring_verticals_stand_one_above_the_other() -> None:
    words = [(float(n), Words(f"phase {n}", "阶段")) for n in (1, 2, 3)]
    svg = draw([Series(None, [(0, 0.0), (100, 1.0)])], verticals=words)
    feet = [text.get("y") for text in ET.fromstring(svg).iter(f"{SVG}text") if "phase" in "".join(text.itertext())]
    assert len(feet) == len(set(feet)) == 3


def test_ticks_are_thinned() -> None:
    assert charts.thin_ticks([]) == [] and charts.thin_ticks([1.0, 2.0], 2) == [1.0, 2.0]
    assert len(charts.thin_ticks([float(n) for n in range(10_000)])) <= charts.MAX_POINTS
