"""What is up to date, what is made again, what is kept: the whole line on a mini recipe."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jielong import STAGES
from jielong.data.documents import iter_documents
from jielong.errors import CheckpointError, InputError, RecipeError, RunError, ShardError, Stopped
from jielong.launch import LAUNCHER
from jielong.metrics import read_jsonl
from jielong.recipe import load
from jielong.runs import Run
from jielong.show import status_rows
from jielong.workflow import Outcome, continuations, needed, places, run_stages, stage_state
from jielong.world import VARIABLES
from tests.corpus import texts, write_jsonl, write_recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the mini recipe and its finished run in runs/mini."""
    folder = tmp_path_factory.mktemp("line")
    write_recipe(folder)
    outcomes = go(folder)
    assert [outcome.state for outcome in outcomes] == ["done"] * 6
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil. Times are kept, so that it is as up to date as the original."""
    shutil.copytree(finished, tmp_path / "line")
    # the recipe's source is found by its path: the manifest's must be this copy's
    manifest = tmp_path / "line" / "runs" / "mini" / "data" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(str(finished).encode(), str(tmp_path / "line").encode()))
    return tmp_path / "line"


def go(folder: Path, *settings: str, fresh: tuple[str, ...] = (), last: str = "") -> list[Outcome]:
    recipe = load(str(folder / "mini.toml"), list(settings))
    stages = needed(recipe, last) if last else list(recipe.sections)
    return run_stages(recipe, Run(folder / "runs" / "mini"), stages, fresh)


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.stage: outcome.state for outcome in outcomes}


def done(outcomes: list[Outcome]) -> set[str]:
    return {outcome.stage for outcome in outcomes if outcome.state == "done"}


def test_everything_is_there(finished: Path) -> None:
    run = Run(finished / "runs" / "mini")
    assert {"report", "data report", "documents", "rejects", "tokenizer", "token shards", "model", "metrics", "continuations",
            "evaluation"} == set(places(run))  # fmt: skip
    assert all(Path(path).exists() for path in places(run).values())
    assert [row["prompt"] for row in continuations(run)] == ["特朗普", "美国", "中国", "英国", "人工智能是"]
    records = read_jsonl(run.stage("train") / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 21))
    assert [record["step"] for record in records if "validation_bits_per_byte" in record] == [10, 20]
    assert records[-1]["loss"] < records[0]["loss"]
    samples = read_jsonl(run.stage("train") / "samples.jsonl")
    assert sorted({row["step"] for row in samples}) == [0, 10, 20]
    assert [(row["step"], row["prompt"]) for row in samples[:2]] == [(0, "特朗普"), (0, "美国")]
    counts = {
        stage: (run.manifest(stage) or {})["counts"] for stage in STAGES if stage not in ("tune", "align", "quantize")
    }
    assert counts["data"]["read"] == counts["data"]["kept"] + sum(counts["data"]["rejected"].values()) == 120
    assert counts["tokenizer"]["train"]["documents"] == counts["data"]["train"]
    # the last validation of the training and the evaluate stage measure the same thing
    assert counts["evaluate"]["bits_per_byte"] == pytest.approx(counts["train"]["validation_bits_per_byte"], rel=1e-5)


def test_the_second_run_does_nothing(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (copy / "runs").rglob("*") if path.is_file()}
    assert done(go(copy)) == set()
    after = {path: path.stat().st_mtime_ns for path in (copy / "runs").rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after[path]}
    assert changed <= {"recipe.toml", ".lock"} and before.keys() == after.keys()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("infer.temperature=0.5", {"infer"}),
        ("evaluate.sequence_length=16", {"evaluate"}),
        ("evaluate.batch_tokens=64", set()),
        ("train.learning_rate=5e-3", {"train", "infer", "evaluate"}),
        ("train.save_every_steps=7", set()),  # changes nothing in the result
        ("model.qk_norm=true", {"model", "train", "infer", "evaluate"}),
    ],
)
def test_a_change_makes_again_what_depends_on_it(copy: Path, setting: str, expected: set[str]) -> None:
    assert done(go(copy, setting)) == expected


def test_changed_text_makes_everything_again_and_touching_it_nothing(copy: Path) -> None:
    source = copy / "news.jsonl"
    source.touch()
    assert done(go(copy)) == set()
    write_jsonl(source, texts(121))
    assert done(go(copy)) == set(STAGES) - {"tune", "align", "quantize"}


def test_a_replaced_model_is_kept(copy: Path) -> None:
    run = copy / "runs" / "mini"
    old = next((run / "train" / "checkpoints").iterdir()) / "model.safetensors"
    before = old.read_bytes()
    go(copy, "train.learning_rate=5e-3")
    kept = run / "replaced" / "train-1" / old.relative_to(run / "train")
    assert kept.read_bytes() == before


def test_a_refused_setting_moves_nothing(copy: Path) -> None:
    before = sorted((copy / "runs" / "mini" / "train").rglob("*"))
    with pytest.raises(RecipeError, match="not available on this machine"):
        go(copy, "train.device=mps")
    assert sorted((copy / "runs" / "mini" / "train").rglob("*")) == before
    assert done(go(copy)) == set()


def test_older_checkpoints_may_be_deleted(copy: Path) -> None:
    folder = copy / "runs" / "mini" / "train" / "checkpoints"
    shutil.rmtree(folder / "step-00000016")
    assert [path.name for path in folder.iterdir()] == ["step-00000020"]
    assert done(go(copy)) == set()


def test_a_lost_samples_file_does_not_train_again(copy: Path) -> None:
    train = copy / "runs" / "mini" / "train"
    weights = train / "checkpoints" / "step-00000020" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    (train / "samples.jsonl").unlink()
    assert done(go(copy)) == {"train"}
    assert weights.stat().st_mtime_ns == before and not (train.parent / "replaced").exists()


def test_fresh_makes_one_stage_again(copy: Path) -> None:
    assert done(go(copy, last="tokenizer", fresh=("tokenizer",))) == {"tokenizer"}
    assert done(go(copy)) == set()  # the same inputs gave the same fingerprint


def test_two_runs_are_byte_identical(finished: Path, copy: Path) -> None:
    go(copy, fresh=tuple(STAGES))
    one, two = finished / "runs" / "mini", copy / "runs" / "mini"
    names = ["tokenizer/tokenizer.json", "tokenizer/shards/train-00000.bin", "model/model.safetensors",
             "train/checkpoints/step-00000020/model.safetensors", "infer/samples.jsonl", "evaluate/results.json"]  # fmt: skip
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for split in ("train", "validation"):  # their meta names the file each was read from, which is another here
        rows = [
            [(row["id"], row["text"]) for row in iter_documents(run / "data" / "documents", split)]
            for run in (one, two)
        ]
        assert rows[0] == rows[1]


def test_a_lost_output_is_noticed(copy: Path) -> None:
    (copy / "runs" / "mini" / "tokenizer" / "shards" / "train-00000.idx").unlink()
    assert "tokenizer" in done(go(copy))


def test_stage_states(copy: Path) -> None:
    recipe, run = load(str(copy / "mini.toml")), Run(copy / "runs" / "mini")
    prints: dict[str, str] = {}
    assert {stage_state(recipe, run, stage, prints) for stage in recipe.sections} == {"up to date"}
    shutil.rmtree(run.stage("infer"))
    (run.stage("evaluate") / "manifest.json").unlink()
    assert stage_state(recipe, run, "infer", prints) == "not started"
    assert stage_state(recipe, run, "evaluate", prints) == "not finished"
    changed = load(str(copy / "mini.toml"), ["data.validation_fraction=0.11"])
    prints = {}
    assert {stage_state(changed, run, stage, prints) for stage in ("data", "tokenizer", "model")} == {"stale"}


def test_needed_follows_the_stages_before() -> None:
    recipe = load("tiny")
    assert needed(recipe, "data") == ["data"]
    assert needed(recipe, "model") == ["data", "tokenizer", "model"]
    assert needed(recipe, "infer") == ["data", "tokenizer", "model", "train", "infer"]
    del recipe.sections["evaluate"]
    with pytest.raises(RunError, match=r"evaluate: the recipe has no \[evaluate\] table"):
        needed(recipe, "evaluate")


# ------------------------------------------------------------------------------------------------------- bad days


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_a_damaged_shard_is_named(copy: Path) -> None:
    flip(copy / "runs" / "mini" / "tokenizer" / "shards" / "train-00000.bin")
    with pytest.raises(ShardError, match=r"train-00000\.bin: damaged shard, its checksum differs"):
        go(copy, "train.learning_rate=5e-3")


def test_a_damaged_checkpoint_is_named(copy: Path) -> None:
    flip(copy / "runs" / "mini" / "train" / "checkpoints" / "step-00000020" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        go(copy, "infer.temperature=0.1")


@pytest.mark.parametrize("stage", ["data", "tokenizer", "model", "infer", "evaluate"])
def test_a_full_disk_leaves_the_old_result_and_no_half_one(
    copy: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jielong import workflow

    call = workflow._call

    def full(recipe: Any, context: Any, name: str) -> dict[str, Any]:
        counts = call(recipe, context, name)
        if name == stage:
            raise OSError(28, "No space left on device", str(context.out))
        return counts

    monkeypatch.setattr(workflow, "_call", full)
    run = copy / "runs" / "mini"
    before = (run / stage / "manifest.json").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        go(copy, fresh=(stage,))
    assert (run / stage / "manifest.json").read_bytes() == before
    assert not list(run.glob("*.partial"))


def test_nothing_is_loaded_from_a_pickle(copy: Path) -> None:
    suffixes = {path.suffix for path in copy.rglob("*") if path.is_file()}
    assert not suffixes & {".pt", ".pth", ".pkl", ".bin"} - {".bin"}  # .bin: token shards
    assert all(path.parent.name == "shards" for path in copy.rglob("*.bin"))


def test_a_damaged_tokenizer_is_named(copy: Path) -> None:
    path = copy / "runs" / "mini" / "tokenizer" / "tokenizer.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"ByteLevel"', b'"ByteLevem"', 1))
    with pytest.raises(RunError, match=r"tokenizer\.json: damaged, its checksum differs"):
        go(copy, "model.qk_norm=true")


def test_a_renamed_source_is_noticed(copy: Path) -> None:
    """The suffix decides how a file is read: the same bytes under another name are another input."""
    (copy / "news.jsonl").rename(copy / "other.jsonl")
    (copy / "mini.toml").write_text((copy / "mini.toml").read_text().replace("news.jsonl", "*.jsonl"), encoding="utf-8")
    assert "data" in done(go(copy))


def test_a_refused_run_leaves_the_recipe_and_a_broken_one_hides_no_other(copy: Path) -> None:
    kept = (copy / "runs" / "mini" / "recipe.toml").read_bytes()
    with pytest.raises(RecipeError):
        go(copy, "train.device=mps")
    assert (copy / "runs" / "mini" / "recipe.toml").read_bytes() == kept
    shutil.copytree(copy / "runs" / "mini", copy / "runs" / "broken")
    (copy / "runs" / "broken" / "recipe.toml").write_text("[data", encoding="utf-8")
    rows = {row["name"]: row for row in status_rows(copy / "runs", "")}
    assert "not valid TOML" in rows["broken"]["error"]
    assert rows["mini"]["stages"]["train"]["state"] == "up to date"


def test_a_prompt_too_long_is_refused_before_training(copy: Path) -> None:
    with pytest.raises(InputError, match=r"infer\.prompts: too long, got \d+ tokens"):
        go(copy, "train.learning_rate=5e-3", f'infer.prompts=["{"龘" * 40}"]')
    assert not (copy / "runs" / "mini" / "replaced").exists()


def test_lost_metrics_do_not_matter(copy: Path) -> None:
    (copy / "runs" / "mini" / "train" / "metrics.jsonl").unlink()
    before = json_counts(copy)
    assert done(go(copy)) == {"train"}
    assert json_counts(copy)["final_loss"] == before["final_loss"]


# -------------------------------------------------------------------------------------------------- several processes


def test_training_elsewhere_is_one_stage_of_the_line(copy: Path) -> None:
    """Stages before are made here, those behind too, from what the processes left; the lock is theirs to inherit."""
    recipe, run = load(str(copy / "mini.toml"), ["model.qk_norm=true"]), Run(copy / "runs" / "mini")
    seen: list[Any] = []

    def elsewhere(stage: str, lock: int | None) -> None:
        assert stage == "train" and lock is not None
        seen.append(os.fstat(lock).st_ino == (run.root / ".lock").stat().st_ino)
        recipe_there = load(str(copy / "mini.toml"), ["model.qk_norm=true"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(LAUNCHER, str(os.getppid()))  # as if started
            outcomes = run_stages(recipe_there, run, needed(recipe_there, "train"))
        seen.append(states(outcomes))

    outcomes = run_stages(recipe, run, list(recipe.sections), (), None, elsewhere)
    assert seen == [True, {"data": "up to date", "tokenizer": "up to date", "model": "up to date", "train": "done"}]
    assert done(outcomes) == {"model", "train", "infer", "evaluate"}
    assert outcomes[3].counts == (run.manifest("train") or {})["counts"]
    assert done(run_stages(recipe, run, list(recipe.sections), (), None, elsewhere)) == set() and len(seen) == 2


def test_processes_that_fail_end_the_line(copy: Path) -> None:
    recipe, run = load(str(copy / "mini.toml"), ["train.learning_rate=5e-3"]), Run(copy / "runs" / "mini")
    before = (run.stage("infer") / "manifest.json").read_bytes()

    def elsewhere(stage: str, lock: int | None) -> None:
        raise Stopped("saved")

    with pytest.raises(Stopped):
        run_stages(recipe, run, list(recipe.sections), (), None, elsewhere)
    assert (run.stage("infer") / "manifest.json").read_bytes() == before
    (run.stage("train") / "manifest.json").unlink()
    with pytest.raises(RunError, match="left no manifest"):
        run_stages(recipe, run, list(recipe.sections), (), None, lambda stage, lock: None)


def become(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    for name, value in zip(VARIABLES, (rank, 2, rank), strict=True):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_make_nothing_before_training(copy: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    become(monkeypatch, rank)
    with pytest.raises(
        RunError, match="tokenizer: not up to date, and several processes cannot make it; run this first"
    ):
        shutil.rmtree(copy / "runs" / "mini" / "tokenizer")
        go(copy, last="train")
    assert not (copy / "runs" / "mini" / "tokenizer").exists()


def test_a_second_rank_does_not_begin_what_is_up_to_date_and_writes_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(monkeypatch, 1)
    before = {path: path.stat().st_mtime_ns for path in (copy / "runs").rglob("*")}
    assert go(copy) == [] == go(copy, last="train") == go(copy, last="model")
    assert {path: path.stat().st_mtime_ns for path in (copy / "runs").rglob("*")} == before


@pytest.mark.parametrize("fresh", [False, True])
def test_a_second_rank_trains_with_the_fingerprint_of_the_first(
    copy: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    given: list[Any] = []
    setting = () if fresh else ("train.learning_rate=5e-3",)
    recipe = load(str(copy / "mini.toml"), list(setting))
    prints: dict[str, str] = {}
    for stage in needed(recipe, "train"):
        stage_state(recipe, Run(copy / "runs" / "mini"), stage, prints)
    become(monkeypatch, 1)
    monkeypatch.setattr("jielong.train.stage.run", lambda config, context, *rest, **more: given.append((context, more)))
    assert go(copy, *setting, fresh=("train",) if fresh else ()) == []
    [(context, hooks)] = given
    assert context.fingerprint == prints["train"] and context.out == copy / "runs" / "mini" / "train"
    for forbidden in (context.begin, hooks["validate"], hooks["sample"]):
        with pytest.raises(AssertionError, match="only the first rank"):
            forbidden()


def json_counts(folder: Path) -> dict[str, Any]:
    manifest = Run(folder / "runs" / "mini").manifest("train")
    assert manifest is not None
    counts: dict[str, Any] = manifest["counts"]
    return counts


def test_a_prompt_is_answered_by_the_weights_in_memory(finished: Path) -> None:
    """With the run's own [infer] table, but for what is asked for; bounds are those of the table."""
    from jielong.hooks import training_hooks
    from jielong.model.hf import load_folder
    from jielong.train.checkpoints import require_newest

    run = Run(finished / "runs" / "mini")
    generate = training_hooks(load(str(finished / "mini.toml")), run)["generate"]
    model = load_folder(require_newest(run.checkpoints))
    settings = {"temperature": 1.0, "max_new_tokens": 5, "top_k": 0, "top_p": 1}
    one, two = generate(model, ["中国", "美国"], settings)
    assert (one["prompt"], two["prompt"]) == ("中国", "美国") and 0 < one["tokens"] <= 5
    assert generate(model, ["中国"], settings) == [one] != generate(model, ["中国"], settings | {"seed": 7})
    with pytest.raises(RecipeError, match=r"infer\.top_p: out of bounds, got 2\.0"):
        generate(model, ["中国"], {"top_p": 2.0})
    with pytest.raises(InputError, match="prompt: too long"):
        generate(model, ["中国" * 500], {})


def test_what_watching_leaves_is_no_output(copy: Path) -> None:
    run = Run(copy / "runs" / "mini")
    assert (run.stage("train") / "control" / "status.json").is_file()
    assert not any(row["path"].startswith("control/") for row in (run.manifest("train") or {})["outputs"])
    shutil.rmtree(run.stage("train") / "control")
    assert {row["state"] for row in status_rows(copy / "runs", "mini")[0]["stages"].values()} == {"up to date"}
