"""The list of --compare: methods with numbers, folders, and what is neither."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jielong.errors import InputError, RecipeError
from jielong.quantize.comparing import compare, entries
from jielong.quantize.config import Config
from tests.corpus import texts, write_jsonl


def test_entries_are_methods_and_folders(source: Path) -> None:
    found = entries(f"int8, gptq:3,rtn:4:64,{source}", {"symmetric": True, "leave_out": ["*.down_proj"]})
    assert list(found) == ["int8", "gptq:3", "rtn:4:64", source.name]
    gptq, rtn = found["gptq:3"], found["rtn:4:64"]
    assert isinstance(gptq, Config) and isinstance(rtn, Config)
    assert (gptq.bits, gptq.symmetric, gptq.leave_out) == (3, True, ("*.down_proj",))
    assert (rtn.bits, rtn.group_size) == (4, 64)
    assert found[source.name] == source


def test_what_only_others_know_is_left_away() -> None:
    found = entries("nf4,gptq", {"bits": 3, "group_size": 64, "act_order": True})
    nf4, gptq = found["nf4"], found["gptq"]
    assert isinstance(nf4, Config) and isinstance(gptq, Config)
    assert (nf4.bits, nf4.group_size, nf4.act_order) == (None, None, False)
    assert (gptq.bits, gptq.group_size, gptq.act_order) == (3, 64, True)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("int9", "neither a method nor a model's folder, got 'int9'"),
        ("rtn:x", "a method is METHOD, METHOD:BITS or"),
        (" , ", "names nothing"),
    ],
)
def test_what_is_neither_is_said(wanted: str, said: str) -> None:
    with pytest.raises(InputError, match=f"--compare: {said}"):
        entries(wanted, {})
    with pytest.raises(RecipeError, match=r"quantize.bits: "):
        entries("int8:4", {})


def test_all_are_made_and_measured_beside_the_full_one(source: Path, tmp_path: Path) -> None:
    def measure(models: dict[str, Path], text: Any, folder: Path, tokens: int) -> dict[str, Any]:
        return {"models": {name: (path / "config.json").is_file() for name, path in models.items()}, "folder": folder}

    found = compare("mini", source, "int8,rtn:3", {}, tmp_path / "out", tmp_path, measure)
    assert found["models"] == {"full": True, "int8": True, "rtn:3": True}
    assert (tmp_path / "out" / "rtn-3" / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing hidden is left
    shutil.copytree(source, tmp_path / "full")
    assert list(entries(str(tmp_path / "full"), {})) == [str(tmp_path / "full")]  # that name is taken
    shutil.copytree(source, tmp_path / "alone")
    with pytest.raises(InputError, match="--calibration: x lies in no run that held text out"):
        compare("x", tmp_path / "alone", "int8", {}, tmp_path / "other", tmp_path, measure)
    file = str(write_jsonl(tmp_path / "a.jsonl", texts(9)))
    with pytest.raises(InputError, match="trained on all of the text that is given leaves none to measure on"):
        compare("x", tmp_path / "alone", "onebit", {"calibration": [file]}, tmp_path / "other", tmp_path, measure)
    assert not (tmp_path / "other").exists()
