"""`jielong quantize` from the command line: what it makes, and what it refuses in a sentence. (`evaluate` is in test_cli.py.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from jielong.__main__ import app
from jielong.runs import Run
from tests.quantize.conftest import finished, source

__all__ = ["finished", "source"]  # fixtures


def call(*arguments: object) -> tuple[int, str, Any]:
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)])
    last = result.stdout.strip().splitlines()[-1] if result.stdout.strip() else ""
    return result.exit_code, result.output, orjson.loads(last) if last.startswith("{") else None


def test_a_run_in_fewer_bits(finished: Run, tmp_path: Path) -> None:
    code, said, _ = call("mini", "--runs-dir", finished.root.parent, "--out", tmp_path / "a", "--method", "int4")
    assert code == 0, said
    assert "4 bits a weight in 14 layers" in said and f"jielong generate {tmp_path / 'a'}" in said
    code, _, found = call("mini", "--runs-dir", finished.root.parent, "--out", tmp_path / "b", "--bits", 3, "--method", "rtn", "--leave-out",
                          "*.down_proj", "--asymmetric", "--json")  # fmt: skip
    assert code == 0 and found["ok"]
    assert (found["bits"], found["layers"], found["left_out"]) == (3, 12, 2)


def test_methods_beside_each_other(finished: Run, tmp_path: Path) -> None:
    code, said, _ = call("mini", "--runs-dir", finished.root.parent, "--out", tmp_path / "c", "--compare", "int8,rtn:2:32",
                         "--set", "quantize.compare_tokens=300")  # fmt: skip
    assert code == 0, said
    assert "bits/byte" in said and "rtn:2:32" in said
    assert (tmp_path / "c" / "compare.html").is_file()
    found = orjson.loads((tmp_path / "c" / "compare.json").read_bytes())
    assert [row["name"] for row in found["models"]] == ["full", "int8", "rtn:2:32"]


def test_a_gguf_file(finished: Run, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the extra quant (gguf) is not installed")
    code, said, _ = call("mini", "--runs-dir", finished.root.parent, "--out", tmp_path / "g", "--gguf", "q8_0")
    assert code == 0, said
    assert {path.suffix for path in (tmp_path / "g").iterdir()} == {".gguf", ""}
    assert "ollama create" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--method", "int8"], "--method: quantizes a model, got no --out"),
        (["--compare", "int8"], "--compare: quantizes a model, got no --out"),
        (["--out", "OUT", "--name", "x"], "--name, --fresh: are of a recipe's stage, got --out too"),
        (["--out", "THERE"], "--out: is there already"),
        (["--out", "OUT", "--set", "train.tokens=5"], "--set: with --out only quantize.KEY=VALUE, got train.tokens=5"),
        (
            ["--out", "OUT", "--method", "rtn", "--group-size", "48"],
            "quantize.group_size: does not divide the rows of every matrix, got 48",
        ),
        (["--out", "OUT", "--method", "int7"], "quantize.method: "),
        (["--out", "OUT", "--gguf", "q8_0", "--bits", "4"], "--gguf: is made of the full model"),
    ],
)
def test_mistakes_are_one_sentence(finished: Run, tmp_path: Path, options: list[str], sentence: str) -> None:
    places = {"OUT": str(tmp_path / "out"), "THERE": str(tmp_path)}
    code, said, _ = call("mini", "--runs-dir", finished.root.parent, *(places.get(one, one) for one in options))
    assert code == 2 and sentence in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
