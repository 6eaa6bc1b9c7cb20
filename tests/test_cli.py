"""The command line, in processes of its own: results, JSON, errors, kills. What a user meets."""

from __future__ import annotations

import ast
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong import STAGES
from jielong.metrics import read_jsonl
from tests.corpus import texts, write_jsonl, write_recipe

ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "jielong", *arguments],
        cwd=cwd, env=ENV, text=True, encoding="utf-8", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def jielong(*arguments: str, cwd: Path, status: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a command that must end with the given status."""
    with start(*arguments, cwd=cwd) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def as_json(out: str) -> dict[str, Any]:
    value = orjson.loads(out.splitlines()[-1])
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the mini recipe, run once by the command."""
    folder = tmp_path_factory.mktemp("cli")
    write_recipe(folder)
    out, _ = jielong("run", "mini.toml", "--json", cwd=folder)
    result = as_json(out)
    assert result["ok"] and not result["up_to_date"]
    assert [result["stages"][stage]["state"] for stage in STAGES if stage not in ("tune", "align", "quantize")] == [
        "done"
    ] * 6
    assert len(result["continuations"]) == 5
    return folder


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """What makes `jielong --help` answer in a fraction of a second; the time itself is not tested, machines differ."""
    code = (
        "import sys; from jielong.__main__ import main; sys.argv = ['jielong', '--help']\n"
        "try: main()\n"
        "finally: print(sorted(name for name in sys.modules if '.' not in name), file=sys.stderr)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=True
    )
    assert all(stage in process.stdout for stage in STAGES)
    heavy = {"torch", "transformers", "numpy", "pyarrow", "tokenizers", "safetensors", "pydantic", "rich", "orjson"}
    assert not heavy & set(ast.literal_eval(process.stderr.strip().splitlines()[-1]))


def test_version(tmp_path: Path) -> None:
    assert jielong("--version", cwd=tmp_path)[0].strip() == "0.1.0"


def test_second_run_does_nothing_and_says_so(line: Path) -> None:
    out, err = jielong("run", "mini.toml", "--json", cwd=line)
    result = as_json(out)
    assert result["up_to_date"] and {value["state"] for value in result["stages"].values()} == {"up to date"}
    assert err.count("up to date") == 6
    out, _ = jielong("run", "mini.toml", cwd=line)
    assert "nothing was done" in out
    assert all(f"【{prompt}】" in out for prompt in ("特朗普", "美国", "中国", "英国", "人工智能是"))
    assert "report.html" in out


def test_status(line: Path) -> None:
    out, _ = jielong("status", cwd=line)
    assert "mini" in out and out.count("up to date") == 6
    [row] = as_json(jielong("status", "mini", "--json", cwd=line)[0])["runs"]
    assert row["stages"]["train"]["state"] == "up to date"
    assert "no run in runs yet" not in out
    _, err = jielong("status", "nothing", cwd=line, status=2)
    assert "no such run in runs, got 'nothing'; runs there: mini" in err


def test_generate_streams_prompts_and_files(line: Path) -> None:
    (line / "prompts.txt").write_text("\ufeff北京\n\n上海\n", encoding="utf-8")
    options = ["--temperature", "0", "--max-new-tokens", "5", "--repetition-penalty", "1", "--device", "cpu"]
    result = as_json(
        jielong(
            "generate", "mini", "--prompt", "新华社", "--prompts-file", "prompts.txt", "--json", *options, cwd=line
        )[0]
    )
    assert [row["prompt"] for row in result["continuations"]] == ["新华社", "北京", "上海"]
    out, _ = jielong("generate", result["model"], "--prompt", "新华社", *options, cwd=line)
    first = result["continuations"][0]
    assert out.startswith(first["prompt"] + first["text"])
    again = as_json(jielong("generate", "mini", "--prompt", "北京", "--seed", "3", "--json", cwd=line)[0])
    same = as_json(
        jielong("generate", "mini", "--prompt", "北京", "--seed", "3", "--top-k", "0", "--json", cwd=line)[0]
    )
    assert again["continuations"] == same["continuations"]


def test_chat_continues_a_line_at_a_time(line: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "jielong", "chat", "mini", "--max-new-tokens", "4", "--device", "cpu"],
        cwd=line, env=ENV, input="新华社\n北京\n", capture_output=True, text=True, encoding="utf-8", timeout=120, check=True,
    )  # fmt: skip
    texts = []
    for seed, prompt in enumerate(("新华社", "北京"), start=1):  # every line draws with the next seed
        options = ["--max-new-tokens", "4", "--device", "cpu", "--seed", str(seed), "--json"]
        [row] = as_json(jielong("generate", "mini", "--prompt", prompt, *options, cwd=line)[0])["continuations"]
        texts.append(prompt + row["text"])
    assert process.stdout == "".join(f"{text}\n" for text in texts)
    assert any(len(text) > 3 for text in texts)


def test_evaluate_a_recipe_and_a_model_on_files(line: Path) -> None:
    stored = as_json(jielong("evaluate", "mini.toml", "--json", cwd=line)[0])["results"]
    write_jsonl(line / "other.jsonl", texts(30))
    found = as_json(jielong("evaluate", "mini", "--data", "other.jsonl", "--json", cwd=line)[0])["results"]
    assert found["documents"] == 30 and found["bytes"] == sum(len(text.encode()) for text in texts(30))
    assert 0.5 * stored["bits_per_byte"] < found["bits_per_byte"] < 2 * stored["bits_per_byte"]


def test_stage_commands_run_what_they_need(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    result = as_json(
        jielong("model", "mini.toml", "--name", "other", "--runs-dir", "elsewhere", "--json", cwd=tmp_path)[0]
    )
    assert list(result["stages"]) == ["data", "tokenizer", "model"]
    assert (tmp_path / "elsewhere" / "other" / "model" / "config.json").is_file()
    assert not (tmp_path / "runs").exists()


def test_known_corpora_are_listed(tmp_path: Path) -> None:
    out, _ = jielong("data", "presets", cwd=tmp_path)
    assert "wudao  WuDaoCorpora" in out and "https://" in out
    rows = as_json(jielong("data", "presets", "--json", cwd=tmp_path)[0])["presets"]
    assert {"seq-monkey", "skypile-150b", "mnbvc"} <= {row["name"] for row in rows}


def test_new_then_run_on_own_data(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "my" / "a.jsonl", texts(60))
    out, _ = jielong("new", "mine", "--data", "my/*.jsonl", cwd=tmp_path)
    assert "mine.toml written" in out
    small = ["--set", "tokenizer.vocab_size=300", "--set", "model.hidden_size=16", "--set", "model.num_attention_heads=2",
             "--set", "model.num_key_value_heads=1", "--set", "train.tokens=4096", "--set", "train.tokens_per_step=2048",
             "--set", "infer.max_new_tokens=3"]  # fmt: skip
    result = as_json(jielong("run", "mine.toml", "--json", *small, cwd=tmp_path)[0])
    counts = result["stages"]["data"]["counts"]
    assert counts["read"] == 60 == counts["kept"] + sum(counts["rejected"].values())


def test_check_writes_clean_copies_and_rejects(tmp_path: Path) -> None:
    good = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts(5))
    raw = good + b'{"text": ""}\n{"text": "\xff"}\n{broken\n{"other": 1}\n'
    (tmp_path / "raw.jsonl").write_bytes(raw)
    out, _ = jielong("check", "raw.jsonl", cwd=tmp_path)
    for reason in ("empty_text", "bad_utf8", "bad_json", "missing_text"):
        assert reason in out
    assert "raw.jsonl:6" in out and "read 9 = kept 5 + rejected 4" in out
    assert (tmp_path / "checked" / "raw.clean.jsonl").read_bytes().count(b"\n") == 5
    assert len(read_jsonl(tmp_path / "checked" / "rejects.jsonl")) == 4
    assert (tmp_path / "raw.jsonl").read_bytes() == raw
    result = as_json(jielong("check", "raw.jsonl", "--no-write", "--json", cwd=tmp_path)[0])
    assert (result["read"], result["kept"]) == (9, 5)


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml"], "recipe: no such file, got nowhere.toml"),
        (["run", "nowhere"], "neither a file nor a shipped recipe, got 'nowhere'"),
        (["run", "mini.toml", "--set", "train.learning_rat=1"], "train.learning_rat: unknown key; did you mean learning_rate?"),
        (["run", "mini.toml", "--set", "model.hidden_size=wide"], 'model.hidden_size: wrong type or value, got "wide"'),
        (["run", "mini.toml", "--set", "tokenizer.vocab_size=100"], "vocab_size: too small, got 100; must be at least 259"),
        (["run", "mini.toml", "--data", "missing/*.jsonl"], "nothing found at"),
        (["run", "mini.toml", "--data", "empty.jsonl", "--name", "e"], "data: no document was found in 1 files"),
        (["run", "mini.toml", "--name", "../x"], "name: must name a folder, got '../x'"),
        (["generate", "nothing", "--prompt", "x"], "neither a run nor a model folder, got 'nothing'"),
        (["generate", "mini"], "--prompt: none given"),
        (["generate", "mini", "--prompts-file", "none.txt"], "none.txt does not exist"),
        (["check", "none.jsonl"], "nothing found at"),
        (["generate", "mini", "--prompts-file", "gbk.txt"], "not UTF-8"),
        (["generate", "mini", "--prompt", "\udcff"], "argument: not UTF-8"),
        (["generate", "mini", "--prompt", "x", "--seed", "99999999999999999999"], "infer.seed: out of bounds"),
        (["run", "mini.toml", "--set", "train.epochs=inf"], "must be a finite number"),
        (["run", "mini.toml", "--data", ""], "an empty path was given"),
        (["data", "mini.toml", "--to", "s3"], "--to: not a URL, got 's3'"),
        (["data", "mini.toml", "--engine", "spark"], "data.engine: not one of the choices"),
        (["run", "mini.toml", "--set", "train.tokens=99999999999999999999"], "train.tokens: too large for a 64-bit number"),
        (["run", "x" * 300], "cannot be used"),
        (["run", "~nobody-here/x.toml"], "~ of a user that does not exist"),
        (["run", "mini.toml", "--set", "x=" + "[" * 5000], "nested too deeply"),
        (["run", "."], "recipe: neither a file nor a shipped recipe, got '.'"),
        (["new", "."], "NAME: not usable as a file name, got '.'"),
        (["run", "only.toml"], "model: needs the stage tokenizer; add a [tokenizer] table"),
        (["evaluate", "mini", "--data", "news.jsonl", "--fresh"], "--data: measures a model as it is"),
        (["train", "mini.toml", "--set", "train.device=cuda"], "train.device: not available on this machine, got 'cuda'"),
    ],
)  # fmt: skip
def test_one_sentence_and_status_2(line: Path, arguments: list[str], message: str) -> None:
    (line / "empty.jsonl").write_bytes(b"")
    (line / "gbk.txt").write_bytes("中国".encode("gbk"))
    (line / "only.toml").write_text("[model]", encoding="utf-8")
    out, err = jielong(*arguments, *([] if arguments[0] == "status" else ["--json"]), cwd=line, status=2)
    sentence = err.split("error: ", 1)[1]
    assert message in sentence
    assert sentence.count("\n") == 1
    assert as_json(out) == {"ok": False, "error": sentence.strip()}


def test_usage_errors_are_status_2_too(tmp_path: Path) -> None:
    jielong("run", cwd=tmp_path, status=2)
    out, _ = jielong("generate", "x", "--temperature", "-1", "--prompt", "x", "--json", cwd=tmp_path, status=2)
    assert as_json(out)["ok"] is False


def test_arguments_and_names_that_are_no_utf8(tmp_path: Path) -> None:
    out, err = jielong("run", "mini.toml", "--runs-dir", "r\udce9", "--json", cwd=tmp_path, status=2)
    assert "argument: not UTF-8" in err and as_json(out)["ok"] is False
    folder = tmp_path / "odd"
    write_jsonl(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jsonl")), texts(30))
    result = as_json(jielong("check", "odd", "--no-write", "--json", cwd=tmp_path)[0])
    assert result["read"] == 30
    write_recipe(tmp_path)
    counts = as_json(jielong("data", "mini.toml", "--data", "odd", "--json", cwd=tmp_path)[0])["stages"]["data"][
        "counts"
    ]
    assert counts["read"] == 30


def test_a_run_does_not_read_what_it_wrote(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    for _ in range(2):
        result = as_json(jielong("data", "mini.toml", "--data", ".", "--json", cwd=tmp_path)[0])
        assert result["stages"]["data"]["counts"]["read"] == 120
    assert result["up_to_date"]


def test_a_reader_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    with start("run", "mini.toml", cwd=tmp_path) as process:
        assert process.stderr is not None
        process.stderr.close()
        process.wait(timeout=120)
    assert (tmp_path / "runs" / "mini" / "report.html").is_file()


def test_a_corpus_cannot_command_the_terminal(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", ["\x1b]0;改标题\x07\x1b[2J" + text for text in texts(3)])
    out, _ = jielong("check", "x.jsonl", "--no-write", cwd=tmp_path)
    assert "\x1b" not in out and "\\x1b[2J" in out


def test_a_run_whose_sources_are_gone_goes_on(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    jielong("tokenizer", "mini.toml", cwd=tmp_path)
    (tmp_path / "news.jsonl").unlink()
    _, err = jielong("model", "mini.toml", cwd=tmp_path)
    assert "what was made from it is used" in err
    _, err = jielong("model", "mini.toml", "--set", "data.validation_fraction=0.2", cwd=tmp_path, status=2)
    assert "nothing found at" in err


@pytest.mark.parametrize("limit", [20_000, 60_000, 100_000])
def test_a_disk_that_is_really_full(tmp_path: Path, limit: int) -> None:
    """A file-size limit stands in for the disk: a write fails in the middle, as on a full one. With room, it goes on."""
    write_recipe(tmp_path)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "sys.argv = ['jielong', 'run', 'mini.toml', '--json']; from jielong.__main__ import main; main()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr and "disk:" in process.stderr
    hidden = [path for path in (tmp_path / "runs").rglob("*") if ".partial" in path.name or path.name.endswith(".tmp")]
    assert not hidden
    assert as_json(jielong("run", "mini.toml", "--json", cwd=tmp_path)[0])["ok"]


# ---------------------------------------------------------------------------------------------------------- kills


def train_record(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_jsonl(folder / "runs" / "mini" / "train" / "metrics.jsonl")]


def test_killed_at_any_moment_and_started_again_is_bit_identical(line: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of the whole line until it gets through; losses, weights and texts are the unbroken run's."""
    write_recipe(tmp_path)
    moments, kills = random.Random(1), 0
    for attempt in range(30):
        with start("run", "mini.toml", "--json", cwd=tmp_path) as process:
            try:
                # the first attempts are cut anywhere; later ones get longer, so that the line does end
                process.communicate(timeout=moments.uniform(0.5, 6 + attempt))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                kills += 1
                continue
        assert process.returncode == 0
        break
    assert kills >= 1 and process.returncode == 0
    assert train_record(tmp_path) == train_record(line)
    for name in (
        "train/checkpoints/step-00000020/model.safetensors",
        "infer/samples.jsonl",
        "tokenizer/tokenizer.json",
    ):
        assert (tmp_path / "runs" / "mini" / name).read_bytes() == (line / "runs" / "mini" / name).read_bytes(), name


def test_killed_in_training_goes_on_from_the_checkpoint(line: Path, tmp_path: Path) -> None:
    """SIGKILL between two checkpoints of a slower run, then the same command: it resumes, and every loss is equal."""
    write_recipe(tmp_path)
    settings = ["--set", "train.tokens=20480"]
    with start("run", "mini.toml", *settings, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while len(train_record(tmp_path)) < 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    reached = len(train_record(tmp_path))
    assert 10 <= reached < 80
    _, err = jielong("run", "mini.toml", *settings, cwd=tmp_path)
    assert "going on from step " in err
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    write_recipe(unbroken)
    jielong("run", "mini.toml", *settings, cwd=unbroken)
    assert train_record(tmp_path) == train_record(unbroken)
    assert len(train_record(unbroken)) == 80


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    settings = ["--set", "train.tokens=204800"]
    with start("run", "mini.toml", *settings, cwd=tmp_path) as process:
        deadline = time.monotonic() + 120
        while len(train_record(tmp_path)) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved; the same command goes on from there" in err and "Traceback" not in err
