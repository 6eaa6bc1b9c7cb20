"""A stream never shows half a character, and shows every whole one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.infer.stream import TextStream, Writing
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import TokenizerFolder, open_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    """A vocabulary of bytes and hardly more, so that almost every Han character is three tokens."""
    folder = tmp_path_factory.mktemp("bytes")
    bpe.save(bpe.train(["的的的的"], 262, Config().specials, 2, True), folder)
    return open_folder(folder)


def feed(tokenizer: TokenizerFolder, context: list[int], ids: list[int]) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, context)
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.finish()], stream


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=30))
@settings(max_examples=200, deadline=None)
def test_everything_arrives_whole(tokenizer: TokenizerFolder, text: str) -> None:
    [context], [ids] = tokenizer.encode(["开始："]), tokenizer.encode([text])
    pieces, stream = feed(tokenizer, context, ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.broken == 0


def test_a_character_comes_when_its_last_byte_comes(tokenizer: TokenizerFolder) -> None:
    [ids] = tokenizer.encode(["龘😀"])
    assert len(ids) == 7
    pieces, _ = feed(tokenizer, [], ids)
    assert pieces == ["", "", "龘", "", "", "", "😀", ""]


def test_an_unfinished_tail_is_not_shown(tokenizer: TokenizerFolder) -> None:
    [ids] = tokenizer.encode(["好龘"])
    pieces, stream = feed(tokenizer, [], ids[:-1])
    assert "".join(pieces) == "好"
    assert stream.broken > 0


def test_bytes_that_are_no_text_are_left_out_and_counted(tokenizer: TokenizerFolder) -> None:
    [lone] = tokenizer.encode(["龘"])
    [good] = tokenizer.encode(["好ab"])
    pieces, stream = feed(tokenizer, [], [lone[1], lone[1], *good, lone[0], *good])
    assert "".join(pieces) == "好ab好ab"
    assert stream.broken >= 2


def test_a_prompt_that_ends_in_half_a_character(tokenizer: TokenizerFolder) -> None:
    [ids] = tokenizer.encode(["好龘好"])
    [whole] = tokenizer.encode(["好"])
    cut = len(whole) + 1
    pieces, _ = feed(tokenizer, ids[:cut], ids[cut:])
    assert "".join(pieces).endswith("好") and "\ufffd" not in "".join(pieces)


def write(tokenizer: TokenizerFolder, ids: list[int], *stop: str) -> tuple[list[str], Writing]:
    writing, pieces = Writing(tokenizer, [], stop), list[str]()
    for token in ids:
        pieces.append(writing.push(token))
        if writing.ended:
            break
    pieces.append(writing.finish())
    assert "".join(pieces) == writing.text
    return pieces, writing


def test_a_stop_string_over_several_tokens(tokenizer: TokenizerFolder) -> None:
    """龘 and the smile are three and four tokens each; their text comes with the last, and waits for what follows."""
    [ids] = tokenizer.encode(["ab龘😀c"])
    pieces, writing = write(tokenizer, ids, "龘😀")
    assert writing.ended and writing.text == "ab"
    assert writing.tokens == len(ids) - 1  # ended by the last byte of the smile
    pieces, writing = write(tokenizer, ids, "龘龘", "d")
    assert not writing.ended and writing.text == "ab龘😀c" and writing.tokens == len(ids)
    assert pieces[4] == "" and pieces[8] == "龘😀"  # held back until the smile is whole


def test_a_stop_string_inside_a_token(tokenizer: TokenizerFolder) -> None:
    [ids] = tokenizer.encode(["中国人民"])
    for end in range(1, 4):
        _, writing = write(tokenizer, ids, "中国人民"[end])
        assert writing.ended and writing.text == "中国人民"[:end]


def test_an_unfinished_character_at_the_end_completes_no_stop_string(tokenizer: TokenizerFolder) -> None:
    [ids] = tokenizer.encode(["a龘"])
    _, writing = write(tokenizer, ids[:-1], "a龘")
    assert not writing.ended and writing.text == "a" and writing.broken > 0
