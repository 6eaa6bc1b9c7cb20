"""Methods of kept libraries: GPTQ and AWQ by gptqmodel, LLM.int8 and NF4 by bitsandbytes, int8 and 8da4w by torchao.

Each opens the model's Hugging Face folder by itself and saves a folder that transformers opens with the same library; so they take models of
transformers' classes only. gptqmodel and torchao are imported nowhere else.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from jielong.errors import MissingExtraError, ModelError
from jielong.model.config import Config as ModelConfig
from jielong.model.hf_config import reason_for_own_class
from jielong.model.hf_weights import tensors_of, weight_files
from jielong.model.quantized.foreign import silently
from jielong.quantize.config import Config

PACKAGES = {
    "gptq": ("gptqmodel", "quant"), "awq": ("gptqmodel", "quant"), "llm-int8": ("bitsandbytes", "bitsandbytes"),
    "nf4": ("bitsandbytes", "bitsandbytes"), "torchao-int8": ("torchao", "torchao"), "torchao-8da4w": ("torchao", "torchao"),
}  # fmt: skip
TORCHAO_GROUP = 32
ERROR = re.compile(r"\w*(?:Error|Exception)\b")  # how the last line of a traceback begins


def check(config: Config, shape: ModelConfig) -> None:
    """Raises MissingExtraError for a library that is not there, and ModelError for a model that it cannot open."""
    package, extra = PACKAGES[config.method]
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, extra, f'by method "{config.method}"')
    if (reason := reason_for_own_class(shape)) is not None:
        raise ModelError(
            f"quantize.method: {config.method} is made by {package}, which knows classes of transformers only, and {reason}; use int8 or int4"
        )


def in_a_process(work: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process of its own, what it says put aside: gptqmodel ends the whole process where one of its threads fails, and
    fills the terminal with bars. Raises ModelError with the last line of an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        whole = tuple(one.resolve() if isinstance(one, Path) else one for one in arguments)
        child = multiprocessing.get_context("spawn").Process(target=_quietly, args=(log, work, whole))
        child.start()
        try:
            child.join()
        finally:
            if child.is_alive():
                child.kill()
                child.join()
        if child.exitcode:
            lines = [line for line in re.split(r"[\r\n]+", log.read_text("utf-8", "replace")) if ERROR.match(line)]
            raise ModelError(
                f"quantize: the library failed ({' '.join((lines or ['it says no reason'])[-1].split())[:300]}); use another method, or other options"
            )


def _quietly(log: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.chdir(log.parent)  # gptqmodel writes a folder of logs wherever it is
    with log.open("w", encoding="utf-8") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        work(*arguments)


def with_gptqmodel(
    source: Path,
    config: Config,
    group: int,
    bits: dict[str, int],
    left: list[str],
    rows_RT: npt.NDArray[Any],
    out: Path,
) -> None:
    """Write GPTQ's or AWQ's weights and config.json into `out`. bits: of each layer; left: layers that stay whole; rows_RT: calibration."""
    import torch

    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, torch.get_num_threads())))  # fewer than two are refused
    with silently():
        from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

        usual = max(set(bits.values()), key=list(bits.values()).count)
        dynamic: dict[str, Any] = {f"-:^{re.escape(layer)}$": {} for layer in left}
        dynamic |= {f"+:^{re.escape(layer)}$": {"bits": number} for layer, number in bits.items() if number != usual}
        more: dict[str, Any] = {"dynamic": dynamic} if dynamic else {}
        if config.method == "awq":
            more |= {"method": "awq", "format": "gemm"}
        else:
            more |= {"desc_act": config.act_order}
        if config.symmetric is not None:
            more |= {"sym": config.symmetric}
        settings = QuantizeConfig(bits=usual, group_size=group, **more)
        device = "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"
        kind = next(iter(tensors_of(weight_files(source)[0])))[1].dtype  # what is not quantized stays as it is,
        if config.method == "awq" and kind == torch.float32:  # but AWQ's layers know half precision only
            kind = torch.float16
        model = GPTQModel.load(str(source), settings, device=device, dtype=kind)
        texts = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in rows_RT]
        backend = {"backend": BACKEND.TORCH_AWQ} if config.method == "awq" and device == "cpu" else {}
        model.quantize(texts, batch_size=4, **backend)
        model.save(str(out))


def with_transformers(source: Path, config: Config, out: Path) -> None:
    """Write the weights and config.json of bitsandbytes' or torchao's methods into `out`."""
    import torch

    with silently():
        import transformers
        from transformers import AutoModelForCausalLM, TorchAoConfig

        bitsandbytes: Any = transformers.BitsAndBytesConfig
        settings: Any
        if config.method == "llm-int8":
            settings = bitsandbytes(load_in_8bit=True)
        elif config.method == "nf4":
            settings = bitsandbytes(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32,
            )  # fmt: skip
        else:
            from torchao.quantization import Int8DynamicActivationIntxWeightConfig, Int8WeightOnlyConfig
            from torchao.quantization.granularity import PerGroup

            four: Any = getattr(torch, "int4")  # noqa: B009 - torch's stubs do not know it
            settings = TorchAoConfig(
                Int8WeightOnlyConfig()
                if config.method == "torchao-int8"
                else Int8DynamicActivationIntxWeightConfig(
                    weight_dtype=four, weight_granularity=PerGroup(TORCHAO_GROUP)
                )
            )
        model = AutoModelForCausalLM.from_pretrained(
            source, quantization_config=settings, dtype=torch.float32, local_files_only=True
        )
        model.save_pretrained(out)
