"""Every engine has what the interface asks for, under the same names and with the same arguments."""

from __future__ import annotations

import inspect

import pytest

from jielong.train.engines.interface import Engine
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.engines.zero import DeepSpeedEngine

METHODS = [name for name, value in vars(Engine).items() if inspect.isfunction(value) and not name.startswith("_")]


@pytest.mark.parametrize("kind", [TorchEngine, DeepSpeedEngine])
@pytest.mark.parametrize("method", METHODS)
def test_an_engine_has_it(kind: type, method: str) -> None:
    asked = inspect.signature(getattr(Engine, method)).parameters
    given = inspect.signature(getattr(kind, method)).parameters
    assert list(asked) == list(given)


def test_the_interface_is_not_empty() -> None:
    assert {"forward", "backward", "step", "snapshot", "load", "whole"} <= set(METHODS)
