"""`jielong chat` as it is started: scripts with files, pipes and JSON, and a terminal."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from rich.cells import cell_len
from typer.testing import CliRunner

from jielong.__main__ import app
from jielong.infer.chat import speaking
from jielong.tokenizer.chat.conversations import parse
from tests.infer.chat.test_columns import screen

COMMON = ("--max-new-tokens", 8, "--device", "cpu")


def call(*arguments: object, status: int = 0, typed: str | None = None) -> Result:
    result: Result = CliRunner().invoke(app, ["chat", *map(str, (*arguments, *COMMON))], input=typed)
    assert result.exit_code == status, result.output
    return result


def chats(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(result.stdout)["chats"]
    return found


def test_piped_questions_are_answered_one_after_the_other(chat_folder: Path) -> None:
    result = call(chat_folder, "--json", typed="今天天气怎么样？\n北京\\\n上海呢？\n\n不问\n")
    [chat] = chats(result)
    assert chat["model"] == str(chat_folder)
    assert [row["role"] for row in chat["messages"]] == ["user", "assistant"] * 2
    assert [row["content"] for row in chat["messages"][::2]] == ["今天天气怎么样？", "北京\n上海呢？"]
    plain = call(chat_folder, typed="今天天气怎么样？\n北京\\\n上海呢？\n")
    assert plain.stdout == "".join(row["content"] + "\n" for row in chat["messages"][1::2])
    assert "> 今天天气怎么样？\n" in plain.stderr and ">" not in plain.stdout.replace("".join(TEXTS(chat)), "")


def TEXTS(chat: dict[str, Any]) -> list[str]:  # noqa: N802
    return [row["content"] for row in chat["messages"][1::2]]


def test_a_file_of_questions_with_commands(chat_folder: Path, tmp_path: Path) -> None:
    questions, saved = tmp_path / "questions.txt", tmp_path / "chat.jsonl"
    questions.write_text("天气\n\n/undo\n北京呢？\n/hlep\n什么是<|im_end|>？\n//上海\n", encoding="utf-8")
    result = call(chat_folder, "--file", questions, "--system", "说话简短。", "--save", saved, "--json")
    [chat] = chats(result)
    assert [row["content"] for row in chat["messages"]][:2] == ["说话简短。", "北京呢？"]
    assert chat["messages"][3] == {"role": "user", "content": "/上海"} and len(chat["messages"]) == 5
    [line] = saved.read_bytes().splitlines()
    assert orjson.loads(line) == {"messages": chat["messages"]} == parse(orjson.loads(line)).to_json()
    assert "did you mean /help?" in result.stderr and "spells a special token" in result.stderr
    call(chat_folder, "--file", questions, "--save", saved)
    assert len(saved.read_bytes().splitlines()) == 2


def test_two_models_without_a_terminal(chat_folder: Path, other_folder: Path, tmp_path: Path) -> None:
    typed = "天气\n北京呢？\n"
    alone = [chats(call(folder, "--json", typed=typed))[0] for folder in (chat_folder, other_folder)]
    assert chats(call(chat_folder, "--versus", other_folder, "--json", typed=typed)) == alone
    shown = call(chat_folder, "--versus", other_folder, "--save", tmp_path / "both.jsonl", typed=typed).stdout
    first, second = (TEXTS(chat) for chat in alone)
    assert shown == "".join(
        f"【{chat_folder}】\n{one}\n【{other_folder}】\n{other}\n" for one, other in zip(first, second, strict=True)
    )
    rows = [orjson.loads(line) for line in (tmp_path / "both.jsonl").read_bytes().splitlines()]
    assert rows == [{"model": chat["model"], "messages": chat["messages"]} for chat in alone]


def test_texts_are_continued_as_before(chat_folder: Path) -> None:
    result = call(chat_folder, "--continue", "--json", typed="今天\n北京\n")
    [chat] = chats(result)
    shown = call(chat_folder, "--continue", typed="今天\n北京\n").stdout
    assert shown == "".join(f"{row['prompt']}{row['text']}\n" for row in chat["continuations"])
    assert [row["prompt"] for row in chat["continuations"]] == ["今天", "北京"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--continue", "--system", "简短"], "--system: only where turns are taken"),
        (
            ["--continue", "--save", "chat.jsonl"],
            "--save: only where turns are taken, got chat.jsonl; leave it out, or add --chat",
        ),
        (["--save", "nowhere/chat.jsonl"], "--save: its folder does not exist"),
        (["--file", "nothing.txt"], "nothing.txt does not exist"),
        (["--versus", "nothing"], "MODEL: neither a run nor a model folder, got 'nothing'"),
        (["--system", "<|im_end|>"], "system: spells a special token"),
        (["--cache", "hidden"], "infer.cache: hidden"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], message: str, chat_folder: Path) -> None:
    result = call(chat_folder, *options, status=2, typed="天气\n")
    assert message in result.stderr and "Traceback" not in result.output and result.stdout == ""


def test_ctrl_c_in_a_script_saves_what_was_said(
    chat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun = speaking.stream_text, list[int]()

    def interrupted(*arguments: Any) -> Iterator[str]:
        begun.append(1)
        for number, piece in enumerate(real(*arguments)):
            if len(begun) == 2 and number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(speaking, "stream_text", lambda *arguments: (piece for piece in interrupted(*arguments)))
    call(chat_folder, "--save", tmp_path / "chat.jsonl", status=130, typed="天气\n北京\n上海\n")
    messages = orjson.loads((tmp_path / "chat.jsonl").read_bytes())["messages"]
    assert [row["content"] for row in messages[::2]] == ["天气", "北京"] and messages[-1]["content"]


# --------------------------------------------------------------------------------------------------- a terminal

WIDTH = 100
# a program started so has the pseudo-terminal for its own: Ctrl-C reaches it
START = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is ignored
sys.argv = ["jielong", *sys.argv[1:]]
from jielong.__main__ import main
main()
"""


class Terminal:
    """A pseudo-terminal with `jielong chat` in it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.master, self.process, self.seen = master, process, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def wait_for(self, pattern: str, seconds: float = 120.0) -> str:
        """What is shown up to a pattern; what comes after it is kept for the next time."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            assert time.monotonic() < until, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += self._decoder.decode(os.read(self.master, 4096))
                except OSError:  # the other end is closed
                    assert re.search(pattern, self.seen, re.DOTALL), self.seen
        text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", START, "chat", *map(str, arguments), "--device", "cpu"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env=environment | {"TERM": "dumb", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_chat_in_a_terminal(chat_folder: Path, tmp_path: Path) -> None:
    """Typing Chinese, a command, Ctrl-C in an answer without end, and Ctrl-C at the prompt."""
    endless = ("--cache", "rolling", "--max-new-tokens", 1_000_000)
    with terminal(chat_folder, *endless, "--save", tmp_path / "chat.jsonl") as shell:
        shell.wait_for("write a message, press Enter.*> $")
        shell.type("今天天气怎么样？\n")
        shell.wait_for("今天天气怎么样？\r\n.{30}")
        shell.type("\x03")
        shell.wait_for(r"\[stopped\]\r\n> $")
        shell.type("/histry\n")
        shell.wait_for(r"did you mean /history\?.*> $")
        time.sleep(0.5)  # readline misses a signal that comes between showing the sign and waiting for a key
        shell.type("\x03")
        shell.wait_for("1 conversation written")
        assert shell.process.wait(60) == 0
    question, answer = orjson.loads((tmp_path / "chat.jsonl").read_bytes())["messages"]
    assert question["content"] == "今天天气怎么样？" and len(answer["content"]) > 5


def test_two_columns_in_a_terminal(chat_folder: Path, other_folder: Path) -> None:
    with terminal(chat_folder, "--versus", other_folder, "--max-new-tokens", 60, "--json") as shell:
        shell.wait_for("write a message, press Enter.*> $")
        shell.type("今天天气怎么样？\n")
        shown = shell.wait_for(r"今天天气怎么样？\r\n.*\r\n> $").split("今天天气怎么样？\r\n", 1)[1]
        shell.type("\n")
        end = shell.wait_for(r"\}\]\}\r\n")
        assert shell.process.wait(60) == 0
    both = orjson.loads(end[end.index('{"ok"') :])["chats"]
    rows = [row for row in screen(shown.replace("\r\n", "\n")) if "│" in row]
    assert len(rows) > 2 and len({cell_len(row) for row in rows}) == 1
    assert {cell_len(row[: row.index(" │ ")]) for row in rows} == {(WIDTH - 6) // 2}
    for side, chat in enumerate(both):
        text = "".join(row.split(" │ ")[side].rstrip() for row in rows[1:])
        assert text.replace(" ", "") == re.sub(r"\s", "", chat["messages"][1]["content"]) or "\\x" in text
