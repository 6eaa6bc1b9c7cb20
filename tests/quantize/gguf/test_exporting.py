"""The folder for Ollama: the file and its Modelfile, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import InputError
from jielong.quantize.gguf.exporting import export_folder
from jielong.runs import Run
from tests.model.quantized.folders import rewrite
from tests.quantize.conftest import finished, source

pytest.importorskip("gguf", reason="the extra quant (gguf) is not installed")
__all__ = ["finished", "source"]  # fixtures


def test_a_file_named_after_the_run_and_its_modelfile(finished: Run, source: Path, tmp_path: Path) -> None:
    found = export_folder(source, tmp_path / "out", "q8_0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "mini-q8_0.gguf"]
    assert (
        found["file"] == str(tmp_path / "out" / "mini-q8_0.gguf")
        and Path(found["file"]).stat().st_size == found["bytes"]
    )
    assert "FROM ./mini-q8_0.gguf" in Path(found["modelfile"]).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="--out: is there already"):
        export_folder(source, tmp_path / "out", "f16")


def test_nothing_is_left_of_what_is_refused(source: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(source, tmp_path / "small")
    rewrite(tmp_path / "small", {}, [], {"quant_method": "gptq"})
    with pytest.raises(InputError):
        export_folder(tmp_path / "small", tmp_path / "out", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
