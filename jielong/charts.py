"""Line charts as SVG text: numbers in, a string out.

The base install has no plotting library, and a report that opens from disk ten years from now needs none: a chart is an
axis, a few paths and some words. Three decisions are worth a reason:

- *Colours are attributes, dark mode is a style.* Programs that show an SVG without a browser ignore CSS variables and
  media queries; they get the light colours from the attributes. Browsers override them by class through STYLE, which the
  report's page carries once and a file of its own carries inside (`standalone`).
- *Every word is there in both languages.* A label is two `<tspan>`s with a separator between; the page hides one of
  them, a standalone file shows "tokens · 词元".
- *Thinning keeps the extremes.* Of every bucket of neighbouring points the lowest and the highest stay, so that a spike
  of one step in ten thousand is still seen. A y of None is a gap, never a zero.

Nothing that comes from the user's data is drawn here, only numbers and our own words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeVar

from jielong.progress import human_count, human_seconds

MAX_POINTS = 600  # points of one series in a picture; more cannot be told apart at a page's width
SMOOTHING_SHARE = 0.01  # half-life of the smoothing line, as a share of the series (three points at least),
GROWING_SHARE = 0.05  # and at most this share of the points before
MOST_TICKS = 12  # where looking for a finer step ends
FONT = "system-ui, -apple-system, 'Segoe UI', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"

PAPER, INK, MUTED, GRID = "#fffefb", "#211f1c", "#6f6a62", "#e7e2d9"
COLOURS = ("#2f6690", "#b23a2e", "#3d8168", "#b07a12")  # blue, cinnabar, jade, amber
DARK_COLOURS = ("#82b4dd", "#ee8578", "#7cc4a8", "#dfae55")

STYLE = (
    "@media screen and (prefers-color-scheme: dark){"
    ".chart .paper{fill:#1c1c20}.chart .ink{fill:#ebe8e2}.chart .muted{fill:#a5a098}"
    ".chart .grid{stroke:#34343a}.chart .axis{stroke:#6d6963}"
    + "".join(f".chart .s{n}{{stroke:{c}}}.chart .d{n}{{fill:{c};stroke:#1c1c20}}" for n, c in enumerate(DARK_COLOURS))
    + "}"
)


class Words(NamedTuple):
    """One text in both languages of the report."""

    en: str
    zh: str


TOKENS = Words("tokens seen", "已训练词元")
NOT_TAKEN = Words("step not taken", "该步未采用")
SMALL_CHARTS = (  # key in metrics.jsonl, title, colour
    ("validation_bits_per_byte", Words("Bits per byte, validation", "每字节比特（验证）"), 1),
    ("learning_rate", Words("Learning rate", "学习率"), 2),
    ("grad_norm", Words("Gradient norm", "梯度范数"), 3),
)


T = TypeVar("T")
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """One line of a chart. `dots`: faint raw points; `line`: a line; `marks`: a line with a disc at every point."""

    label: Words | None  # None: not in the legend
    points: Sequence[Point]
    kind: Literal["dots", "line", "marks"] = "line"
    colour: int = 0  # index into COLOURS


# ------------------------------------------------------------------------------------------------------ numbers


def finite(value: object) -> float | None:
    """The value as a float, or None when it is missing, not a number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def count(value: object) -> Words | None:
    """1234567 -> 1.23M and 123 万; below a hundred thousand every digit."""
    number = finite(value)
    if number is None:
        return None
    if abs(number) < 100_000:
        return Words(f"{number:,.0f}", f"{number:,.0f}")
    size, unit = (1e8, "亿") if number >= 1e8 else (1e4, "万")
    short = number / size
    return Words(human_count(number), f"{short:,.0f} {unit}" if short >= 100 else f"{short:.3g} {unit}")


def duration(value: object) -> Words | None:
    """95 -> 1 min 35 s and 1 分 35 秒."""
    number = finite(value)
    if number is None:
        return None
    text = human_seconds(number)
    return Words(text, text.replace("min", "分").replace("s", "秒").replace("h", "小时"))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values, at least three, 1, 2 or 5 times a power of ten apart and inside [low, high]."""
    assert low < high
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    digits = max(0, 1 - math.floor(math.log10(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first < 2 and count < MOST_TICKS:  # one or two ticks say little: a finer step
        return nice_ticks(low, high, count + 1)
    return [round(n * step, digits) + 0.0 for n in range(first, last + 1)]  # + 0.0: never "-0"


def smooth(values: Sequence[float | None], half_life: float) -> list[float | None]:
    """Exponential moving average, corrected for its start (Adam's correction); a None stays a None and is not counted.

    The half-life grows with the values seen up to `half_life`, because a loss falls fastest at its start and a fixed one
    would draw the line beside the points there.
    """
    total = weight = 0.0
    seen = 0
    result: list[float | None] = []
    for value in values:
        if value is None:
            result.append(None)
            continue
        seen += 1
        keep = 0.5 ** (1 / min(half_life, seen * GROWING_SHARE)) if half_life > 0 else 0.0
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(total / weight)
    return result


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> Sequence[Point]:
    """At most about `limit` points: the first, the last, and the lowest and highest of each bucket of neighbours."""
    if len(points) <= limit:
        return points
    size = math.ceil(2 * len(points) / limit)
    kept = [points[0]]
    for start in range(0, len(points), size):
        bucket = [(y, n) for n, (_, y) in enumerate(points[start : start + size], start) if y is not None]
        chosen = sorted({min(bucket)[1], max(bucket)[1]}) if bucket else [start]  # a bucket of gaps stays a gap
        kept += [points[n] for n in chosen]
    return [*kept, points[-1]]


def thin_ticks(values: Sequence[float], limit: int = MAX_POINTS) -> Sequence[float]:
    """At most about `limit` of many, evenly by number."""
    return values[:: math.ceil(len(values) / limit)] if values else values


def spread(rows: list[T], limit: int) -> list[T]:
    """At most `limit` rows: the first, the last, and rows between at growing distances, because most happens early."""
    if len(rows) <= limit:
        return rows
    chosen = {round(math.expm1(math.log(len(rows)) * n / (limit - 1))) for n in range(limit)}
    return [rows[n] for n in sorted(chosen)]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The smoothing line of a series."""
    values = smooth([y for _, y in points], half_life=max(3, len(points) * SMOOTHING_SHARE))
    return [(x, y) for (x, _), y in zip(points, values, strict=True)]


def has_values(series: Iterable[Series]) -> bool:
    """Whether there is anything to draw."""
    return any(y is not None for one in series for _, y in one.points)


# ----------------------------------------------------------------------------------------- pictures of a training


def loss_series(metrics: list[dict[str, Any]]) -> list[Series]:
    """Training loss, raw and smoothed, and validation loss, over the tokens seen."""
    raw = column(metrics, "loss")
    held_out = [(x, y) for x, y in column(metrics, "validation_loss") if y is not None]
    found = [
        Series(None, thin(raw), "dots", 0),
        Series(Words("training, smoothed", "训练（平滑）"), thin(smoothed(raw)), "line", 0),
        Series(Words("validation", "验证"), thin(held_out), "marks", 1),
    ]
    return [one for one in found if has_values([one])]


def column(metrics: list[dict[str, Any]], key: str) -> list[Point]:
    """(tokens, value) of every record that knows its tokens; a missing or non-finite value is a gap."""
    rows = [(finite(row.get("tokens")), finite(row.get(key))) for row in metrics]
    return [(tokens, value) for tokens, value in rows if tokens is not None]


def loss_chart(metrics: list[dict[str, Any]], key: str, size: tuple[int, int]) -> str:
    """The picture of the report; empty when there is no finite loss."""
    series = loss_series(metrics)
    if not series:
        return ""
    ends = [(name, [y for _, y in column(metrics, name) if y is not None]) for name in ("loss", "validation_loss")]
    en = "; ".join(f"{name} from {ys[0]:.3f} to {ys[-1]:.3f}" for name, ys in ends if ys).replace("_", " ")
    zh = "；".join(
        f"{word}由 {ys[0]:.3f} 到 {ys[-1]:.3f}"
        for word, (_, ys) in zip(("训练损失", "验证损失"), ends, strict=True)
        if ys
    )
    return line_chart(
        series,
        key,
        Words("Loss, nats per token", "损失（奈特/词元）"),
        Words(en, zh),
        TOKENS,
        size,
        x_format=human_count,
        verticals=phase_borders(metrics),
        ticks=[x for row in metrics if "skipped" in row and (x := finite(row.get("tokens"))) is not None],
    )


def phase_borders(metrics: list[dict[str, Any]]) -> list[tuple[float, Words]]:
    """Where each phase but the first begins: the tokens seen before it, and its number, from 1."""
    found = []
    for before, row in pairwise(metrics):
        tokens, phase = finite(before.get("tokens")), row.get("phase")
        if tokens is not None and isinstance(phase, int) and phase != before.get("phase"):
            found.append((tokens, Words(f"phase {phase + 1}", f"阶段 {phase + 1}")))
    return found


def small_charts(metrics: list[dict[str, Any]], size: tuple[int, int], prefix: str = "") -> list[str]:
    """Bits per byte, learning rate and gradient norm, each where there is one. prefix: of their keys, where a page has them twice."""
    out = []
    for key, title, colour in SMALL_CHARTS:
        points = [(x, y) for x, y in column(metrics, key) if y is not None]
        if not points:
            continue
        series = [Series(None, thin(points), "marks" if key.startswith("validation") else "line", colour)]
        if key == "grad_norm":
            series = [Series(None, thin(points), "dots", colour), Series(None, thin(smoothed(points)), "line", colour)]
        last = Words(f"last {points[-1][1]:.4g}", f"末值 {points[-1][1]:.4g}")
        from_zero = not key.startswith("validation")
        out.append(line_chart(series, prefix + key, title, last, TOKENS, size, from_zero, human_count))
    return out


# ------------------------------------------------------------------------------------------------------ drawing


def both(words: Words) -> str:
    """A label in both languages; the page's style hides one and the separator."""
    en, zh = escape(words.en), escape(words.zh)
    return (
        f'<tspan class="t" lang="en">{en}</tspan><tspan class="sep"> · </tspan><tspan class="t" lang="zh">{zh}</tspan>'
    )


def line_chart(
    series: list[Series],
    key: str,
    title: Words,
    description: Words,
    x_label: Words,
    size: tuple[int, int] = (760, 360),
    from_zero: bool = False,
    x_format: Callable[[float], str] = "{:g}".format,
    verticals: Sequence[tuple[float, Words]] = (),
    ticks: Sequence[float] = (),
) -> str:
    """An `<svg>` element. `key` makes its ids unique in a page; `description` is read aloud instead of the picture.

    `verticals` are values of x marked by a dashed line with words at its foot, `ticks` those marked by a short stroke there, steps
    that were not taken.
    """
    assert has_values(series)
    width, height = size
    xs = [x for one in series for x, y in one.points if y is not None]
    ys = [y for one in series for _, y in one.points if y is not None]
    x_low, x_high = 0.0, max(max(xs), 1.0)  # a training begins at no tokens
    y_low, y_high = _padded(0.0 if from_zero else min(ys), max(ys), 0.05)
    if from_zero:
        y_low = 0.0
    y_ticks = nice_ticks(y_low, y_high, max(3, height // 60))
    x_ticks = nice_ticks(x_low, x_high, max(3, width // 110))
    y_texts, x_texts = [f"{tick:g}" for tick in y_ticks], [x_format(tick) for tick in x_ticks]
    left, right, top, bottom = 16 + 7 * max(map(len, y_texts), default=1), 18, 34, 44

    def px(x: float) -> float:
        return left + (x - x_low) / (x_high - x_low) * (width - left - right)

    def py(y: float) -> float:
        return height - bottom - (y - y_low) / (y_high - y_low) * (height - top - bottom)

    out = [
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc" font-family="{escape(FONT)}" font-size="12">',
        f'<title id="{key}-title">{escape(" · ".join(title))}</title>',
        f'<desc id="{key}-desc">{escape(" · ".join(description))}</desc>',
        f'<text class="ink" x="0" y="15" font-size="13" font-weight="600" fill="{INK}">{both(title)}</text>',
    ]
    for tick, text in zip(y_ticks, y_texts, strict=True):
        y = py(tick)
        out.append(f'<path class="grid" d="M{left} {y:.1f}H{width - right}" stroke="{GRID}"/>')
        out.append(_text(left - 8, y + 4, "end", text))
    out.append(f'<path class="axis" d="M{left} {height - bottom}H{width - right}" stroke="{MUTED}"/>')
    for tick, text in zip(x_ticks, x_texts, strict=True):
        x = px(tick)
        out.append(f'<path class="axis" d="M{x:.1f} {height - bottom}v4" stroke="{MUTED}"/>')
        out.append(_text(x, height - bottom + 18, "middle" if x < width - right - 12 else "end", text))
    out.append(_text(width - right, height - 6, "end", both(x_label)))
    for number, (x, words) in enumerate(verticals):  # words of neighbours stand one above the other
        out.append(_vertical(px(x), words, top, height - bottom, px(x) > width / 2, 14 * (number % 3)))
    out += [_tick(px(x), height - bottom, NOT_TAKEN) for x in thin_ticks(ticks)]
    out += [_draw(one, px, py) for one in series]
    out += _legend(series, width - right, top)
    return "".join(out) + "</svg>"


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """The range widened by a share on both sides; a range of one value becomes a range around it."""
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - (high - low) * share, high + (high - low) * share


def _text(x: float, y: float, anchor: str, inner: str) -> str:
    return f'<text class="muted" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{MUTED}">{inner}</text>'


def _vertical(x: float, words: Words, top: float, foot: float, on_the_left: bool, raised: float = 0) -> str:
    place, anchor = (x - 7, "end") if on_the_left else (x + 7, "start")
    line = f'<path class="s1" d="M{x:.1f} {top}V{foot}" stroke="{COLOURS[1]}" stroke-dasharray="4 4" fill="none"/>'
    return line + _text(place, foot - 8 - raised, anchor, both(words))


def _tick(x: float, foot: float, words: Words) -> str:
    said = f"<title>{escape(' · '.join(words))}</title>"  # shown where a pointer rests on it
    return f'<path class="s1 tick" d="M{x:.1f} {foot}v-7" stroke="{COLOURS[1]}" stroke-width="2">{said}</path>'


def _draw(one: Series, px: Callable[[float], float], py: Callable[[float], float]) -> str:
    colour = COLOURS[one.colour]
    parts, pen_down = [], False
    for x, y in one.points:
        if y is None:
            pen_down = False
        elif one.kind == "dots":
            parts.append(f"M{px(x):.1f} {py(y):.1f}h0")  # a stroke of no length with round ends is a dot
        else:
            # a point alone between two gaps is drawn as a dot as well
            parts.append(f"{'L' if pen_down else 'M'}{px(x):.1f} {py(y):.1f}{'' if pen_down else 'h0'}")
            pen_down = True
    faint = ' stroke-opacity="0.22" stroke-width="3"' if one.kind == "dots" else ' stroke-width="1.8"'
    path = (
        f'<path class="s{one.colour}" d="{"".join(parts)}" fill="none" stroke="{colour}"{faint} '
        'stroke-linecap="round" stroke-linejoin="round"/>'
    )
    if one.kind != "marks":
        return path
    discs = "".join(_disc(px(x), py(y), one.colour) for x, y in one.points if y is not None)
    return path + discs


def _disc(x: float, y: float, colour: int) -> str:
    return f'<circle class="d{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{COLOURS[colour]}" stroke="{PAPER}"/>'


def _legend(series: list[Series], right: float, top: float) -> list[str]:
    """At the top right, which a falling curve leaves free; a single labelled series is named by the title."""
    named = [(one, one.label) for one in series if one.label is not None]
    if len(named) < 2:
        return []
    out = []
    for row, (one, label) in enumerate(named):
        y = top + 8 + 18 * row
        out.append(_text(right - 26, y + 4, "end", both(label)))
        out.append(
            f'<path class="s{one.colour}" d="M{right - 18} {y}h18" stroke="{COLOURS[one.colour]}" stroke-width="2.4"/>'
        )
        if one.kind == "marks":
            out.append(_disc(right - 9, y, one.colour))
    return out


def standalone(svg: str) -> str:
    """The chart as a file of its own: with its style and a background, so that it can be read on any page."""
    head, _, rest = svg.partition(">")
    width, height = head.partition('viewBox="0 0 ')[2].partition('"')[0].split()
    paper = (
        f'<rect class="paper" x="-16" y="-12" width="{int(width) + 32}" height="{int(height) + 24}" fill="{PAPER}"/>'
    )
    box = f'viewBox="-16 -12 {int(width) + 32} {int(height) + 24}" width="{int(width) + 32}"'
    head = head.replace(f'viewBox="0 0 {width} {height}"', box)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}><style>{STYLE}</style>{paper}{rest}\n'
