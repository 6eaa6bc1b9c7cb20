"""Cutting: what goes with a fragment, what stays of its neighbours, and that once is enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.mining.grams import Hashes, fold, fold_plain, hashes_plain
from jielong.data.mining.removing import entries, merge, removable, remove, runs, runs_plain

N = 6
ADVERT = "长按二维码关注我们领取资料"


def gone_of(*texts: str, need: int = 1) -> Hashes:
    parts = [np.array(hashes_plain([x[0] for x in fold_plain(text)], N), np.uint64) for text in texts]
    return merge([entries(part, need) for part in parts])


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("今天天气很好@去公园散步。", "今天天气很好去公园散步。"),
        ("今天天气很好。@。明天下雨。", "今天天气很好。明天下雨。"),
        ("今天天气很好。@！！！", "今天天气很好。"),
        ("@，今天天气很好。", "今天天气很好。"),
        ("今天天气很好，@，明天下雨。", "今天天气很好，明天下雨。"),
        ("今天天气很好，@。明天下雨。", "今天天气很好。明天下雨。"),
        ("今天天气很好@。", "今天天气很好。"),
        ("第一段文字在这里。\n@\n第二段文字在这里。", "第一段文字在这里。\n第二段文字在这里。"),
        ("第一段文字在这里。\n\n★★@★★\n\n第二段文字在这里。", "第一段文字在这里。\n\n第二段文字在这里。"),
        ("第一段文字在这里。\n【@】\n", "第一段文字在这里。\n"),
        ("第一段文字在这里。\n@", "第一段文字在这里。"),
        ("他说（@）今天天气很好。", "他说今天天气很好。"),
        ("他读《红楼梦》@，读了一年。", "他读《红楼梦》，读了一年。"),
        ("公告：@ https://example.com/a1", "公告：https://example.com/a1"),
        ("@：abc_123", ""),
        ("use it @ now", "use it now"),
        ("word@word", "word word"),
        ("@\n\n", ""),
        ("【@】。", ""),
    ],
)
def test_what_stays_reads_well(text: str, stays: str) -> None:
    new, cut = remove(text.replace("@", ADVERT), gone_of(ADVERT), N)
    assert new.strip(" ") == stays and cut
    assert remove(new, gone_of(ADVERT), N)[0] is new


def test_nothing_to_do_is_the_same_object() -> None:
    text = "今天天气很好。"
    for gone in (gone_of(ADVERT), np.zeros(0, np.uint64)):
        new, cut = remove(text, gone, N)
        assert new is text and cut == []
    assert remove("", gone_of(ADVERT), N) == ("", [])


def test_the_name_in_the_middle_goes_and_a_sentence_in_the_middle_stays() -> None:
    gone = gone_of("需要办理贷款业务请找", "经理咨询全天在线")
    assert remove("天气很好。需要办理贷款业务请找欧阳先生经理咨询全天在线。再见。", gone, N)[0] == "天气很好。再见。"
    kept = remove("需要办理贷款业务请找。我们走吧。经理咨询全天在线", gone, N)[0]
    assert kept == "我们走吧。"


def test_a_few_letters_beyond_a_line_feed_or_a_sentence_end_stay() -> None:
    gone = gone_of(ADVERT + "来访者", ADVERT + "您好")
    assert (
        remove(f"第一段文字。\n{ADVERT}\n来访者：我想问一个问题。", gone, N)[0]
        == "第一段文字。\n来访者：我想问一个问题。"
    )
    assert remove(f"第一段文字。{ADVERT}。您好吗，老师？", gone, N)[0] == "第一段文字。您好吗，老师？"


def test_a_number_goes_whole() -> None:
    gone = gone_of("请拨打联系电话12")
    for digits in ("1234567", "\uff11\uff12\uff13\uff14\uff15", "1234-567"):
        assert remove(f"天气很好。请拨打联系电话{digits}。再见。", gone, N)[0] == "天气很好。再见。"


def test_links_in_lines_of_their_own_stay() -> None:
    for text in (f"好。\n{ADVERT}\n[1]:\n[2]:", f"[1]:\n{ADVERT}\n好。"):
        gone = gone_of(f"1{ADVERT}", f"{ADVERT}1")
        assert remove(text, gone, N)[0] == text.replace(ADVERT + "\n", "")


def test_a_phrase_of_the_advert_in_ordinary_text_stays() -> None:
    gone = gone_of(ADVERT, need=4)
    text = "他长按二维码关注了她。"
    assert remove(text, gone, N)[0] is text
    assert remove(f"好。{ADVERT}", gone, N)[0] == "好。"


def test_followers_alone_go_nowhere() -> None:
    site = "githubcomnobody"
    gone = merge(
        [gone_of("本文由某某翻译组荣誉推出"), entries(np.array(hashes_plain([ord(c) for c in site], N), np.uint64), 0)]
    )
    link = "看 https://github.com/nobody/x 这里"
    assert remove(link, gone, N)[0] is link
    assert remove("好。本文由某某翻译组荣誉推出(github.com/nobody)", gone, N)[0] == "好。"


def test_need_of_the_least_counts() -> None:
    hashes = np.array([1 << 40, 2 << 40], np.uint64)
    joined = merge([entries(hashes, 9), entries(hashes[:1], 3), entries(hashes[1:], 99)])
    assert [value & 63 for value in joined.tolist()] == [3, 9]
    assert len(merge([])) == 0


PIECES = st.lists(
    st.sampled_from(
        [
            ADVERT,
            ADVERT[:7],
            ADVERT[5:],
            "今天",
            "，",
            "。",
            "\n",
            "（",
            "）",
            "【",
            "】",
            " ",
            "a1",
            "：",
            "★",
            "1",
            "《",
            "甲乙",
        ]
    ),
    max_size=14,
)


@settings(max_examples=200)
@given(PIECES, st.integers(1, 5))
def test_cutting_once_is_enough_and_runs_agree_with_their_twin(pieces: list[str], need: int) -> None:
    text, gone = "".join(pieces), gone_of(ADVERT, need=need)
    data, offsets = encode([text])
    assert runs(fold(data, offsets), gone, N) == runs_plain(text, gone, N)
    new, cut = remove(text, gone, N)
    assert remove(new, gone, N) == (new, [])
    assert (new is text) == (not cut)
    assert ADVERT not in new
    if cut:
        assert removable(data, offsets, gone, N).tolist() == [True]


def test_which_documents_need_it() -> None:
    texts = ["没有什么。", f"有。{ADVERT}", "", ADVERT]
    assert removable(*encode(texts), gone_of(ADVERT), N).tolist() == [False, True, False, True]
    assert not removable(*encode(texts), np.zeros(0, np.uint64), N).any()
