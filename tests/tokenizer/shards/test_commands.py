"""`jielong shards ...` as a user types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from jielong.__main__ import app
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.commands import COMMANDS
from tests.tokenizer.shards.corpus import write_tokenizer

TEXTS = ["中国人民", "\x1b[2J很高兴", "GPT-4 \U0001f600"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerFolder:
    return open_folder(write_tokenizer(tmp_path / "tokenizer"))


def call(*arguments: object, status: int = 0) -> Result:
    result: Result = CliRunner().invoke(app, ["shards", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def as_json(result: Result) -> dict[str, Any]:
    value = orjson.loads(result.stdout.splitlines()[-1])
    assert isinstance(value, dict)
    return value


@pytest.fixture
def shards(tokenizer: TokenizerFolder, tmp_path: Path) -> Path:
    rows = [[*ids, tokenizer.end_id] for ids in tokenizer.encode(TEXTS)]
    np.array([token for row in rows for token in row], "<u2").tofile(tmp_path / "x.bin")
    out = tmp_path / "shards"
    result = as_json(
        call("import", tmp_path / "x.bin", "--tokenizer", tokenizer.path, "--out", out, "--end-id", 0, "--json")
    )
    assert result["ok"] and result["splits"]["train"]["documents"] == 3
    return out


def test_inspect(shards: Path, tokenizer: TokenizerFolder) -> None:
    shown = call("inspect", shards).stdout
    assert "uint16, 330 ids, end-of-text 0" in shown and "train-00000" in shown
    shown = call("inspect", shards, "--document", 0, "--tokenizer", tokenizer.path).stdout
    assert "--- document 0, text, " in shown and "中国人民" in shown and "0:'<|endoftext|>'" in shown
    shown = call("inspect", shards, "--row", 0, "--length", 10_000, "--tokenizer", tokenizer.path).stdout
    assert shown.count("--- document ") == 3 and "\\x1b[2J很高兴" in shown and "\x1b" not in shown
    found = as_json(call("inspect", shards, "--row", 0, "--tokenizer", tokenizer.path, "--json"))
    assert [part["text"] for part in found["parts"]] == TEXTS
    shown = call("inspect", shards, "--document", 0).stdout  # without a tokenizer
    assert "中国人民" not in shown and "ids and pieces" not in shown


def test_verify(shards: Path) -> None:
    assert "every checksum is right" in call("verify", shards).stdout
    path = shards / "train-00000.bin"
    path.write_bytes(b"\x07" + path.read_bytes()[1:])
    assert "its checksum differs" in call("verify", shards, status=2).stderr
    result = call("verify", shards, "--json", status=2)
    assert as_json(result)["ok"] is False and "damaged shard" in as_json(result)["error"]


def test_one_sentence_for_a_mistake(shards: Path, tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    for arguments, message in (
        (("inspect", tmp_path / "no"), "RUN: neither a run with shards nor a shards folder"),
        (("inspect", shards, "--split", "test"), "--split: no split 'test' in"),
        (("inspect", shards, "--document", 99), "--document: no such document, got 99"),
        (("import", tmp_path / "no.bin", "--tokenizer", tokenizer.path, "--out", tmp_path / "o"), "FILE: no such file"),
    ):
        result = call(*arguments, status=2)
        assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    import typer.main

    group = typer.main.get_command(app).commands["shards"]  # type: ignore[attr-defined]
    command = group.commands[name]
    assert command.help
    assert all(getattr(parameter, "help", None) for parameter in command.params)
