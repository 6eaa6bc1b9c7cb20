"""`jielong judge`: answers in batches are those of single prompts, both models are asked the same, and mistakes are one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from jielong.console import friendly
from jielong.errors import InputError
from jielong.infer.chat.opening import Opened, open_all
from jielong.infer.chat.speaking import Speaker
from jielong.infer.config import Config
from jielong.infer.judging import (
    COMMANDS,
    Question,
    answer_together,
    columns_of,
    ends_of,
    ids_of,
    judge_models,
    open_judge,
    read_questions,
    speaker_of,
    summary,
)
from jielong.model.heads import as_scored
from tests.infer.chat.conftest import make_folder

RECORDS: list[dict[str, Any]] = [
    {"prompt": "今天天气怎么样？", "level": 1},
    {"messages": [{"role": "user", "content": "北京"}, {"role": "assistant", "content": "很好"}, {"role": "user", "content": "上海呢？"}]},
    {"instruction": "说话简短", "input": "谢谢", "output": "不用谢。", "level": 3},
    {"prompt": [{"role": "system", "content": "简短"}, {"role": "user", "content": "天气"}]},
]  # fmt: skip
OPTIONS = {"max_new_tokens": 8, "temperature": 0.0, "device": "cpu"}
LONGER = "def better(completions, **columns):\n    return [len(text) for text in completions]\n"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that take turns; what they write is Chinese."""
    return make_folder(tmp_path_factory.mktemp("a"), 1), make_folder(tmp_path_factory.mktemp("b"), 2)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS), encoding="utf-8")
    return path


@pytest.fixture
def by(tmp_path: Path) -> str:
    (tmp_path / "judge.py").write_text(LONGER, encoding="utf-8")
    return f"{tmp_path / 'judge.py'}:better"


def call(*arguments: object, status: int = 0) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    for name, (function, help_text) in COMMANDS.items():
        app.command(name=name, help=help_text)(friendly(function))
    result: Result = CliRunner().invoke(app, ["judge", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def as_checkpoint(folder: Path, run: Path, stage: str) -> Path:
    found = run / stage / "checkpoints" / "step-00000005"
    shutil.copytree(folder, found)
    return found


def opened(folder: Path, **keys: Any) -> Opened:
    [one] = open_all([str(folder)], Path("nowhere"), [Config.model_validate(OPTIONS | keys)])
    return one


# ---------------------------------------------------------------------------------------------------------- prompts


def test_prompts_of_records(prompts: Path) -> None:
    found = read_questions(prompts, 99)
    assert [question.text for question in found] == [
        "今天天气怎么样？",
        "北京\n很好\n上海呢？",
        "说话简短\n谢谢",
        "天气",
    ]
    assert [len(question.messages) for question in found] == [1, 3, 1, 2] and [one.line for one in found] == [
        1,
        2,
        3,
        4,
    ]
    assert columns_of(found)["level"] == [1, None, 3, None]
    assert [question.text for question in read_questions(prompts, 2)] == ["今天天气怎么样？", "北京\n很好\n上海呢？"]


def test_prompts_of_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeff天气\n\n  北京 \n上海", encoding="utf-8")
    found = read_questions(tmp_path / "p.txt", 2)
    assert found == [
        Question([{"role": "user", "content": "天气"}], {}, 1),
        Question([{"role": "user", "content": "北京"}], {}, 3),
    ]
    assert columns_of(found) == {}


def test_a_system_message_for_those_that_have_none(prompts: Path) -> None:
    found = [question.opened("只说真话") for question in read_questions(prompts, 99)]
    assert [question.messages[0]["content"] for question in found] == ["只说真话"] * 3 + ["简短"]
    assert found[0].text == "今天天气怎么样？" and found[0].opened("") is found[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", None, r"--prompts: no such file, got .*p\.jsonl; give a \.jsonl"),
        ("p.docx", "天气", r"--prompts: unknown kind of file, got .*p\.docx; known: "),
        ("p.txt", " \n", r"--prompts: holds no prompt, got .*p\.txt; "),
        ("p.jsonl", "\n", r"--prompts: holds no prompt, got .*p\.jsonl; "),
        ("p.jsonl", '{"prompt": "天气"}\n{"text": "没有"}\n', r"--prompts: a record without a prompt to answer, got unknown_form: .*, line 2; correct it"),
        ("p.jsonl", '{"prompt": "天气"}\n{"prompt":\n', r"--prompts: a record that cannot be read, got bad_json \(.*, line 2; correct it"),
        ("p.jsonl", '{"prompt": "  "}\n', r"--prompts: a record without a prompt to answer, got empty_question: .*, line 1; "),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_used(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_questions(tmp_path / name, 9)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize(("temperature", "stop"), [(0.0, ()), (1.2, ()), (0.0, ("天气",))])
def test_answers_together_are_those_of_a_chat(
    folders: tuple[Path, Path], prompts: Path, tmp_path: Path, turns: bool, temperature: float, stop: tuple[str, ...]
) -> None:
    """With a stop string some end early, and one ends with its first half, which is held back until the end."""
    folder = folders[0] if turns else as_checkpoint(folders[0], tmp_path, "train")
    speaker, _ = speaker_of(opened(folder, temperature=temperature, batch_size=3, seed=5, stop=stop))
    assert (speaker.template is not None) is turns
    ids, told = [ids_of(speaker, question) for question in read_questions(prompts, 99)], list[int]()
    together = answer_together(speaker, ids, told.append)
    assert told == [3, 1] and len({len(row) for row in ids}) > 1
    for number, (row, found) in enumerate(zip(ids, together, strict=True)):
        answer = speaker.answer(row, 5 + number)
        text = "".join(answer.pieces)
        rest, alone = answer.end("", interrupted=False)
        assert found == alone and found.text == text + rest
    assert not (stop and turns) or len({found.tokens for found in together}) > 1


def test_an_answer_ends_as_in_a_chat(folders: tuple[Path, Path]) -> None:
    """At the template's token, at a special token that is spelled, at a stop string: as Speaker.answer, which has them privately."""
    speaker, _ = speaker_of(opened(folders[0], stop=("天",)))
    stops, strings = ends_of(speaker)
    assert stops == speaker._stop_ids and strings == ("天", *speaker._specials)
    speaker, _ = speaker_of(opened(folders[0]))
    speaker = Speaker("x", speaker.model, speaker.tokenizer, speaker.config)
    assert ends_of(speaker) == (speaker._stop_ids, ())


def test_what_a_model_is_given(folders: tuple[Path, Path], prompts: Path) -> None:
    speaker, reason = speaker_of(opened(folders[0]))
    found = [speaker.tokenizer.backend.decode(ids_of(speaker, question), skip_special_tokens=False)
             for question in read_questions(prompts, 99)]  # fmt: skip
    assert reason == "it takes turns"
    assert found[1] == (
        "<|im_start|>user\n北京<|im_end|>\n<|im_start|>assistant\n很好<|im_end|>\n<|im_start|>user\n上海呢？<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found[3].startswith("<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n天气<|im_end|>")


# ---------------------------------------------------------------------------------------------------------- judging


def judged(folders: tuple[Path, Path], prompts: Path, by: str, **options: Any) -> dict[str, Any]:
    names = (str(folders[0]), str(folders[1]))
    return judge_models(names, read_questions(prompts, 99), by, OPTIONS | options, Path("nowhere"))


def test_who_is_better(folders: tuple[Path, Path], prompts: Path, tmp_path: Path) -> None:
    """The judge counts 天: what it says is counted here once more."""
    (tmp_path / "judge.py").write_text(
        "def better(completions):\n    return [text.count('天') for text in completions]\n", encoding="utf-8"
    )
    by = f"{tmp_path / 'judge.py'}:better"
    found = judged(folders, prompts, by, temperature=1.0, seed=3)
    assert [row["messages"] for row in found["rows"]] == [question.messages for question in read_questions(prompts, 99)]
    margins = [row["a"].count("天") - row["b"].count("天") for row in found["rows"]]
    assert [row["margin"] for row in found["rows"]] == margins
    assert found["wins"] == {
        "a": sum(m > 0 for m in margins),
        "b": sum(m < 0 for m in margins),
        "tie": margins.count(0),
    }
    assert found["prompts"] == 4 and found["win_rate"] == (found["wins"]["a"] + found["wins"]["tie"] / 2) / 4
    assert found["a"] == {"name": str(folders[0]), "model": str(folders[0]), "turns": True} and found["by"] == "better"
    again, other = (judged(folders, prompts, by, temperature=1.0, seed=seed) for seed in (3, 4))
    assert again == found and [row["a"] for row in other["rows"]] != [row["a"] for row in found["rows"]]
    swapped = judged((folders[1], folders[0]), prompts, by, temperature=1.0, seed=3)
    assert [row["a"] for row in swapped["rows"]] == [row["b"] for row in found["rows"]]
    assert swapped["win_rate"] == 1 - found["win_rate"]
    orjson.dumps(found)


def test_a_model_beside_itself(folders: tuple[Path, Path], prompts: Path, by: str) -> None:
    found = judged((folders[0], folders[0]), prompts, by)
    assert found["wins"] == {"a": 0, "b": 0, "tie": 4} and found["win_rate"] == 0.5
    assert summary(found).endswith("4 prompts, judged by better: no difference is shown")


def test_a_judge_that_favours_the_first(folders: tuple[Path, Path], prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def better(prompts, first, second):\n    return [1] * len(first)\n", encoding="utf-8"
    )
    found = judged(folders, prompts, f"{tmp_path / 'judge.py'}:better")
    assert found["wins"]["tie"] == 4 and found["changed"] == 4 and found["position_bias"] == 1.0
    assert "4 ties, 4 of them because the verdict changed with the order of the answers" in summary(found)
    assert "position bias: 100.0% of the verdicts changed" in summary(found)


def test_the_judge_knows_who_ended(folders: tuple[Path, Path], prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def better(completions, ended):\n    return [float(end) for end in ended]\n", encoding="utf-8"
    )
    found = judged(folders, prompts, f"{tmp_path / 'judge.py'}:better", stop=("谢",))
    ended = [[row["stopped"][side] in ("end_of_text", "stop") for side in ("a", "b")] for row in found["rows"]]
    assert [row["margin"] for row in found["rows"]] == [one - other for one, other in ended]
    assert any(one and not other for one, other in ended) or any(other and not one for one, other in ended)


def test_a_system_message_is_given_to_both(folders: tuple[Path, Path], prompts: Path, by: str) -> None:
    names = (str(folders[0]), str(folders[1]))
    found = judge_models(names, read_questions(prompts, 99), by, OPTIONS, Path("nowhere"), "说话简短。")
    systems = [row["messages"][0]["content"] for row in found["rows"]]
    assert systems == ["说话简短。"] * 3 + ["简短"]
    assert [row["a"] for row in found["rows"]][:3] != [row["a"] for row in judged(folders, prompts, by)["rows"]][:3]


def test_a_model_without_turns_continues(folders: tuple[Path, Path], prompts: Path, by: str, tmp_path: Path) -> None:
    trained = as_checkpoint(folders[1], tmp_path / "run", "train")
    found = judged((folders[0], trained), prompts, by)
    assert (found["a"]["turns"], found["b"]["turns"]) == (True, False)
    with pytest.raises(InputError, match=r"^--system: only where turns are taken, got '简短'; leave it out$"):
        judge_models((str(trained), str(trained)), read_questions(prompts, 9), by, OPTIONS, tmp_path, "简短")


def test_a_reward_model_judges(
    folders: tuple[Path, Path], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jielong.align import scoring

    asked = list[Path]()

    def open_scorer(folder: Path, device: str) -> Any:
        asked.append(folder)
        return lambda messages, answers: [
            len(said) + len(answer) / 8 for said, answer in zip(messages, answers, strict=True)
        ]

    monkeypatch.setattr(scoring, "open_scorer", open_scorer)
    as_checkpoint(folders[0], tmp_path / "run", "align")  # the policy
    checkpoint = as_checkpoint(folders[0], tmp_path / "run" / "align", "reward")
    table = orjson.loads((checkpoint / "config.json").read_bytes())
    (checkpoint / "config.json").write_bytes(orjson.dumps(as_scored(table)))
    found = judged(folders, prompts, str(tmp_path / "run"))
    assert asked == [checkpoint] and found["by"] == "reward model run"
    assert [row["margin"] for row in found["rows"]] == [(len(row["a"]) - len(row["b"])) / 8 for row in found["rows"]]
    assert open_judge(str(folders[0]), "cpu").label == "reward model model" and asked[-1] == folders[0]


# ---------------------------------------------------------------------------------------------------------- the command


def test_the_command(folders: tuple[Path, Path], prompts: Path, by: str, tmp_path: Path) -> None:
    common = (*folders, "--prompts", prompts, "--by", by, "--max-new-tokens", 6, "--device", "cpu", "--limit", 3)
    result = call(*common, "--out", tmp_path / "out")
    assert result.stdout.count("better") >= 3 and "win rate of A: " in result.stdout and "3 prompts" in result.stdout
    assert f"The page, with all answers: {tmp_path / 'out' / 'judge.html'}" in result.stdout
    stored = orjson.loads((tmp_path / "out" / "judge.json").read_bytes())
    printed = orjson.loads(call(*common, "--json").stdout)
    assert printed.pop("ok") is True and printed == stored and len(stored["rows"]) == 3 == stored["prompts"]
    assert stored["prompts_file"] == str(prompts) and stored["sampling"]["max_new_tokens"] == 6
    html = (tmp_path / "out" / "judge.html").read_text(encoding="utf-8")
    assert all(row[side] in html for row in stored["rows"] for side in ("a", "b"))
    assert list(tmp_path.glob("*.html")) == []


def test_mistakes_are_one_sentence(folders: tuple[Path, Path], prompts: Path, by: str, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def better(completions):\n    return [1 / 0]\n", encoding="utf-8")
    (tmp_path / "long.txt").write_text("天气\n" + "今天天气怎么样？" * 40 + "\n", encoding="utf-8")
    (tmp_path / "mark.txt").write_text("什么是<|im_end|>？\n", encoding="utf-8")
    a, b = folders
    for arguments, message in (
        ((a, "nowhere", "--prompts", prompts, "--by", by), "MODEL: neither a run nor a model folder, got 'nowhere'; "),
        ((a, b, "--prompts", tmp_path / "none.txt", "--by", by), "--prompts: no such file, got "),
        ((a, b, "--prompts", prompts, "--by", "none"), "--by: neither a function nor a folder, got 'none'; "),
        ((a, b, "--prompts", prompts, "--by", f"{tmp_path / 'none.py'}:better"), "--by: no such file, got "),
        ((a, b, "--prompts", prompts, "--by", f"{tmp_path / 'bad.py'}:worse"), "--by: no function of this name in "),
        (
            (a, b, "--prompts", prompts, "--by", f"{tmp_path / 'bad.py'}:better"),
            "--by: the function failed at line 2 of ",
        ),
        ((a, b, "--prompts", tmp_path / "long.txt", "--by", by), "--prompts: line 2: question: too long, got "),
        (
            (a, b, "--prompts", tmp_path / "mark.txt", "--by", by),
            "--prompts: line 1: question: spells a special token of ",
        ),
        ((a, b, "--prompts", prompts, "--by", by, "--out", prompts), "--out: a file, got "),
        ((a, b, "--prompts", prompts, "--by", by, "--device", "abacus"), "infer.device: "),
    ):
        result = call(*arguments, "--max-new-tokens", 2, status=2)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].startswith(f"error: {message}"), result.stderr
        assert "Traceback" not in result.output and result.stdout == ""


def test_a_clear_difference_is_said() -> None:
    found = {
        "wins": {"a": 40, "b": 5, "tie": 5}, "interval": {"low": 0.73, "high": 0.92}, "prompts": 50, "position_bias": None, "changed": None,
        "win_rate": 0.85, "by": "better", "a": {"name": "新"}, "b": {"name": "旧"}, "mean_worth": None,
    }  # fmt: skip
    assert summary(found) == (
        "A     40 better  新\nB      5 better  旧\n       5 ties\n"
        "win rate of A: 85.0% (95 %: 73.0% to 92.0%; a tie is half a win), 50 prompts, judged by better: A is better"
    )
    worth = summary(found | {"mean_worth": {"a": 0.9, "b": 0.25}}).splitlines()[3]
    assert worth == "mean worth of an answer: A 0.9, B 0.25"
    assert summary(found | {"interval": {"low": 0.1, "high": 0.3}}).endswith("B is better")
