"""A folder for llama.cpp and Ollama: the GGUF file, and beside it the Modelfile that `ollama create` takes.

Where llama.cpp's Python binding is installed, the file is opened there at once, and what it says is compared with what the model says.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from jielong.errors import InputError
from jielong.quantize.gguf.modelfile import modelfile
from jielong.quantize.gguf.parity import parity
from jielong.quantize.gguf.writing import export
from jielong.quantize.text import run_of
from jielong.runs import publish, write_text

MODELFILE = "Modelfile"


def export_folder(source: Path, out: Path, kind: str) -> dict[str, Any]:
    """Write a model as `out`/NAME-KIND.gguf and `out`/Modelfile; returns what `export` does, and the `parity` with llama.cpp (None: not
    installed). `out` must not be there, and appears whole.

    NAME: of the run that the model lies in, or of its folder. Raises what `export` raises.
    """
    if out.exists():
        raise InputError(f"--out: is there already, got {out}; give a new folder, or delete it")
    run = run_of(source)
    name = f"{(run or source.resolve()).name}-{kind}.gguf"
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        found = export(source, partial / name, kind)
        write_text(partial / MODELFILE, modelfile(source, name))
        compared = parity(source, partial / name)
        publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if compared is not None:
        found["notes"].append(
            f"llama.cpp cuts {compared['same_ids']} of {compared['texts']} texts as we do, and continues them greedily as the model does for "
            f"{', '.join(map(str, compared['same_tokens']))} of {compared['tokens']} tokens"
        )
    return found | {"file": str(out / name), "modelfile": str(out / MODELFILE), "parity": compared}
