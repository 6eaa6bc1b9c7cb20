"""Files of conversations in, masked shards out: nothing lost, nothing on both sides, nothing half."""

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
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.data.documents import iter_rows
from jielong.errors import DataError, InputError, TokenizerError
from jielong.runs import list_outputs
from jielong.tokenizer.chat.conversations import parse
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.loader import IGNORE
from jielong.train.whole import WholeLoader
from jielong.tune import preparing
from jielong.tune.checking import normalised
from jielong.tune.cutting import Cutter
from jielong.tune.preparing import prepare
from jielong.tune.rejects import Rejects
from tests.tokenizer.chat.test_templates import BRACKETS, SEGMENTS
from tests.tune.talks import BAD, WITH_TOOLS, asked, config_of, turns, write

pa: Any = pyarrow
REAL = Path(__file__).parents[3] / "shared" / "data"
LENGTH = 1024


def made(
    out: Path, tokenizer: TokenizerFolder, *paths: Path, length: int = LENGTH, seed: int = 1, **more: Any
) -> dict[str, Any]:
    """Prepare, and check what must always be true of the result."""
    report = prepare(config_of(*paths, **more), tokenizer, length, out, seed)
    assert orjson.loads((out / "conversations.json").read_bytes()) == orjson.loads(orjson.dumps(report))
    rejects = rejects_of(out)
    assert report["read"] == report["train"] + report["validation"] + len(rejects)
    assert Counter(row["rule"] for row in rejects) == report["rejected"]
    assert all(row["file"] and row["line"] > 0 and row["detail"] for row in rejects)
    tokens = learned = size = 0
    for split in ("train", "validation"):
        shards = Shards(out / "shards", split)
        shards.verify()
        assert shards.documents == report[split] and shards.scheme.masked and not shards.scheme.closes
        tokens, size = tokens + shards.tokens, size + shards.text_bytes
        learned += int(shards.learned_counts().sum())
        assert all(
            shards.length(number) < length and shards.learned(number).any() for number in range(shards.documents)
        )
    assert (tokens, learned, size) == (report["tokens"], report["learned_tokens"], report["learned_bytes"])
    assert sum(report["lengths"]["train"]) == report["train"] == sum(report["turns"]["train"])
    assert not list(out.parent.glob(".*"))
    return report


def rejects_of(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "rejects").iterdir()) for rows in iter_rows(path) for row in rows]


def texts(out: Path, split: str, tokenizer: TokenizerFolder) -> list[str]:
    """The documents of a split, special tokens written out."""
    shards = Shards(out / "shards", split)
    return [tokenizer.backend.decode(document.tolist(), skip_special_tokens=False) for document in shards]


def test_the_mask_of_five_turns_with_tools(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    """SEGMENTS is written by hand. Its first token, <|im_start|>, is stored and given, and no target."""
    made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", [WITH_TOOLS, *map(asked, range(9))]))
    library = tokenizers.Tokenizer.from_file(str(tokenizer.home / "tokenizer.json"))
    ids, mask = list[int](), list[bool]()
    for text, wanted in SEGMENTS:
        piece = library.encode(text, add_special_tokens=False).ids
        ids, mask = ids + piece, mask + [wanted] * len(piece)
    for split in ("train", "validation"):
        shards = Shards(tmp_path / "out" / "shards", split)
        assert shards.start_id == library.token_to_id("<|im_start|>") == ids[0]
        for number in range(shards.documents):
            if shards.document(number).tolist() == ids:
                assert shards.targets(number).tolist() == ids[1:]
                assert shards.learned(number).tolist() == mask[1:]
                learned = '<tool_call>{"name": "weather", "arguments": {"city": "北京"}}</tool_call>今天晴。不客气。'
                assert shards.document_bytes(number) == len(learned.encode())
                return
    raise AssertionError("the conversation is in no split")


def test_every_kind_of_bad_record_has_its_reason_and_its_line(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    records = [one for n, (bad, _) in enumerate(BAD) for one in (asked(n), bad)]
    path = write(tmp_path / "a.jsonl", records)
    report = made(tmp_path / "out", tokenizer, path)
    found = [(row["line"], row["rule"], row["file"]) for row in rejects_of(tmp_path / "out")]
    assert found == [(2 * n + 2, reason, str(path)) for n, (_, reason) in enumerate(BAD)]
    assert report["train"] + report["validation"] == len(BAD) and report["validation"] >= 1
    texts = {row["rule"]: row["text"] for row in rejects_of(tmp_path / "out")}
    assert (
        '"旁白"' in texts["unknown_role"]
        and "\\xb4\\xba" in texts["bad_utf8"]
        and len(texts["turn_too_long"]) == 20_000
    )


def test_the_loader_gives_what_was_prepared(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    """A conversation in a row: its tokens but the last go in, from the start id on; labels are the learned ones, one step ahead."""
    path = write(tmp_path / "a.jsonl", [WITH_TOOLS, asked(1)])
    made(tmp_path / "out", tokenizer, path, validation_share=0.001)
    template = Cutter(tokenizer)
    for split in ("train", "validation"):
        [batch] = WholeLoader(Shards(tmp_path / "out" / "shards", split), 512, 1).step(1, 1).batches
        cuts = [template.fit(parse(record), LENGTH) for record in (WITH_TOOLS, asked(1))]
        [cut] = [cut for cut in cuts if len(cut.ids) - 1 == int((batch.documents[0] == 0).sum())]
        size = len(cut.ids) - 1
        assert batch.inputs[0, :size].tolist() == cut.ids[:-1].tolist()
        labels = [number if mark else IGNORE for number, mark in zip(cut.ids[1:], cut.learned[1:], strict=True)]
        assert batch.labels[0].tolist() == labels + [IGNORE] * (512 - size)


@pytest.mark.parametrize("deep", [300, 900])
def test_tools_that_are_nested_too_deeply(tmp_path: Path, tokenizer: TokenizerFolder, deep: int) -> None:
    """Python and orjson give up at some depth: it costs the record, not the run."""
    nested = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": [%b]}'
    records = [asked(1), nested % (b'{"a": ' * deep + b"1" + b"}" * deep), asked(2)]
    report = made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", records), length=20_000)
    assert report["rejected"] == {"bad_tools": 1}


def table(path: Path, records: list[dict[str, Any]]) -> Path:
    """CSV, TSV or Parquet, by the name."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(records), path)
        return path
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), delimiter="\t" if ".tsv" in path.name else ",")
    writer.writeheader()
    writer.writerows(records)
    return write(path, [text.getvalue().encode().removesuffix(b"\n")])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv", "a.tsv.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, tokenizer: TokenizerFolder, name: str) -> None:
    records = [asked(n) for n in range(12)]
    if name == "a.json":
        path = tmp_path / name
        path.write_bytes(orjson.dumps(records, option=orjson.OPT_INDENT_2))
    else:
        path = write(tmp_path / name, records) if "jsonl" in name else table(tmp_path / name, records)
    made(tmp_path / "out", tokenizer, path)
    found = texts(tmp_path / "out", "train", tokenizer) + texts(tmp_path / "out", "validation", tokenizer)
    question = "<|im_start|>user\n{} 加一等于几？<|im_end|>\n<|im_start|>assistant\n等于{}。<|im_end|>\n"
    assert sorted(found) == sorted(question.format(n, n + 1) for n in range(12))


def test_parquet_with_lists_of_turns_and_a_pair_that_is_named(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    nested = table(tmp_path / "n.parquet", [turns(f"第{n}问", "答") for n in range(6)])
    pairs = table(tmp_path / "p.csv", [{"标题": f"标题{n}", "正文": "正文。"} for n in range(6)])
    sources = [{"name": "n", "path": str(nested)}, {"name": "p", "path": str(pairs), "pair": ["标题", "正文"]}]
    report = made(tmp_path / "out", tokenizer, sources=sources)
    assert report["rejected"] == {} and report["read"] == 12
    assert Shards(tmp_path / "out" / "shards", "train").by_source.keys() == {"n", "p"}


def test_broken_files_give_what_is_before_the_break(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    broken = write(tmp_path / "b.jsonl.gz", [asked(n) | {"id": random.Random(n).random()} for n in range(500)])
    broken.write_bytes(broken.read_bytes()[:-900])
    report = made(tmp_path / "out", tokenizer, broken, write(tmp_path / "g.jsonl", [asked(n) for n in range(900, 904)]))
    assert report["rejected"] == {"broken_file": 1} or report["rejected"] == {"bad_json": 1, "broken_file": 1}
    assert 100 < report["by_source"]["b"]["train"] < 500 and report["by_source"]["g"]["read"] == 4


GOOD = st.integers(0, 60).map(asked) | st.lists(st.sampled_from("天地玄黄宇宙洪荒"), min_size=2, max_size=8).map(
    lambda row: turns(*row[: len(row) // 2 * 2])
)
LINES = st.lists(GOOD | st.sampled_from([bad for bad, _ in BAD]), max_size=30)


@settings(max_examples=40)
@given(LINES, LINES, st.booleans(), st.integers(0, 5), st.integers(30, 120))
def test_every_record_is_accounted_for(
    tokenizer: TokenizerFolder, one: list[Any], other: list[Any], held: bool, seed: int, length: int
) -> None:
    """Whatever is mixed: read is train, validation and rejects, of each source; no first question is on both sides."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [{"name": "a", "path": str(write(folder / "a.jsonl", one))},
                   {"name": "b", "path": str(write(folder / "b.jsonl.zst", other)), "validation": held}]  # fmt: skip
        try:
            report = made(folder / "out", tokenizer, sources=sources, length=length, seed=seed)
        except DataError:
            assert [path.name for path in folder.iterdir() if path.is_dir()] == []
            return
        assert [row["read"] for row in report["by_source"].values()] == [len(one), len(other)]
        assert report["train"] and report["validation"] and (not held or not report["by_source"]["b"]["train"])
        questions = {
            split: {
                normalised(text.split("user\n")[1].split("<|im_end|>")[0])
                for text in texts(folder / "out", split, tokenizer)
            }
            for split in ("train", "validation")
        }
        assert not questions["train"] & questions["validation"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    paths = [write(tmp_path / "a.jsonl", [asked(n) for n in range(50)] + [bad for bad, _ in BAD])]
    first = made(tmp_path / "one", tokenizer, *paths)
    assert made(tmp_path / "two", tokenizer, *paths) == first
    assert list_outputs(tmp_path / "one") == list_outputs(tmp_path / "two")
    made(tmp_path / "three", tokenizer, *paths, seed=2)
    assert list_outputs(tmp_path / "one") != list_outputs(tmp_path / "three")


def test_the_split_does_not_depend_on_the_order(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    records = [asked(n) for n in range(60)]
    made(tmp_path / "one", tokenizer, write(tmp_path / "a.jsonl", records))
    random.Random(1).shuffle(records)
    made(
        tmp_path / "two",
        tokenizer,
        write(tmp_path / "b.jsonl", records[:30]),
        write(tmp_path / "c.jsonl", records[30:]),
    )
    one, two = (sorted(texts(tmp_path / name, "validation", tokenizer)) for name in ("one", "two"))
    assert one == two and 5 < len(one) < 30


def test_duplicates_and_what_validation_asks(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    held = write(tmp_path / "v.jsonl", [asked(1), asked(2), asked(1, "另一个答案。")])
    train = write(
        tmp_path / "t.jsonl", [asked(1), asked(2, "不一样。"), asked(3), asked(3), asked(3, "三。"), asked(4)]
    )
    sources = [{"name": "t", "path": str(train)}, {"name": "v", "path": str(held), "validation": True}]
    report = made(tmp_path / "out", tokenizer, sources=sources, validation_share=0.0)
    assert (report["train"], report["validation"]) == (3, 3)
    assert [(row["rule"], row["line"]) for row in rejects_of(tmp_path / "out")] == [
        ("duplicate", 1),
        ("leaked", 2),
        ("duplicate", 4),
    ]


def test_at_least_one_is_held_out_and_one_is_left(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    for count in (2, 3, 5):
        path = write(tmp_path / "a.jsonl", [asked(n) for n in range(count)])
        for seed in range(6):
            for share in (0.001, 0.499):
                report = made(tmp_path / "out", tokenizer, path, seed=seed, validation_share=share)
                assert report["train"] and report["validation"]


def test_nothing_to_train_on(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    with pytest.raises(DataError, match=r"^tune: no conversation was found in 1 files; they are empty"):
        made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", []))
    bad = [BAD[0][0], BAD[0][0], BAD[4][0], BAD[5][0], BAD[5][0], BAD[5][0], BAD[12][0]]
    with pytest.raises(DataError) as caught:
        made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", bad))
    said = str(caught.value)
    assert said.startswith(
        "tune: no conversation is left to train on, of 7 read: unknown_role 3 (a role that is none of "
    )
    assert f'{tmp_path / "a.jsonl"}:4: turn 1 is of "narrator"), bad_json 2 (' in said and "no_turns 1" in said
    assert "not_text" not in said and "\n" not in said
    with pytest.raises(DataError, match="all conversations that were kept open with the same question, got 2, so none"):
        made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", [asked(1), asked(1, "二。")]))
    with pytest.raises(InputError, match=r"tune\.sources: plain text holds no conversations"):
        made(tmp_path / "out", tokenizer, write(tmp_path / "a.txt", [asked(1)]))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_long_conversations_lose_exchanges_and_never_an_end(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    path = write(tmp_path / "a.jsonl", [turns(*(f"第{n}段第{m}句，说得很长。" for m in range(20))) for n in range(8)])
    whole = made(tmp_path / "out", tokenizer, path, length=4096)
    assert whole["shortened"] == 0
    report = made(tmp_path / "out", tokenizer, path, length=200)
    assert report["shortened"] == 8 == report["read"] and report["exchanges_left_out"] >= 8
    for split in ("train", "validation"):
        assert all(text.endswith("<|im_end|>\n") for text in texts(tmp_path / "out", split, tokenizer))
        shards, end = Shards(tmp_path / "out" / "shards", split), tokenizer.backend.token_to_id("<|im_end|>")
        assert all(shards.targets(n)[shards.learned(n)][-1] == end for n in range(shards.documents))


def test_the_last_answer_alone(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    path = write(tmp_path / "a.jsonl", [turns(f"第{n}问", "好", "再问", "很好") for n in range(8)])
    every, last = (made(tmp_path / mode, tokenizer, path, learned=mode) for mode in ("answers", "last"))
    assert every["learned_characters"] == 8 * 3 and last["learned_characters"] == 8 * 2


def test_a_template_that_drops_the_system_message_is_refused(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    path = write(tmp_path / "a.jsonl", [asked(n) for n in range(8)])
    drops = tmp_path / "chat.jinja"
    drops.write_text(BRACKETS.replace("[系统]{{ m['content'] }}", ""), encoding="utf-8")
    with pytest.raises(TokenizerError, match="chat_template: drops the system prompt"):
        made(tmp_path / "out", tokenizer, path, template=str(drops))
    with pytest.raises(InputError, match=r"tune\.template: no such file"):
        made(tmp_path / "out", tokenizer, path, template=str(tmp_path / "none.jinja"))


def test_conversations_that_begin_with_different_tokens(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    """With no marks around turns nothing stands first in all of them: rows begin with the end of text, and all is kept."""
    plain = tmp_path / "plain.jinja"
    plain.write_text("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", encoding="utf-8")
    path = write(tmp_path / "a.jsonl", [turns(f"{'甲乙丙丁戊己'[n % 6]}{n}？", "答") for n in range(12)])
    report = made(tmp_path / "out", tokenizer, path, template=str(plain))
    shards = Shards(tmp_path / "out" / "shards", "train")
    assert report["start_id"] is None and shards.scheme.start_id is None and shards.start_id == tokenizer.end_id
    assert shards.targets(0).tolist() == shards.document(0).tolist()
    assert texts(tmp_path / "out", "train", tokenizer)[0].endswith("答<|im_end|>")


def test_a_new_result_takes_the_place_of_the_old_one(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    first = write(tmp_path / "a.jsonl", [asked(n) for n in range(8)])
    made(tmp_path / "out", tokenizer, first)
    before = list_outputs(tmp_path / "out")
    with pytest.raises(DataError):
        made(tmp_path / "out", tokenizer, write(tmp_path / "b.jsonl", [b"{"]))
    assert list_outputs(tmp_path / "out") == before
    made(tmp_path / "out", tokenizer, write(tmp_path / "b.jsonl", [asked(n) for n in range(20, 30)]))
    assert list_outputs(tmp_path / "out") != before


def test_shards_and_batches_of_any_size_hold_the_same(
    tmp_path: Path, tokenizer: TokenizerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", [asked(n) for n in range(40)])
    made(tmp_path / "one", tokenizer, path)
    monkeypatch.setattr(preparing, "SHARD_TOKENS", 100)
    monkeypatch.setattr(preparing, "BATCH_TOKENS", 70)
    made(tmp_path / "many", tokenizer, path)
    assert len(list((tmp_path / "many" / "shards").glob("train-*.bin"))) > 3
    for split in ("train", "validation"):
        assert texts(tmp_path / "one", split, tokenizer) == texts(tmp_path / "many", split, tokenizer)


KILLED = """
import sys
from pathlib import Path
from jielong.tokenizer.folder import open_folder
from jielong.tune.preparing import prepare
from tests.tune.talks import config_of
print("ready", flush=True)
prepare(config_of(Path(sys.argv[1])), open_folder(Path(sys.argv[2])), 1024, Path(sys.argv[3]), 1)
"""


def test_killed_in_the_middle_leaves_nothing_half(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    path, out = write(tmp_path / "a.jsonl", [asked(n) for n in range(12_000)]), tmp_path / "out"
    for seconds in (0.1, 0.4):
        command = [sys.executable, "-c", KILLED, str(path), str(tokenizer.home), str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=os.environ)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*.tmp/rejects")) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not out.exists() and list(tmp_path.glob(".out.*.tmp"))
    made(out, tokenizer, path)


def test_an_error_in_the_middle_leaves_nothing_half(
    tmp_path: Path, tokenizer: TokenizerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Rejects, "add", full)
    with pytest.raises(OSError, match="No space left"):
        made(tmp_path / "out", tokenizer, write(tmp_path / "a.jsonl", [asked(1), b"{", asked(2)]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data, real conversations that are not in the repository")
@pytest.mark.parametrize("name", ["toolcall_zh_demo", "alpaca_gpt4_zh_1k", "sharegpt_zh_1k"])
def test_real_conversations(tmp_path: Path, name: str) -> None:
    tokenizer = open_folder(REAL / "tokenizers" / "minimind")
    report = made(tmp_path / "out", tokenizer, REAL / "sft" / f"{name}.jsonl.zst")
    kept = report["train"] + report["validation"]
    assert kept > 0.9 * report["read"] and 0.2 < report["learned_tokens"] / report["tokens"] < 0.98
