"""What all commands share; the commands themselves are in test_cli.py."""

from __future__ import annotations

import os
from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner

from jielong import console, progress
from jielong.console import JsonOpt, friendly, print_json, take_part, tell
from jielong.errors import InputError, Stopped
from jielong.launch import LAUNCHER


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
    if kind == "requeue":
        saved = Stopped("saved")
        saved.exit_code = 0
        raise saved
    if kind == "peer":
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5\nmore")
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


def test_a_stop_that_is_no_failure() -> None:
    result = CliRunner().invoke(app_of(failing), ["requeue", "--json"])
    assert result.exit_code == 0
    assert orjson.loads(result.stdout) == {"ok": True, "stopped": "saved"} and result.stderr == "\nsaved\n"


def test_a_command_without_a_result_prints_nothing() -> None:
    def nothing(json: JsonOpt = False) -> None:
        return

    assert CliRunner().invoke(app_of(nothing), ["--json"]).stdout == ""


# --------------------------------------------------------------------------------------------- one of several processes


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This process is rank 1 of 2; gives the seconds that it waited."""
    waited: list[float] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console.time, "sleep", waited.append)
    monkeypatch.setattr(progress, "_silent", [])
    monkeypatch.setattr(console, "json_printed", [])
    return waited


@pytest.mark.parametrize(("kind", "status"), [("fine", 0), ("stop", 130), ("requeue", 0)])
def test_another_rank_says_nothing(second: list[float], kind: str, status: int) -> None:
    take_part("train", False)
    result = CliRunner().invoke(app_of(failing), [kind, "--json"])
    assert (result.exit_code, result.output, second) == (status, "", [])
    assert console.json_printed  # nor does main()


def test_another_rank_lets_the_first_speak_and_then_says_which_it_is(second: list[float]) -> None:
    take_part("run", True)
    result = CliRunner().invoke(app_of(failing), ["mistake", "--json"])
    assert (result.exit_code, second) == (2, [console.HEAR_SECONDS])
    assert result.stdout == "" and result.stderr == "error: rank 1: kind: not good, got mistake; give another\n"
    result = CliRunner().invoke(app_of(failing), ["bug"])
    assert isinstance(result.exception, ZeroDivisionError) and len(second) == 2


def test_commands_of_one_process_are_refused_in_several(second: list[float]) -> None:
    with pytest.raises(
        InputError, match="WORLD_SIZE says 2 processes, and data is for one; only train, tune and run are"
    ):
        take_part("data", False)


def test_a_process_that_lost_another_waits_for_word_of_that(
    second: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    result = CliRunner().invoke(app_of(failing), ["peer", "--json"])
    assert (result.exit_code, second) == (2, [console.HEAR_SECONDS])
    assert (
        "cannot go on without the other processes ([gloo/transport/tcp/pair.cc:547] Connection closed" in result.stderr
    )
    assert result.stderr.count("\n") == 1 and orjson.loads(result.stdout)["ok"] is False


def test_alone_such_an_error_is_a_mistake_of_ours() -> None:
    assert isinstance(CliRunner().invoke(app_of(failing), ["peer"]).exception, RuntimeError)


def test_what_our_launcher_started_leaves_the_words_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    for kind, status in (("mistake", 2), ("stop", 130)):
        result = CliRunner().invoke(app_of(failing), [kind, "--json"])
        assert (result.exit_code, result.stderr) == (status, "")
        assert orjson.loads(result.stdout)["ok"] is False
