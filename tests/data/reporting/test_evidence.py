"""The sections that show documents."""

from __future__ import annotations

import re

from jielong.charts import Words
from jielong.data.reporting import evidence
from jielong.data.reporting.glossary import EDITS, named
from tests.data.reporting.report_dictionary import report, sample


def test_edits_come_with_counts_and_marked_samples() -> None:
    html = evidence.edits(report())
    assert "HTML tags" in html and "HTML 标签" in html and "<del>" in html and "html = &lt;script" in html
    masked = {"kind": "mobile", "before": "打13812345678", "after": "打[手机号]"}
    step = {"name": "mask", "kind": "personal_data", "edits": {"mobile": 1}, "samples": [masked]}
    assert "12345678" not in evidence.edits({"steps": [step]})
    assert evidence.edits({"steps": [{"name": "measure"}]}) == ""


def test_a_column_shows_threshold_share_and_reason() -> None:
    html = evidence.distributions(report())
    assert "20 rejected (10.31%)" in html and "剔除 20" in html and html.count("<svg") == 2
    assert "5%\u20020.1" in html and "95%" not in html, "a quantile that is not finite is left out"
    assert html.index("han_ratio") < html.index("Columns without a threshold") < html.index("text_len")


def test_without_thresholds_nothing_is_folded() -> None:
    value = report()
    value["columns"][0]["thresholds"] = []
    assert "<details" not in evidence.distributions(value) and evidence.distributions({}) == ""


def test_bounds() -> None:
    assert "≥ 0.3 ≤ 5" in evidence.bounds({"min": 0.3, "max": 5}) and evidence.bounds({}) == ""


def test_duplicates_show_the_curve_the_groups_and_the_pairs() -> None:
    html = evidence.duplicates(report())
    assert "chosen: 0.8" in html and "16 × 8" in html and "0.73" in html
    assert html.count("<del>") == html.count("<ins>") == 1
    assert "单独" in html, "a document whose partner is not known is shown alone"
    value = report()
    value["rules"][1]["kept"][0] = sample("甲乙丙丁戊己")
    assert "the same text" in evidence.duplicates(value) and evidence.duplicates({}) == ""


def test_rules_stand_side_by_side_most_rejected_first() -> None:
    value = report()
    value["rules"].append({"step": "filter", "rule": "odd", "count": 99, "rejected": [sample("奇怪")], "kept": []})
    html = evidence.rules(value)
    first, second = re.findall(r"<details class=\"fold\"( open)?>", html)
    assert (first, second) == (" open", "")
    assert html.index("奇怪") < html.index("好的文字") and "甲乙丙丁" not in html
    assert evidence.rules({}) == ""


def test_lines_name_blanks() -> None:
    html = evidence.lines(report())
    assert "55 lines left because at least 20 documents" in html and "&lt;U+3000&gt;&lt;U+3000&gt;" in html
    assert evidence.lines({}) == ""


def test_reasons_over_all_steps() -> None:
    found = evidence.reasons(report(), most=4)
    assert found[0] == (Words("share of Han", "汉字占比"), 20)
    assert (Words("nothing left after markup", "去标记后为空"), 4) in found
    assert evidence.reasons({}) == []


def test_kinds_of_equal_counts_stand_in_the_order_of_their_names() -> None:
    """Sets have another order in every process; the page has not."""
    kinds = ["url", "link", "image", "advert_line", "html_tag"]
    step = {"name": "adverts", "kind": "adverts", "edited": 3, "edits": dict.fromkeys(kinds, 3), "samples": []}
    page = evidence.edits({"steps": [step]})
    places = [page.index(f"<h4>{named(EDITS, kind).html}") for kind in sorted(kinds)]
    assert places == sorted(places)
