"""What the commands of stages share: arguments as one would write them again, commands for several machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.console import RUNS
from jielong.errors import RecipeError
from jielong.recipe import load
from jielong.running import check_recipe_processes, commands_for, options_of


def test_arguments_are_written_again() -> None:
    found = options_of("tiny", ["a*.txt"], ["train.tokens=5"], Path("elsewhere"), "mine")
    assert found == ["tiny", "--data=a*.txt", "--set=train.tokens=5", "--runs-dir=elsewhere", "--name=mine"]
    assert options_of("tiny", None, None, RUNS, "") == ["tiny"]


def test_commands_for_several_machines_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands_for("tiny", ["tiny"], 2, 4, json=False)
    assert {"torchrun", "deepspeed", "slurm"} <= found["commands"].keys()
    assert "# torchrun: 2 machines with 4 devices each" in capsys.readouterr().out
    commands_for("tiny", ["tiny"], 2, 4, json=True)
    assert capsys.readouterr().out == ""


def test_a_step_that_processes_cannot_divide_is_refused() -> None:
    recipe = load("tiny")
    check_recipe_processes(recipe, 2)
    with pytest.raises(RecipeError, match=r"train.tokens_per_step"):
        check_recipe_processes(recipe, 7)
