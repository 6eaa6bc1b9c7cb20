"""Quantized folders that transformers opens and we do not read: bitsandbytes, torchao, compressed-tensors and what comes.

The model is opened by transformers, whose quantizers know the layers; then each of its linear layers takes the place of ours of the same name, as it
is. So the arithmetic is the library's own, with its speed and its devices. Dense models of transformers' classes only: experts
are stacked differently there and here.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from jielong.errors import MissingExtraError, ModelError
from jielong.model.frozen import quiet
from jielong.model.quantized.files import described
from jielong.model.transformer import CausalLM

LOGGERS = ("gptqmodel", "bitsandbytes", "torchao", "tokenicer", "optimum", "torch.utils._pytree", "DeepSpeed")
EXTRAS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
}  # quant_method -> the package, which is the extra's name, too


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Without the libraries' banners, bars and warnings; what goes wrong is raised all the same."""
    from transformers.utils import logging as theirs

    library: Any = theirs
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels, before = [logger.level for logger in loggers], library.get_verbosity()
    library.set_verbosity_error()
    library.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        library.set_verbosity(before)
        library.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Foreign:
    """Such a folder while it is read (opening.Opening)."""

    def __init__(self, folder: Path, table: dict[str, Any]) -> None:
        """table: of config.json. Raises ModelError for what transformers does not open, MissingExtraError for a library that is not there."""
        import importlib.util

        given = described(table)
        assert given is not None
        self.folder, self.method = folder, str(given.get("quant_method"))
        if table.get("model_type") == "jielong" or table.get("num_experts") or table.get("num_local_experts"):
            raise ModelError(
                f"{folder}: quantized as {self.method}, which is read for dense models of transformers' classes only; "
                "quantize with int8 or int4 instead"
            )
        package = EXTRAS.get(self.method)
        if package is not None and importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, package, f"to open a model quantized as {self.method}")
        self._model = self._opened()
        self._linear = {
            name: module
            for name, module in self._model.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }

    def _opened(self) -> nn.Module:
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with silently(), torch.random.fork_rng(devices=[]):
                opened: nn.Module = AutoModelForCausalLM.from_pretrained(
                    self.folder, dtype=torch.float32, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:
            raise ModelError(
                f"{self.folder}: transformers cannot open this {self.method} model ({_first(error)}); install what it names, or use another folder"
            ) from None
        quiet()  # LLM.int8 warns in every pass
        return opened.eval()

    def swap(self, model: CausalLM) -> None:
        """Take the linear layers' weights out of a model that has none yet (on the device meta)."""
        for name in self._linear:
            module = model.get_submodule(name)
            module.register_parameter("weight", None)
            module.register_parameter("bias", None)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of what is dense: embedding, norms, output layer."""
        for name, tensor in self._model.state_dict().items():
            if not any(name.startswith(f"{layer}.") for layer in self._linear):
                yield name, tensor

    def place(self, model: CausalLM, state: dict[str, Tensor]) -> None:
        """Put the library's layers into the model."""
        for name, module in self._linear.items():
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module)


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
