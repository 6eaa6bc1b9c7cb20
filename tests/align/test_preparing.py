"""Files of preferences in, examples in tokens out: nothing lost, nothing on both sides, nothing half."""

from __future__ import annotations

import csv
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.align.checking import question
from jielong.align.config import Kind
from jielong.align.examples import Examples
from jielong.align.parsing import Prompt
from jielong.align.preparing import prepare, warnings
from jielong.data.documents import iter_rows
from jielong.data.reading.arithmetic import problems
from jielong.data.reading.corpora import SEED
from jielong.errors import DataError, InputError
from jielong.runs import list_outputs
from jielong.tokenizer.chat.conversations import Message
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tune.rejects import Rejects
from tests.align.preferences import BAD, BAD_LABELS, answer, config_of, marked, pair, system, user
from tests.tune.talks import write

pa: Any = pyarrow
REAL = Path(__file__).parents[3] / "shared" / "data"
LENGTH = 512
SPLITS = ("train", "validation")


def made(
    out: Path, template: ChatTemplate, *paths: Path, kind: Kind = "pairs", length: int = LENGTH, seed: int = 1,
    system: str | None = None, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Prepare, and check what must always be true of the result."""
    report = prepare(config_of(*paths, kind=kind, **more), kind, template, length, out, seed, system)
    assert orjson.loads((out / "preferences.json").read_bytes()) == orjson.loads(orjson.dumps(report))
    assert {path.name for path in out.iterdir()} == {
        "train.arrow", "validation.arrow", "rejects", "preferences.json", "report.html",
    }  # fmt: skip
    rejects = rejects_of(out)
    assert report["read"] == report["train"] + report["validation"] + len(rejects)
    assert Counter(row["rule"] for row in rejects) == report["rejected"]
    assert all(row["file"] and row["line"] > 0 and row["detail"] and row["stage"] == "align" for row in rejects)
    asked = {}
    for split in SPLITS:
        stored = Examples(out, split)
        stored.verify()
        assert len(stored) == report[split] == sum(report["lengths"][split]) and stored.kind == kind == report["kind"]
        rows = [stored.row(number) for number in range(len(stored))]
        for row in rows:
            longest = max(
                (len(ids) for name, ids in row.items() if name.endswith("_ids") and name != "prompt_ids"), default=1
            )
            assert 0 < len(row["prompt_ids"]) <= length - longest and longest
        asked[split] = {asked_of(row) for row in rows}
    assert not asked["train"] & asked["validation"]
    assert not list(out.parent.glob(".*"))
    return report


def asked_of(row: dict[str, Any]) -> str:
    return question(Prompt(tuple(Message(turn["role"], turn["content"]) for turn in orjson.loads(row["messages"])), {}))


def rejects_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "rejects").iterdir()) for rows in iter_rows(path) for row in rows]


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of both splits."""
    return [
        stored.row(number) for stored in (Examples(out, split) for split in SPLITS) for number in range(len(stored))
    ]


def test_pairs(tmp_path: Path, template: ChatTemplate) -> None:
    talk = [system("简短。"), user("你好"), answer("你好！"), user("谢谢")]
    path = write(
        tmp_path / "a.jsonl", [pair(n, score_chosen=n, score_rejected=0) for n in range(9)] + [pair(9, prompt=talk)]
    )
    report = made(tmp_path / "out", template, path)
    assert (report["records"], report["read"], report["rejected"]) == (10, 10, {})
    decode = template.tokenizer.backend.decode
    found = {}
    for row in rows_of(tmp_path / "out"):
        ids = [decode(row[name], skip_special_tokens=False) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        found[ids[0]] = (*ids[1:], row["margin"], row["source"], row["chosen"], row["rejected"])
    wanted = {
        f"<|im_start|>user\n{n} 加一等于几？<|im_end|>\n<|im_start|>assistant\n": (
            f"等于{n + 1}。<|im_end|>", "不知道呢。<|im_end|>", n, "a", f"等于{n + 1}。", "不知道呢。",
        )
        for n in range(9)
    }  # fmt: skip
    text = (
        "<|im_start|>system\n简短。<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n你好！<|im_end|>\n"
        "<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n"
    )
    assert found == wanted | {text: ("等于10。<|im_end|>", "不知道呢。<|im_end|>", None, "a", "等于10。", "不知道呢。")}


def test_marked_answers_and_pairs_that_are_two(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", [marked(n, n % 2) for n in range(8)])
    pairs = write(tmp_path / "p.jsonl", [pair(n) for n in range(20, 24)] + [pair(24, rejected="很长" * 2000), {"a": 1}])
    report = made(tmp_path / "out", template, path, pairs, kind="unpaired")
    assert (report["records"], report["read"], report["rejected"]) == (14, 19, {"unknown_form": 1, "too_long": 1})
    assert report["by_source"]["p"]["records"] == 6 and report["by_source"]["p"]["read"] == 11
    found = {(row["source"], row["completion"], row["label"]) for row in rows_of(tmp_path / "out")}
    assert ("a", "等于2。", True) in found and ("a", "等于1。", False) in found
    assert ("p", "不知道呢。", False) in found and ("p", "等于25。", True) in found
    assert report["statistics"]["good"] == 9 / 17


def test_prompts_of_any_form(tmp_path: Path, template: ChatTemplate) -> None:
    records = [
        {"question": "一加一？", "answer": "2", "甲": [1]},
        pair(7, id="x"),
        {"messages": [user("你好"), answer("你好！"), user("谢谢"), answer("不客气。")]},
        {"instruction": "写诗", "input": "春天", "output": "春眠不觉晓"},
    ]
    report = made(tmp_path / "out", template, write(tmp_path / "a.jsonl", records), kind="prompts", system="简短。")
    found = {
        orjson.loads(row["messages"])[-1]["content"]: orjson.loads(row["columns"]) for row in rows_of(tmp_path / "out")
    }
    assert found == {
        "一加一？": {"answer": "2", "甲": [1]},
        "7 加一等于几？": {"id": "x"},
        "谢谢": {},
        "写诗\n春天": {"output": "春眠不觉晓"},
    }
    assert all(orjson.loads(row["messages"])[0] == system("简短。") for row in rows_of(tmp_path / "out"))
    assert report["statistics"]["columns"] == {"answer": 1, "id": 1, "output": 1, "甲": 1}


def test_every_kind_of_bad_record_has_its_reason_and_its_line(tmp_path: Path, template: ChatTemplate) -> None:
    records = [one for n, (bad, _) in enumerate(BAD) for one in (pair(n), bad)]
    path = write(tmp_path / "a.jsonl", records)
    report = made(tmp_path / "out", template, path)
    found = [(row["line"], row["rule"], row["file"]) for row in rejects_of(tmp_path / "out")]
    assert found == [(2 * n + 2, reason, str(path)) for n, (_, reason) in enumerate(BAD)]
    assert report["train"] + report["validation"] == len(BAD) and report["validation"] >= 1
    texts = {row["rule"]: row["text"] for row in rejects_of(tmp_path / "out")}
    assert (
        '"旁白"' in texts["unknown_role"]
        and "\\xb4\\xba" in texts["bad_utf8"]
        and len(texts["turn_too_long"]) == 20_000
    )


def test_bad_labels_have_their_reason(tmp_path: Path, template: ChatTemplate) -> None:
    records = [marked(n) for n in range(4)] + [bad for bad, _ in BAD_LABELS]
    report = made(tmp_path / "out", template, write(tmp_path / "a.jsonl", records), kind="unpaired")
    assert report["rejected"] == {"bad_label": len(BAD_LABELS)}


def table(path: Path, records: list[dict[str, Any]]) -> Path:
    """CSV or Parquet, by the name."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(records), path)
        return path
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return write(path, [text.getvalue().encode().removesuffix(b"\n")])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.json", "a.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, template: ChatTemplate, name: str) -> None:
    records = [pair(n, score_chosen=n, score_rejected=0) for n in range(12)]
    if name == "a.json":
        path = tmp_path / name
        path.write_bytes(orjson.dumps(records, option=orjson.OPT_INDENT_2))
    else:
        path = write(tmp_path / name, records) if "jsonl" in name else table(tmp_path / name, records)
    made(tmp_path / "out", template, path)
    found = sorted((row["margin"], row["chosen"], row["rejected"]) for row in rows_of(tmp_path / "out"))
    assert found == [(n, f"等于{n + 1}。", "不知道呢。") for n in range(12)]


def test_parquet_with_lists_of_turns(tmp_path: Path, template: ChatTemplate) -> None:
    records = [
        {"chosen": [user(f"第{n}问"), answer("好答案")], "rejected": [user(f"第{n}问"), answer("差")], "id": n}
        for n in range(6)
    ]
    path = table(tmp_path / "n.parquet", records)
    assert made(tmp_path / "out", template, path)["rejected"] == {}
    report = made(tmp_path / "prompts", template, path, kind="prompts")
    assert report["rejected"] == {} and report["statistics"]["columns"] == {"id": 6}


def test_fields_of_a_source(tmp_path: Path, template: ChatTemplate) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": f"{n}？", "a": "好", "b": "不好"} for n in range(6)] + [pair(1)])
    fields = {"prompt": "q", "chosen": "a", "rejected": "b"}
    report = made(tmp_path / "out", template, sources=[{"name": "a", "path": str(path), "fields": fields}])
    assert report["rejected"] == {"unknown_form": 1}
    assert rejects_of(tmp_path / "out")[0]["detail"] == "no q for prompt; there are: prompt, chosen, rejected"


def test_word_problems_are_prompts_with_answers(tmp_path: Path, template: ChatTemplate) -> None:
    """What is made in memory is read as files are."""
    sources = [{"name": "算术", "path": "builtin:arithmetic-zh", "max_documents": 60}]
    report = made(tmp_path / "out", template, kind="prompts", sources=sources)
    assert report["read"] == 60 == report["train"] + report["validation"]
    assert report["statistics"]["columns"]["answer"] == 60
    wanted = {row["prompt"]: row["answer"] for row in problems(60, SEED)}
    for row in rows_of(tmp_path / "out"):
        assert wanted[orjson.loads(row["messages"])[0]["content"]] == orjson.loads(row["columns"])["answer"]


GOOD = st.builds(pair, st.integers(0, 60), rejected=st.sampled_from(["不知道呢。", "等于一。"])) | st.builds(
    marked, st.integers(0, 60), st.sampled_from([0, 1])
)
LINES = st.lists(GOOD | st.sampled_from([bad for bad, _ in BAD]), max_size=30)


@settings(max_examples=40)
@given(
    LINES,
    LINES,
    st.booleans(),
    st.sampled_from(["pairs", "unpaired", "prompts"]),
    st.integers(0, 5),
    st.integers(8, 60),
)
def test_every_record_is_accounted_for(
    template: ChatTemplate, one: list[Any], other: list[Any], held: bool, kind: Kind, seed: int, length: int
) -> None:
    """Whatever is mixed: read is train, validation and rejects, of each source; no question is on both sides."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [{"name": "a", "path": str(write(folder / "a.jsonl", one))},
                   {"name": "b", "path": str(write(folder / "b.jsonl.zst", other)), "validation": held}]  # fmt: skip
        try:
            report = made(folder / "out", template, kind=kind, sources=sources, length=length, seed=seed)
        except DataError:
            assert [path.name for path in folder.iterdir() if path.is_dir()] == []
            return
        assert [row["records"] for row in report["by_source"].values()] == [len(one), len(other)]
        assert report["train"] and report["validation"] and (not held or not report["by_source"]["b"]["train"])


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "prompts"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, template: ChatTemplate, kind: Kind) -> None:
    paths = [write(tmp_path / "a.jsonl", [pair(n) for n in range(50)] + [bad for bad, _ in BAD])]
    first = made(tmp_path / "one", template, *paths, kind=kind)
    assert made(tmp_path / "two", template, *paths, kind=kind) == first
    assert list_outputs(tmp_path / "one") == list_outputs(tmp_path / "two")
    made(tmp_path / "three", template, *paths, kind=kind, seed=2)
    assert list_outputs(tmp_path / "one") != list_outputs(tmp_path / "three")


def test_the_split_does_not_depend_on_the_order(tmp_path: Path, template: ChatTemplate) -> None:
    records = [pair(n) for n in range(60)]
    made(tmp_path / "one", template, write(tmp_path / "a.jsonl", records))
    random.Random(1).shuffle(records)
    made(
        tmp_path / "two", template, write(tmp_path / "b.jsonl", records[:30]), write(tmp_path / "c.jsonl", records[30:])
    )
    held = [
        sorted(stored.row(number)["chosen"] for number in range(len(stored)))
        for stored in (Examples(tmp_path / name, "validation") for name in ("one", "two"))
    ]
    assert held[0] == held[1] and 5 < len(held[0]) < 30


def test_duplicates_contradictions_and_what_validation_asks(tmp_path: Path, template: ChatTemplate) -> None:
    held = write(tmp_path / "v.jsonl", [pair(1), pair(2), pair(1, chosen="二。")])
    turned = {"chosen": "不知道呢。", "rejected": "等于4。"}
    train = write(
        tmp_path / "t.jsonl",
        [pair(1), pair(2, chosen="三。"), pair(3), pair(3), pair(3, **turned), pair(3, rejected="不。"), pair(4)],
    )
    sources = [{"name": "t", "path": str(train)}, {"name": "v", "path": str(held), "validation": True}]
    report = made(tmp_path / "out", template, sources=sources, validation_share=0.0)
    assert (report["train"], report["validation"]) == (3, 3)
    assert [(row["rule"], row["line"]) for row in rejects_of(tmp_path / "out")] == [
        ("duplicate", 1), ("leaked", 2), ("duplicate", 4), ("contradiction", 5),
    ]  # fmt: skip


def test_at_least_one_is_held_out_and_one_is_left(tmp_path: Path, template: ChatTemplate) -> None:
    moved = 0
    for count in (2, 3, 5):
        path = write(tmp_path / "a.jsonl", [pair(n) for n in range(count)] + [b"{"])
        for seed in range(6):
            for share in (0.001, 0.499):
                report = made(tmp_path / "out", template, path, seed=seed, validation_share=share)
                assert report["train"] and report["validation"] and report["rejected"] == {"bad_json": 1}
                moved += share == 0.001
    assert moved == 18


def test_nothing_to_learn_from(tmp_path: Path, template: ChatTemplate) -> None:
    with pytest.raises(
        DataError, match=r"^align: no example was found in 1 files; they are empty; check align\.sources"
    ):
        made(tmp_path / "out", template, write(tmp_path / "a.jsonl", []))
    bad = [b"{", b"{", {"a": 1}, pair(1, margin="x"), pair(1, margin="x"), pair(1, margin="x"), pair(1, chosen=None)]
    with pytest.raises(DataError) as caught:
        made(tmp_path / "out", template, write(tmp_path / "a.jsonl", bad))
    said = str(caught.value)
    assert said.startswith(
        "align: no example is left to learn from, of 7 read: bad_margin 3 (a margin that is no number"
    )
    assert f'{tmp_path / "a.jsonl"}:4: margin is no number, got "x"), bad_json 2 (' in said and "missing_text 1" in said
    assert "unknown_form" not in said and "\n" not in said
    with pytest.raises(DataError, match="all examples that were kept ask the same question, got 2, so none"):
        made(tmp_path / "out", template, write(tmp_path / "a.jsonl", [pair(1), pair(1, chosen="二。")]))
    with pytest.raises(InputError, match=r"align\.sources: plain text holds no preferences"):
        made(tmp_path / "out", template, write(tmp_path / "a.txt", [pair(1)]))
    with pytest.raises(
        DataError, match=r"^align\.reward: no example was found in 1 files; .*check align\.reward\.sources"
    ):
        config = config_of(write(tmp_path / "a.jsonl", []))
        prepare(config, "pairs", template, LENGTH, tmp_path / "out", 1, table="align.reward")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_what_a_person_is_told(tmp_path: Path, template: ChatTemplate, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", [pair(n, chosen="很长的一个回答。", rejected="短") for n in range(8)])
    report = made(tmp_path / "out", template, path)
    said = (
        "align: the chosen answer is the longer one in 100% of the pairs (8 characters on average, the rejected one 1)"
    )
    assert said in capsys.readouterr().err and len(warnings(report)) == 1
    assert made(tmp_path / "out", template, path, kind="unpaired")["statistics"]["good"] == 0.5
    assert not capsys.readouterr().err
    path = write(tmp_path / "a.jsonl", [marked(n, 0) for n in range(8)])
    made(tmp_path / "out", template, path, kind="unpaired")
    assert (
        "align: all answers are bad, so there is nothing to tell them from; add some that are good"
        in capsys.readouterr().err
    )
    even = write(tmp_path / "a.jsonl", [pair(n, chosen="好的呢嘛。") for n in range(8)])
    made(tmp_path / "out", template, even)
    assert not capsys.readouterr().err


def test_a_new_result_takes_the_place_of_the_old_one(tmp_path: Path, template: ChatTemplate) -> None:
    made(tmp_path / "out", template, write(tmp_path / "a.jsonl", [pair(n) for n in range(8)]))
    before = list_outputs(tmp_path / "out")
    with pytest.raises(DataError):
        made(tmp_path / "out", template, write(tmp_path / "b.jsonl", [b"{"]))
    assert list_outputs(tmp_path / "out") == before
    made(tmp_path / "out", template, write(tmp_path / "b.jsonl", [pair(n) for n in range(20, 30)]))
    assert list_outputs(tmp_path / "out") != before


KILLED = """
import sys
from pathlib import Path
from jielong.align.preparing import prepare
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import open_folder
from tests.align.preferences import config_of
print("ready", flush=True)
prepare(config_of(Path(sys.argv[1])), "pairs", ChatTemplate(open_folder(Path(sys.argv[2]))), 512, Path(sys.argv[3]), 1)
"""


def test_killed_in_the_middle_leaves_nothing_half(
    tmp_path: Path, tokenizer: TokenizerFolder, template: ChatTemplate
) -> None:
    path, out = write(tmp_path / "a.jsonl", [pair(n) for n in range(6000)]), tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(path), str(tokenizer.home), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=os.environ)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*.tmp/rejects")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert not out.exists() and list(tmp_path.glob(".out.*.tmp"))
    made(out, template, write(tmp_path / "a.jsonl", [pair(n) for n in range(60)]))


def test_an_error_in_the_middle_leaves_nothing_half(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Rejects, "add", full)
    with pytest.raises(OSError, match="No space left"):
        made(tmp_path / "out", template, write(tmp_path / "a.jsonl", [pair(1), b"{", pair(2)]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data, real preferences that are not in the repository")
@pytest.mark.parametrize("name", ["dpo_zh_500", "anima_pre_post_dpo"])
def test_real_preferences(tmp_path: Path, name: str) -> None:
    template = ChatTemplate(open_folder(REAL / "tokenizers" / "minimind"))
    report = made(tmp_path / "out", template, REAL / "preference" / f"{name}.jsonl.zst", length=8192)
    kept = report["train"] + report["validation"]
    assert kept > 0.8 * report["read"] and set(report["rejected"]) <= {
        "role_order",
        "too_long",
        "equal",
        "duplicate",
        "empty_answer",
    }
