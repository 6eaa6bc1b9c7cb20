"""Bits per byte against length: by hand, against a slow twin, and what is chosen to be measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jielong.errors import DataError, InputError
from jielong.evaluate import lengths as module
from jielong.evaluate.lengths import (
    WINDOWS_A_DOCUMENT,
    Window,
    choose_windows,
    documents_of,
    evaluate_lengths,
    measure_model,
    parse_lengths,
    parse_scaling,
    run_shards,
    scheme_name,
    texts_of,
    tokenised,
    window_nats,
    with_scaling,
)
from jielong.evaluate.passkey import start_of
from jielong.model.config import Config, RopeScaling
from jielong.model.hf import save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from tests.corpus import texts, write_jsonl


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(texts(30), 300, TokenizerConfig().specials, 2, True), folder)
    return open_folder(folder)


def fresh(tokenizer: TokenizerFolder, **options: Any) -> CausalLM:
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                             "max_position_embeddings": 32, "initializer_range": 0.3}  # fmt: skip
    model = CausalLM(Config.model_validate({"vocab_size": tokenizer.size, **shape, **options}))
    initialise(model, 1)
    return model.eval()


def long_texts(count: int, parts: int = 10) -> list[str]:
    rows = texts(count * parts)
    return ["".join(rows[n * parts : (n + 1) * parts]) for n in range(count)]


# ------------------------------------------------------------------------------------------------------ windows


def test_every_target_is_whole_characters_and_its_bytes_are_the_text_s(tokenizer: TokenizerFolder) -> None:
    """Nearly all characters are cut into bytes (300 tokens), so that bounds have to move; 𝄞 needs four."""
    rows = ["𝄞龘靐" * 30 + text for text in long_texts(6)]
    found = choose_windows(tokenised(rows, tokenizer), tokenizer, (64, 16), 100, 1)
    assert len(found.chosen) > 6 and found.target == 8
    assert any(window.target > 8 for window in found.chosen)
    for window in found.chosen:
        assert len(window.ids) == 64 and 8 <= window.target < 8 + module.CLEAN_TRIES
        target = tokenizer.decode(window.ids[-window.target :].tolist())
        assert "\ufffd" not in target and any(target in row for row in rows)
        assert window.bytes == len(target.encode("utf-8"))


def test_short_documents_have_no_place_and_long_ones_a_limited_one(tokenizer: TokenizerFolder) -> None:
    rows = [*long_texts(2, 20), *texts(5)]
    sizes = [len(ids) for ids in tokenizer.encode(rows)]
    found = choose_windows(tokenised(rows, tokenizer), tokenizer, [sizes[2] + 40], 100, 1)
    assert (found.documents, found.long_documents, found.longest_document) == (7, 2, max(sizes))
    assert len(found.chosen) == 2 * WINDOWS_A_DOCUMENT
    exact = choose_windows([np.asarray(tokenizer.encode(rows[:1])[0])], tokenizer, [sizes[0]], 100, 1)
    assert len(exact.chosen) == 1  # exactly as long as the longest length
    assert choose_windows([np.asarray(tokenizer.encode(rows[:1])[0])], tokenizer, [sizes[0] + 1], 100, 1).chosen == []


def test_the_draw_is_by_seed_and_from_all(tokenizer: TokenizerFolder) -> None:
    rows = long_texts(40)

    def drawn(seed: int) -> set[bytes]:
        found = choose_windows(tokenised(rows, tokenizer), tokenizer, [64], 10, seed)
        return {window.ids.tobytes() for window in found.chosen}

    assert drawn(1) == drawn(1) != drawn(2)
    every = [drawn(seed) for seed in range(20)]
    assert all(len(one) == 10 for one in every)
    assert len(set().union(*every)) > 100  # of 160: the end of the stream is reached as well as its beginning


def test_shards_and_texts_give_the_same_documents(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    rows = texts(5)
    for scheme in (Scheme(tokenizer.size, tokenizer.end_id), Scheme(tokenizer.size, tokenizer.end_id, 2, closes=False)):
        folder = tmp_path / str(scheme.closes)
        with ShardWriter(folder, "text", scheme, 10**6) as writer:
            writer.add(rows, tokenizer.encode(rows))
        write_manifest(folder, scheme, {"text": writer.summary()})
        stored = [ids.tolist() for ids in documents_of(Shards(folder, "text"))]
        assert stored == [ids.tolist() for ids in tokenised(rows, tokenizer)] == tokenizer.encode(rows)
    assert list(texts_of([str(write_jsonl(tmp_path / "x.jsonl", rows))])) == rows


def test_the_shards_of_a_run(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "train" / "checkpoints" / "step-3"
    checkpoint.mkdir(parents=True)
    assert run_shards(checkpoint) is None and run_shards(tmp_path) is None
    scheme, folder = Scheme(tokenizer.size, tokenizer.end_id), tmp_path / "run" / "tokenizer" / "shards"
    with ShardWriter(folder, "validation", scheme, 10**6) as writer:
        writer.add(["a"], [[5]])
    write_manifest(folder, scheme, {"validation": writer.summary()})
    opened = run_shards(checkpoint)
    assert opened is not None and opened.documents == 1


# ----------------------------------------------------------------------------------------------------- measures


KINDS: dict[str, dict[str, Any]] = {
    "rope": {}, "alibi": {"position": "alibi"}, "window": {"sliding_window": 5},
    "dynamic": {"max_position_embeddings": 128, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "clex": {"max_position_embeddings": 128, "rope_scaling": {"rope_type": "clex", "factor": 4.0}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_is_one_pass_over_that_many_tokens(tokenizer: TokenizerFolder, kind: str) -> None:
    """The slow twin: the last tokens of the stretch in one pass without a cache, the first of them made the start token."""
    model = fresh(tokenizer, **KINDS[kind])
    [window] = choose_windows(tokenised(long_texts(1), tokenizer), tokenizer, (100, 16), 1, 1).chosen
    for length in (16, 50, 100):
        ids = window.ids[-length:].tolist()
        labels = torch.full((1, length), -100)
        labels[0, -window.target :] = torch.tensor(ids[-window.target :])
        with torch.no_grad():
            expected = float(model.loss_sum(torch.tensor([[start_of(tokenizer), *ids[:-1]]]), labels, None, None))
        assert window_nats(model, window, length, start_of(tokenizer)) == pytest.approx(expected, rel=1e-4)


def test_a_uniform_model_by_hand(tokenizer: TokenizerFolder) -> None:
    """All weights zero: every token costs log2(vocabulary) bits at every length, and nothing changes, without error."""
    model = fresh(tokenizer).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = evaluate_lengths(model, tokenizer, [40, 16], tokenised(long_texts(4), tokenizer), trials=1)
    assert model.training and found["lengths"] == [16, 40] and found["trained_length"] == 32
    text, [scheme] = found["text"], found["schemes"]
    assert text["windows"] == 16 and text["long_documents"] == text["documents"] == 4
    for row in scheme["rows"]:
        assert row["bits_per_byte"] == pytest.approx(text["target_tokens"] * math.log2(tokenizer.size) / text["bytes"])
        assert row["loss"] == pytest.approx(math.log(tokenizer.size))
        assert row["change"] == pytest.approx(0.0, abs=1e-7) and row["change_error"] == pytest.approx(0.0, abs=1e-7)
    assert [row["beyond"] for row in scheme["rows"]] == [False, True]
    assert all(row["passkey"] is None for row in scheme["rows"])  # 40 tokens have no room for it


def test_change_and_error_by_hand() -> None:
    """Two stretches of 4 and 12 bytes fall by 8 and 8 bits: change -16/16 = -1. The rests -8 + 4 and -8 + 12 are -4 and 4, their
    deviation is sqrt(32), the error sqrt(32) sqrt(2) / 16 = 0.5."""
    windows = [Window(np.zeros(8, dtype=np.int64), 2, size) for size in (4, 12)]
    bit = math.log(2)
    found = module._bits(windows, [2 * bit, 6 * bit], [10 * bit, 14 * bit])
    assert found["bits_per_byte"] == pytest.approx(8 / 16) and found["loss"] == pytest.approx(8 * bit / 4)
    assert found["change"] == pytest.approx(-1.0) and found["change_error"] == pytest.approx(0.5)
    assert module._bits(windows[:1], [1.0], [1.0])["change_error"] is None
    assert set(module._bits([], [], []).values()) == {None}


def test_no_document_is_long_enough(tokenizer: TokenizerFolder) -> None:
    found = evaluate_lengths(fresh(tokenizer), tokenizer, [16, 5000], tokenised(texts(2), tokenizer), trials=0)
    assert found["text"]["windows"] == found["text"]["long_documents"] == 0 and found["text"]["longest_document"] > 50
    assert all(row["bits_per_byte"] is None for row in found["schemes"][0]["rows"])


def test_schemes_are_measured_one_after_another(tokenizer: TokenizerFolder) -> None:
    """A passkey that fits, in two schemes: the numbers of each are those it has alone, and differ beyond the trained length."""
    model, linear = fresh(tokenizer), RopeScaling(rope_type="linear", factor=8)
    found = evaluate_lengths(model, tokenizer, [16, 256], tokenised(long_texts(4), tokenizer), [linear], 4, 1)
    assert [one["name"] for one in found["schemes"]] == ["rope", "linear:8"]
    alone = evaluate_lengths(
        with_scaling(model, linear), tokenizer, [16, 256], tokenised(long_texts(4), tokenizer), (), 4, 1
    )
    plain, scaled = (one["rows"] for one in found["schemes"])
    for mine, theirs in zip(scaled, alone["schemes"][0]["rows"], strict=True):
        assert mine["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], rel=1e-6)
        assert mine["passkey"] == theirs["passkey"]
    assert plain[1]["bits_per_byte"] != scaled[1]["bits_per_byte"]
    assert plain[0]["passkey"] is None and plain[1]["passkey"]["prompts"] == 3
    assert found["passkey"] == {"trials": 1, "depths": [10, 50, 90], "candidates": 10, "chance": 0.1}


def test_a_model_by_its_name(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    """A folder of no run: the passkey alone, or the documents that are given."""
    save_folder(fresh(tokenizer), tmp_path / "m", tokenizer.end_id)
    copy_folder(tokenizer, tmp_path / "m")
    bare = measure_model(str(tmp_path / "m"), tmp_path, [16, 256])
    assert bare["model"] == str(tmp_path / "m") and bare["text"]["documents"] == 0
    assert bare["schemes"][0]["rows"][1]["passkey"]["prompts"] == 15
    rows = long_texts(3)
    found = measure_model(str(tmp_path / "m"), tmp_path, [16, 64], [str(write_jsonl(tmp_path / "x.jsonl", rows))])
    again = evaluate_lengths(fresh(tokenizer), tokenizer, [16, 64], tokenised(rows, tokenizer))
    assert found["text"] == again["text"] and found["text"]["documents"] == 3
    assert found["schemes"][0]["rows"][1]["loss"] == pytest.approx(again["schemes"][0]["rows"][1]["loss"], rel=1e-5)
    (tmp_path / "bad.jsonl").write_bytes(b"{\n")
    with pytest.raises(DataError, match="--data: no readable document"):
        measure_model(str(tmp_path / "m"), tmp_path, [16], [str(tmp_path / "bad.jsonl")])


# ------------------------------------------------------------------------------------------------------ scaling


@pytest.mark.parametrize("kind", ["linear", "ntk", "dynamic", "yarn", "llama3"])
@pytest.mark.parametrize("tied", [True, False])
def test_scaling_is_put_on_the_same_weights(tokenizer: TokenizerFolder, kind: Any, tied: bool) -> None:
    model = fresh(tokenizer, tie_word_embeddings=tied)
    twin = with_scaling(model, RopeScaling(rope_type=kind, factor=4))
    assert twin.config.max_position_embeddings == 128 and twin.config.original_length == 32
    assert model.config.rope_scaling is None and not twin.training
    own = fresh(
        tokenizer, tie_word_embeddings=tied, max_position_embeddings=128, rope_scaling={"rope_type": kind, "factor": 4}
    )
    ids = torch.randint(0, tokenizer.size, (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(twin(ids), own(ids)) and not torch.allclose(twin(ids), model(ids))
    shared = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in shared for p in twin.parameters())
    again = with_scaling(twin, RopeScaling(rope_type="linear", factor=2))  # the trained length stays
    assert again.config.original_length == 32 and again.config.max_position_embeddings == 64


def test_scaling_of_a_model_with_clex_drops_its_network(tokenizer: TokenizerFolder) -> None:
    model = fresh(tokenizer, **KINDS["clex"])
    twin = with_scaling(model, RopeScaling(rope_type="yarn", factor=4))
    assert not any("frequencies" in name for name in twin.state_dict()) and scheme_name(twin.config) == "yarn:4"


def test_scaling_that_cannot_be(tokenizer: TokenizerFolder) -> None:
    with pytest.raises(InputError, match="clex is learned"):
        with_scaling(fresh(tokenizer), RopeScaling(rope_type="clex", factor=4))
    with pytest.raises(InputError, match="rope_scaling: only for position = rope"):
        with_scaling(fresh(tokenizer, position="alibi"), RopeScaling(rope_type="yarn", factor=4))


def test_options_from_the_command_line() -> None:
    assert parse_lengths("512, 256,512") == [256, 512]
    for text in ("", "a", "256,", "8", "-5", "1.5"):
        with pytest.raises(InputError, match="--context-lengths: not a list of lengths, got"):
            parse_lengths(text)
    assert parse_scaling("yarn:2.5").factor == 2.5
    for text in ("yarn", "yarn:", "yarn:x", "yarn:0.5", "yarn:nan", "yarn:inf", "clex:4", "what:4", ":4"):
        with pytest.raises(InputError, match="--rope-scaling: not TYPE:FACTOR, got"):
            parse_scaling(text)


def test_names_of_schemes() -> None:
    assert [scheme_name(Config(position=p)) for p in ("rope", "alibi", "none")] == ["rope", "alibi", "none"]
    assert scheme_name(Config(rope_scaling=RopeScaling(rope_type="ntk", factor=2.5))) == "ntk:2.5"
