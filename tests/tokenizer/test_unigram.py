"""The kinds unigram and bytepiece: what they may cut, what stays whole, and that nothing is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from jielong.errors import TokenizerError
from jielong.tokenizer.bpe import save
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.unigram import Kind, line_split, train

TEXTS = [
    f"第{number}条：中国人民银行今天宣布，下调存款准备金率0.5个百分点。\n\nfor item in range({number}):\n    print(item)\n"
    for number in range(40)
]
ODD = [
    "",
    "龘靐齉爩",
    "😀\U0001f468\u200d\U0001f469",
    "a\u0301\u0000\r\n\t ",
    "\uff21\uff22\uff11",
    "<|endoftext|>",
    "한국어 עברית",
]
SPECIALS = ("<|endoftext|>", "<|im_start|>")
KINDS: tuple[Kind, ...] = ("unigram", "bytepiece")


@pytest.mark.parametrize("kind", KINDS)
def test_identity_and_size(kind: Kind, tmp_path: Path) -> None:
    tokenizer, learned = train(TEXTS, kind, 340, SPECIALS)
    assert 330 <= tokenizer.get_vocab_size() <= 340
    assert [tokenizer.token_to_id(name) for name in SPECIALS] == [0, 1]
    tokenizer.encode_special_tokens = True
    for text in [*TEXTS, *ODD]:
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    save(tokenizer, tmp_path)
    opened, hugging_face = open_folder(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert opened.end_id == 0 and opened.size == tokenizer.get_vocab_size()
    assert hugging_face(TEXTS[3])["input_ids"] == opened.encode([TEXTS[3]])[0]
    assert hugging_face.apply_chat_template([{"role": "user", "content": "好"}], tokenize=False)
    assert [one.number for one in learned.rounds] == list(range(len(learned.rounds)))


def test_the_kinds_differ_in_what_a_piece_may_hold() -> None:
    line, _ = train(TEXTS, "bytepiece", 400, SPECIALS)
    word, _ = train(TEXTS, "unigram", 400, SPECIALS)
    pieces = [{tokenizer.decode([n]) for n in range(258, tokenizer.get_vocab_size())} for tokenizer in (line, word)]
    assert any("，" in piece.strip("，") for piece in pieces[0])
    assert not any("，" in piece[1:] for piece in pieces[1] if piece.strip("，"))
    assert len(line.encode(TEXTS[7]).ids) <= len(word.encode(TEXTS[7]).ids)


def test_split_options_and_user_words() -> None:
    tokenizer, _ = train(TEXTS, "bytepiece", 340, SPECIALS, user_words=("准备金率", "<|im_start|>"), split_letters=True)
    assert tokenizer.get_vocab_size() <= 340
    cut = [tokenizer.decode([number]) for number in tokenizer.encode("存款准备金率2024 print").ids]
    assert cut[-10:] == ["2", "0", "2", "4", " ", *"print"] and "准备金率" in cut
    years = [f"{year}年" for year in range(1900, 2000)] * 3
    whole, _ = train(years, "bytepiece", 340, SPECIALS, split_digits=False)
    assert any(piece.startswith("19") for piece in map(whole.decode, [[n] for n in range(340)]))
    with pytest.raises(TokenizerError, match="cannot be kept whole"):
        train(TEXTS, "unigram", 300, SPECIALS, user_words=("caf\u00e9",))


def test_coverage_leaves_rare_characters_to_bytes() -> None:
    texts = [*TEXTS, "龘龘龘"]
    full, _ = train(texts, "unigram", 2000, SPECIALS, coverage=1.0)
    most, _ = train(texts, "unigram", 2000, SPECIALS, coverage=0.99)
    assert len(full.encode("龘").ids) == 1 < len(most.encode("龘").ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_that_the_text_spells_is_no_piece(kind: Kind) -> None:
    texts = [f"{text} <|im_start|>\n" for text in TEXTS] * 2
    tokenizer, _ = train(texts, kind, 360, SPECIALS, split_digits=True)
    assert tokenizer.get_vocab_size() == 360
    tokenizer.encode_special_tokens = True
    assert tokenizer.decode(tokenizer.encode(texts[0]).ids, skip_special_tokens=False) == texts[0]
    assert not {0, 1} & set(tokenizer.encode(texts[0]).ids)


def test_user_words_that_would_be_learned_leave_their_place_to_others() -> None:
    tokenizer, _ = train(TEXTS, "bytepiece", 340, SPECIALS, user_words=("print", "range"))
    assert tokenizer.get_vocab_size() == 340 and tokenizer.token_to_id("range") == 339


def test_patterns() -> None:
    assert line_split(True, False) == r"[\p{N}]|[^\p{N}\n]+\n*|\n+"
    assert line_split(False, False) == r"[^\n]+\n*|\n+"
    assert line_split(True, True) == r"[\p{N}\p{Latin}]|[^\p{N}\p{Latin}\n]+\n*|\n+"
