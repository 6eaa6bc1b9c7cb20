"""`jielong quantize MODEL --compare A,B,...`: each method made, and all of them measured beside the full model.

An entry is a method, with bits and group where wanted (`gptq:3`, `rtn:4:64`), or the folder of a model that is there already. What the table says
beside the method (calibration text, layers left out) holds for every entry that knows it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

from jielong.errors import InputError, RecipeError
from jielong.model.hf_config import read_config
from jielong.quantize.config import DISTILLED, Config, Method, with_options
from jielong.quantize.making import Material, check, make
from jielong.quantize.running import Compare, texts_for, tokenizer_of
from jielong.runs import publish

SEED = 1
FULL = "full"  # the name of what all are compared with


def entries(wanted: str, table: dict[str, Any]) -> dict[str, Config | Path]:
    """What is compared, by name. Raises InputError for an entry that is neither a method nor a model's folder."""
    found: dict[str, Config | Path] = {}
    for text in filter(None, (part.strip() for part in wanted.split(","))):
        name, *numbers = text.split(":")
        if name in get_args(Method):
            if len(numbers) > 2 or not all(number.lstrip("-").isdigit() for number in numbers):
                raise InputError(
                    f"--compare: a method is METHOD, METHOD:BITS or METHOD:BITS:GROUP, got {text!r}; write it so"
                )
            given = {key: int(number) for key, number in zip(("bits", "group_size"), numbers, strict=False)}
            found[text] = _config(name, table, given)
        elif (Path(text).expanduser() / "config.json").is_file():
            place = Path(text).expanduser()
            found[text if place.name in (*found, FULL, "") else place.name] = place
        else:
            raise InputError(
                f"--compare: neither a method nor a model's folder, got {text!r}; methods are {', '.join(get_args(Method))}"
            )
    if not found:
        raise InputError("--compare: names nothing, got an empty list; give methods, for example int8,int4")
    return found


def _config(method: str, table: dict[str, Any], given: dict[str, int]) -> Config:
    """The table for a method, without what only others know."""
    whole = {**table, **given, "method": method}
    try:
        return with_options(whole)
    except RecipeError:
        for key in ("bits", "group_size", "symmetric", "act_order", "leave_out", "average_bits"):
            if key in whole and key not in given:
                try:
                    with_options({"method": method, key: whole[key]})
                except RecipeError:
                    del whole[key]
        return with_options(whole)


def compare(
    target: str, source: Path, wanted: str, table: dict[str, Any], out: Path, runs_dir: Path, measure: Compare,
) -> dict[str, Any]:  # fmt: skip
    """Make what is wanted below `out`, measure everything beside `source`; returns what was found.

    Raises InputError where there is no text to measure on, before anything is written.
    """
    listed = entries(wanted, table)
    tokenizer = tokenizer_of(source)
    text = with_options(
        {key: table[key] for key in ("calibration", "calibration_tokens", "compare_tokens") if key in table}
    )
    trained = any(isinstance(one, Config) and one.method in DISTILLED and one.distilled for one in listed.values())
    with texts_for(text, source, tokenizer, trained) as texts:
        for config in listed.values():
            if isinstance(config, Config):
                check(config, source, texts.calibration is not None)
            else:
                read_config(config)
        if texts.measured is None:
            raise InputError(
                f"--calibration: {target} lies in no run that held text out, so there is nothing to measure on; give text: --calibration FILE"
                if texts.calibration is None
                else "--compare: a model that is trained on all of the text that is given leaves none to measure on; leave onebit and bitnet out"
            )
        models, partial = {FULL: source}, out.with_name(f".{out.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name, config in listed.items():
            if isinstance(config, Path):
                models[name] = config
                continue
            work = out.with_name(
                f".{out.name}.{name.replace(':', '-')}.work"
            )  # a training that is broken off goes on there
            models[name] = partial / name.replace(":", "-")
            make(config, Material(source, tokenizer, texts.calibration, texts.training, work, SEED), models[name])
            shutil.rmtree(work, ignore_errors=True)
        found = measure(models, texts.measured, partial, text.compare_tokens)
        publish(partial, out)
        return found
