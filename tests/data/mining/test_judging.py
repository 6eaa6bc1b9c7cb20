"""Points for and against, and their reasons."""

from __future__ import annotations

import numpy as np
import pytest

from jielong.data.mining.fragments import Fragment
from jielong.data.mining.judging import THRESHOLD, judge


def fragment(example: str, **changes: object) -> Fragment:
    values: dict[str, object] = {
        "example": example, "contexts": (), "documents": 50, "occurrences": 50, "letters": len(example), "sources": 1, "head": 0.0,
        "tail": 0.0, "own_line": 0.0, "clean": 0.0, "glued": 0.0, "numbered": 1.0, "numbers": 1.0, "before": 0.9, "behind": 0.9,
        "grams": np.zeros(1, np.uint64), "counts": np.ones(1, np.uint32), "wide": np.ones(1, np.bool_),
    }  # fmt: skip
    return Fragment(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "长按二维码关注微信公众号，回复123领取资料",
        "专业代开发票，联系电话13800001111",
        "本文来自某某号，未经授权不得转载",
        "限时优惠，点击下方链接领取红包",
    ],
)
def test_adverts(text: str) -> None:
    verdict = judge(fragment(text))
    assert verdict.advert and verdict.score >= THRESHOLD and verdict.evidence


@pytest.mark.parametrize(
    "text",
    [
        "第十二条 电信业务经营者应当免费向用户提供咨询热线，违反规定的依法处以罚款",
        "单击“下载”按钮，在对话框中选择文件，有关详细信息请参阅 https://docs.example.com",
        "您好，感谢您的咨询，建议您到正规医院检查，祝您早日康复",
        "随着社会的不断发展和人民生活水平的提高",
        "床前明月光，疑是地上霜",
        "2018年12月27日18时20分许",
        "劳动安全卫生、保险福利、职工培训",
        "认定侵权行为成立的，责令侵权人立即停止侵权行为",
        "考虑一个客户端应用程序，该应用程序",
        "联系电话：13800001111",
        "通过微信公众号平台开展的",
        "编号 79173856 版本 79173999",
        "作者：某某 https://github.com/nobody",
    ],
)
def test_what_recurs_for_good_reason(text: str) -> None:
    assert not judge(fragment(text)).advert


def test_each_piece_of_evidence_counts_and_is_named() -> None:
    text = "联系电话13800001111，欢迎"
    plain = judge(fragment(text, numbers=0.0, before=0.4, behind=0.4))
    for change, points, reason in (
        ({"numbers": 0.9}, 1.0, "numbers vary"),
        ({"before": 0.9, "behind": 0.8}, 1.0, "unrelated neighbours"),
        ({"before": 0.0, "behind": 0.1}, -1.0, "the same neighbours"),
        ({"tail": 0.8}, 0.5, "at the tail"),
        ({"glued": 0.8}, 0.5, "glued to letters"),
        ({"occurrences": 200}, -1.0, "4.0 times a document"),
        ({"letters": 300}, -2.0, "300 letters long"),
    ):
        verdict = judge(fragment(text, **({"numbers": 0.0, "before": 0.4, "behind": 0.4} | change)))
        assert verdict.score == pytest.approx(plain.score + points)
        assert any(reason in line for line in verdict.evidence), reason


def test_at_an_edge_the_other_side_speaks() -> None:
    verdict = judge(fragment("本文来自某某号", head=1.0, before=0.0, behind=0.9))
    assert any("unrelated" in line for line in verdict.evidence)


def test_the_beginnings_of_neighbouring_lines_do_not_count() -> None:
    with_edge = judge(fragment("热线\n一段普普通通的文字没有什么特别之处\n[1]: http"))
    assert with_edge.score == judge(fragment("一段普普通通的文字没有什么特别之处")).score
