"""llama.cpp beside the model, where its binding is there; a stand-in for it where it is not."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from jielong.model.hf import load_folder
from jielong.quantize.gguf.exporting import export_folder
from jielong.quantize.gguf.parity import BEGINNINGS, TOKENS, parity
from jielong.tokenizer.folder import open_folder
from tests.quantize.conftest import finished, source

__all__ = ["finished", "source"]  # fixtures


def test_without_a_binding_nothing_is_said(source: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is not None:
        pytest.skip("a binding of llama.cpp is installed")
    assert parity(source, tmp_path / "x.gguf") is None


def test_tokens_are_counted_to_the_first_that_differs(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in that says what the model says for 5 tokens, and cuts all texts but one as we do."""
    model, tokenizer = load_folder(source).eval(), open_folder(source)

    class Llama:
        def __init__(self, path: str, **given: Any) -> None:
            assert path == str(tmp_path / "x.gguf")

        def tokenize(self, text: bytes, **given: Any) -> list[int]:
            return tokenizer.encode([text.decode()])[0] if b"fox" not in text else [0]

        def generate(self, ids: list[int], **given: Any) -> Iterator[int]:
            row = torch.tensor([ids])
            for number in range(100):
                with torch.no_grad():
                    token = int(model(row)[0, -1].argmax())
                yield token if number < 5 else token + 1
                row = torch.cat([row, torch.tensor([[token]])], dim=1)

    stand_in = ModuleType("llama_cpp")
    stand_in.Llama = Llama  # type: ignore[attr-defined]
    stand_in.__spec__ = importlib.util.spec_from_loader("llama_cpp", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", stand_in)
    found = parity(source, tmp_path / "x.gguf")
    assert found == {
        "texts": len(BEGINNINGS),
        "same_ids": len(BEGINNINGS) - 1,
        "tokens": TOKENS,
        "same_tokens": [5] * len(BEGINNINGS),
    }


@pytest.mark.slow
def test_llama_cpp_itself_says_the_same(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="a binding of llama.cpp, which is built from source")
    found = export_folder(source, tmp_path / "out", "f16")
    assert found["parity"] == {"texts": 3, "same_ids": 3, "tokens": TOKENS, "same_tokens": [TOKENS] * 3}
    assert any(note.startswith("llama.cpp cuts 3 of 3 texts as we do") for note in found["notes"])
