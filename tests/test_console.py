"""What all commands share; the commands themselves are in test_cli.py."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner

from jielong.console import JsonOpt, friendly, print_json, tell
from jielong.errors import InputError


def app_of(command: Any) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(friendly(command))
    return app


def failing(kind: str, json: JsonOpt = False) -> dict[str, Any]:
    if kind == "mistake":
        raise InputError("kind: not good, got mistake; give another")
    if kind == "missing":
        raise FileNotFoundError(2, "No such file or directory", "nowhere.txt")
    if kind == "stop":
        raise KeyboardInterrupt("stopped after step 3")
    if kind == "bug":
        raise ZeroDivisionError
    return {"kind": kind}


def test_a_result_is_one_json_object_when_it_is_asked_for() -> None:
    result = CliRunner().invoke(app_of(failing), ["fine", "--json"])
    assert result.exit_code == 0 and orjson.loads(result.stdout) == {"ok": True, "kind": "fine"}
    assert CliRunner().invoke(app_of(failing), ["fine"]).stdout == ""


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        ("mistake", 2, "kind: not good, got mistake; give another"),
        ("missing", 2, "nowhere.txt"),
        ("stop", 130, "stopped after step 3"),
    ],
)
def test_a_mistake_is_one_sentence(kind: str, status: int, message: str) -> None:
    result = CliRunner().invoke(app_of(failing), [kind, "--json"])
    assert result.exit_code == status
    found = orjson.loads(result.stdout.splitlines()[-1])
    assert found["ok"] is False and message in found["error"]
    assert message in result.stderr and "Traceback" not in result.output


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    result = CliRunner().invoke(app_of(failing), ["bug"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"名": "接龙"})
    tell("\x1b[2J接龙", end="")
    assert capsys.readouterr().out == '{"名":"接龙"}\n\\x1b[2J接龙'  # what would clear a terminal is spelled out
