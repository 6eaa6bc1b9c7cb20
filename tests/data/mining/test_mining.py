"""The whole: planted adverts found and removed, good texts listed and kept, and a person's marks obeyed."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import numpy as np

from jielong.data.cleaning.scan import encode
from jielong.data.mining.counting import Chunk
from jielong.data.mining.grams import gram_hashes
from jielong.data.mining.listing import Mark, read_listing, write_listing
from jielong.data.mining.mining import Mined, mine
from jielong.data.mining.removing import removable, remove
from jielong.data.steps import Fragments
from tests.data.mining.planted import GOOD, PHRASE, POEM, corpus

N = 12
OPTIONS = Fragments(step="fragments", min_documents=10)


@cache
def planted() -> tuple[list[str], list[tuple[int, str, int, str]]]:
    """Adverts in 2 % of the documents, about 14 of each kind."""
    return corpus(seed=1, documents=8000, share=0.02)


def mined(options: Fragments = OPTIONS, listing: tuple[Mark, ...] = ()) -> Mined:
    texts = planted()[0]
    chunks = []
    for at in range(0, len(texts), 3000):
        part = texts[at : at + 3000]
        chunks.append(Chunk(*encode(part), np.zeros(len(part), np.int64)))
    keys = np.concatenate([gram_hashes(chunk.data, chunk.offsets, N)[0] for chunk in chunks])
    values, counts = np.unique(keys, return_counts=True)
    return mine(chunks, values[counts >= options.min_documents], options, listing)


@cache
def by_default() -> Mined:
    """The corpus mined once."""
    return mined()


def test_planted_adverts_go_and_their_surroundings_stay() -> None:
    texts, adverts = planted()
    gone = by_default().gone
    by_kind = [[0, 0] for _ in range(10)]  # characters of adverts, and those that are left
    lost = 0
    for row, advert, kind, clean in adverts:
        new, _ = remove(texts[row], gone, N)
        same = sum(block.size for block in SequenceMatcher(None, clean, new, autojunk=False).get_matching_blocks())
        by_kind[kind][0] += len(advert)
        by_kind[kind][1] += len(new) - same
        lost += len(clean) - same
        assert remove(new, gone, N)[0] is new
    assert len(adverts) > 130
    assert all(1 - left / size >= 0.9 for size, left in by_kind)
    assert lost <= len(adverts) // 20, "the neighbouring text stays"


def test_clean_documents_stay() -> None:
    texts, adverts = planted()
    held = {row for row, *_ in adverts}
    mask = removable(*encode(texts), by_default().gone, N)
    for row in np.flatnonzero(mask).tolist():
        new, _ = remove(texts[row], by_default().gone, N)
        assert row in held or new is texts[row]


def test_good_texts_are_listed_and_kept() -> None:
    found = by_default().fragments
    kept = [one.fragment.example for one in found if one.action == "keep"]
    assert len(kept) == len(GOOD)
    assert any(PHRASE in text for text in kept) and any(POEM[:20] in text for text in kept)
    assert any("主管部门" in text for text in kept) and any("实验目的" in text for text in kept)
    documents = [one.fragment.documents for one in found]
    assert documents == sorted(documents, reverse=True)


def test_what_a_person_marks_wins(tmp_path: Path) -> None:
    path = tmp_path / "fragments.tsv"
    write_listing(path, by_default().rows())
    lines = path.read_text(encoding="utf-8").splitlines()
    edited = [
        line.replace("keep", "remove", 1)
        if "随着社会" in line
        else line.replace("remove", "keep", 1)
        if "红包" in line
        else line
        for line in lines
    ]
    path.write_text("\n".join([*edited, "remove\t\t\t\t\t一句没有人写过的很长很长的话\t"]) + "\n", encoding="utf-8")
    marks = tuple(read_listing(path, N))
    for choice in ("adverts", "listed"):
        result = mined(OPTIONS.model_copy(update={"remove": choice}), marks)
        for one in result.fragments:
            expected = "随着社会" in one.fragment.example or ("红包" not in one.fragment.example and one.verdict.advert)
            assert (one.action == "remove") == expected and one.by == "listing"
        assert remove("好。一句没有人写过的，很长很长的话。好。", result.gone, N)[0] == "好。好。"
    nothing = mined(OPTIONS.model_copy(update={"remove": "none"}), marks)
    assert len(nothing.gone) == 0 and all(one.action == "keep" for one in nothing.fragments)


def test_listed_without_a_list_removes_nothing() -> None:
    result = mined(OPTIONS.model_copy(update={"remove": "listed"}))
    assert len(result.gone) == 0 and len(result.fragments) == len(by_default().fragments)
