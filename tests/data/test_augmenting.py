"""Augmentation: what copies are, that chance is the text's own, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jielong.data import augmenting, steps
from jielong.data.augmenting import Augmenter, load_function, read_synonyms, shuffled
from jielong.errors import DataError, InputError

TEXT = "房间很大，很舒服。早餐也很好！服务员非常热情；下次还来。\n第二段：位置方便。离车站很近。"


def make(**options: Any) -> steps.Augment:
    return steps.Augment.model_validate({"step": "augment"} | options)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "synonyms.txt"
    path.write_text("# 评价\n很 非常 十分\n舒服，舒适、惬意\n\n方便 便利\n", encoding="utf-8")
    return path


def test_synonyms_are_of_the_same_group(words: Path) -> None:
    groups = read_synonyms(words)
    assert groups["舒服"] == ("舒适", "惬意") and groups["便利"] == ("方便",) and len(groups) == 8
    copies = Augmenter(make(method="synonyms", file=str(words), share=1.0, copies=5), 1)(TEXT)
    assert 1 <= len(copies) <= 5 and len(set(copies)) == len(copies) and TEXT not in copies
    for copy in copies:
        assert "舒服" not in copy and "很大" not in copy and "位置便利" in copy  # every known word is another one
        assert copy.startswith("房间") and copy.endswith("近。") and "服务员" in copy


def test_a_share_of_the_words(words: Path) -> None:
    text = "很好。" * 2000
    [copy] = Augmenter(make(method="synonyms", file=str(words), share=0.25), 1)(text)
    assert 400 < copy.count("非常") + copy.count("十分") < 600


def test_shuffling_keeps_every_sentence() -> None:
    [copy] = Augmenter(make(method="shuffle"), 3)(TEXT)
    assert copy != TEXT and Counter(copy) == Counter(TEXT)
    first, second = copy.split("\n")
    assert "位置方便" in second and "早餐" in first and "离车站" in second
    assert Augmenter(make(method="shuffle"), 1)("只有一句。") == [], "nothing came out different"


@given(st.text(st.sampled_from("甲乙丙。！？“”\n .a"), max_size=30), st.integers(0, 2**63))
def test_shuffling_any_text(text: str, luck: int) -> None:
    new = shuffled(text, luck)
    assert Counter(new) == Counter(text) and new.count("\n") == text.count("\n") and shuffled(text, luck) == new


def test_chance_is_of_the_text_and_the_seed() -> None:
    step = make(method="shuffle", copies=3, fraction=0.5)
    texts = [f"{TEXT}{n}。" for n in range(300)]
    first = {text: Augmenter(step, 1)(text) for text in texts}
    again = {text: Augmenter(step, 1)(text) for text in reversed(texts)}
    assert first == again != {text: Augmenter(step, 2)(text) for text in texts}
    assert 100 < sum(bool(copies) for copies in first.values()) < 200


def test_a_function_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    def other(text: str, seed: int) -> str | None:
        given.append(seed)
        return None if len(given) == 2 else f"改写：{text}"

    monkeypatch.setattr(augmenting, "rewrite", other, raising=False)
    step = make(method="generate", function="jielong.data.augmenting:rewrite", copies=3)
    assert Augmenter(step, 1)("甲") == ["改写：甲"], "the second gave none, the third the same again"
    assert len(set(given)) == 3 and all(0 <= seed < 2**63 for seed in given)
    monkeypatch.setattr(augmenting, "rewrite", lambda text, seed: 7, raising=False)
    with pytest.raises(DataError, match="must return text or None, got int"):
        Augmenter(step, 1)("甲")
    monkeypatch.setattr(augmenting, "rewrite", lambda text, seed: 1 / 0, raising=False)
    with pytest.raises(DataError, match=r"rewrite failed, got ZeroDivisionError"):
        Augmenter(step, 1)("甲")


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere:f", "no module 'nowhere'"), ("jielong.errors:f", "has no function 'f'")]
)
def test_functions_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_function(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [("甲\n".encode(), "a group of one word, got '甲' in line 1"), (b"\n", "no words"), (b"\xff\xff", "not UTF-8")],
)
def test_lists_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_synonyms(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "options", [{"method": "synonyms"}, {"method": "generate"}, {"method": "generate", "function": "x"}]
)
def test_options_that_miss_something(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make(**options)
