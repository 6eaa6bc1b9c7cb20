"""The run's side: commands while it goes on and while it pauses, replay after a kill, several ranks, what is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import Stopped
from jielong.metrics import read_jsonl
from jielong.train import checkpoints
from jielong.train.control import listener
from jielong.train.control.mailbox import Mailbox, put
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.job import Job
from jielong.train.logbook import Logbook
from jielong.train.loop import train
from jielong.world import World, joined, this_world
from tests.train import conftest
from tests.train.conftest import make_job, make_model
from tests.train.control.runs import ENDLESS, Running, listening_job, until
from tests.train.engines.processes import run_processes


@pytest.fixture(scope="module")
def endless(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One run for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("running")
    box = Mailbox(folder)
    box.send({"command": "pause"})
    job = listening_job(
        corpus, folder, tokens=ENDLESS, save_every_minutes=None, sample_every_steps=10**9, sample_tokens=4
    )
    with Running(job) as run:
        yield run


@pytest.fixture
def running(endless: Running) -> Iterator[Running]:
    """The same, going on again behind a test that failed in a pause."""
    yield endless
    if (endless.box.status() or {}).get("state") == "paused":
        endless.ask("resume")


def test_a_command_from_before_is_answered_and_not_obeyed(running: Running) -> None:
    (answer,) = [json.loads(path.read_bytes()) for path in sorted((running.box.folder / "answers").iterdir())[:1]]
    assert not answer["ok"] and "sent before this training began" in answer["text"]


def test_pause_and_resume(running: Running) -> None:
    paused = running.ask("pause")
    assert paused["ok"] and until(lambda: running.box.status())["state"] == "paused"
    step = running.step
    assert running.ask("status")["status"]["step"] == step == paused["step"]
    assert running.ask("pause")["ok"] and running.step == step  # a second one changes nothing
    elapsed = [running.ask("status")["status"]["elapsed"] for _ in range(2)]
    assert elapsed[0] == elapsed[1]  # a pause is no training time
    assert running.ask("resume")["ok"]
    until(lambda: running.step > step)
    events = [(row["command"], row["step"]) for row in running.history]
    assert events[-3:] == [("pause", step), ("pause", step), ("resume", step)]
    assert [row["number"] for row in running.history] == list(range(1, len(running.history) + 1))


def test_the_weights_in_memory_answer_a_prompt(running: Running) -> None:
    running.ask("pause")
    before = torch.get_rng_state()
    drawn = [
        running.ask("generate", prompt="中国", temperature=1.0, seed=seed, max_new_tokens=8)["text"]
        for seed in (1, 2, 1)
    ]
    assert drawn[0] == drawn[2] != drawn[1] and drawn[0].startswith("【中国】")
    saved = running.ask("save")
    assert saved["ok"] and saved["text"] == f"saved as step-{saved['step']:08d}"
    from jielong.model.hf import load_folder

    model = load_folder(running.job.folder / "checkpoints" / f"step-{saved['step']:08d}")
    assert running.job.generate is not None
    settings = {"temperature": 1.0, "seed": 1, "max_new_tokens": 8}
    assert listener.shown(running.job.generate(model, ["中国"], settings)[0]) == drawn[0]
    assert torch.equal(torch.get_rng_state(), before)
    running.ask("resume")


def test_the_last_batch_as_text(running: Running) -> None:
    running.ask("pause")
    found = running.ask("batch", rows=2)
    assert {part["row"] for part in found["rows"]} == {0, 1}
    assert all(part["text"].strip("\ufffd") in conftest.TEXTS[part["document"]] for part in found["rows"])
    assert all(shown in found["text"] for part in found["rows"] for shown in part["text"].splitlines())
    assert found["text"].endswith("(2 more rows)") and "of text" in found["text"]
    assert sum(part["end"] - part["begin"] for part in found["rows"]) == 2 * 16
    running.ask("resume")


def test_other_sample_prompts_are_shown_at_once(running: Running) -> None:
    answer = running.ask("prompts", prompts=["人民", "天气"])
    assert answer["ok"] and [row["prompt"] for row in answer["continuations"]] == ["人民", "天气"]
    rows = [row for row in read_jsonl(running.job.folder / "samples.jsonl") if row["step"] == answer["step"]]
    assert [row["prompt"] for row in rows][-2:] == ["人民", "天气"]


def test_what_is_wrong_is_answered_and_disturbs_nothing(running: Running) -> None:
    events = len(running.history)
    put(running.box.folder / "broken.json", {})
    (running.box.folder / "broken2.json").write_bytes(b"{")
    found = [until(lambda name=name: running.box.answered(name)) for name in ("broken.json", "broken2.json")]
    found += [running.ask("sleep"), running.ask("learning-rate", value="fast"), running.ask("pause", seconds=3)]
    found += [running.ask("generate", prompt="中国", temperature=-1.0), running.ask("generate", prompt="天气" * 40)]
    found += [running.ask("prompts", prompts=["天气" * 40]), running.ask("generate", prompt="中国", top_p=2.0)]
    assert not any(answer["ok"] for answer in found)
    for answer, words in zip(found, ("unknown, got 'None'", "not valid JSON", "unknown, got 'sleep'", "not a rate", "'seconds'",
                                     "generate: temperature: out of", "prompt: too long", "prompts: too long", "generate: top_p"), strict=True):  # fmt: skip
        assert words in answer["text"] and "\n" not in answer["text"]
    step = running.step
    until(lambda: running.step > step)
    assert len(running.history) == events


def test_a_changed_learning_rate_is_in_the_metrics_and_the_history(running: Running) -> None:
    at = running.ask("learning-rate", value="3e-4")["step"]
    half = running.ask("learning-rate", value="x0.5")["step"]
    until(lambda: running.step > half + 1)
    rates = {record["step"]: record["learning_rate"] for record in running.records}
    assert rates[at] == 0.01 and rates[at + 1] == pytest.approx(3e-4) and rates[half] == pytest.approx(3e-4)
    assert rates[half + 1] == rates[half + 2] == pytest.approx(1.5e-4)
    one, two = [row for row in running.history if row["command"] == "learning-rate"]
    assert (
        (one["step"], two["step"]) == (at, half)
        and two["rate"] == pytest.approx(0.015)
        and "by a person" in one["text"]
    )
    assert running.ask("status")["status"]["learning_rate_factor"] == two["rate"]


def test_the_record_says_what_the_device_does(running: Running) -> None:
    last = running.records[-1]
    assert 0 < last["mfu"] < 1 and last["memory"] > 10_000_000
    status = running.ask("status")
    for key in ("pid", "host", "step", "total_steps", "loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "memory",
                "elapsed", "eta", "state", "started"):  # fmt: skip
        assert status["status"][key] is not None, key
    assert "tokens/s" in status["text"]
    # an MFU of 1 is the same speed in every record, and beside the mean speed, whose MFU is shown
    whole = [record["tokens_per_second"] / record["mfu"] for record in running.records[-20:]]
    shown = status["status"]["tokens_per_second"] / status["status"]["mfu"]
    assert min(whole) * 0.99 < shown < max(whole) * 1.01


def test_stop_in_a_pause_saves(corpus: Path, tmp_path: Path) -> None:
    with Running(listening_job(corpus, tmp_path, tokens=ENDLESS)) as run:
        step = run.ask("pause")["step"]
        assert run.ask("stop")["text"] == f"saved as step-{step:08d}"
        run.join()
    assert isinstance(run.ended, Stopped)
    assert checkpoints.require_newest(tmp_path / "checkpoints").name == f"step-{step:08d}"
    status = run.box.status()
    assert status is not None and status["state"] == "stopped" and status["step"] == step
    assert [row.get("command", row["event"]) for row in run.history] == ["pause", "stop", "stopped"]


@pytest.mark.slow  # transformers.Trainer is a long import
def test_the_trainer_listens_too(corpus: Path, tmp_path: Path) -> None:
    from jielong.train.engines.trainer import train_with_trainer

    job = listening_job(corpus, tmp_path, tokens=ENDLESS, engine="hf")
    with Running(job, lambda job, stop: train_with_trainer(job, make_model(job), World(), stop)) as run:
        at = run.ask("learning-rate", value="2e-3")["step"]
        step = run.ask("pause")["step"]
        assert run.ask("generate", prompt="中国")["text"].startswith("【中国】") and run.step == step
        run.ask("resume")
        until(lambda: run.step > step)
        rates = {record["step"]: record["learning_rate"] for record in run.records}
        assert rates[at] == 0.01 and rates[at + 1] == pytest.approx(2e-3)
        assert run.ask("stop")["ok"]
        run.join()
        assert isinstance(run.ended, Stopped)


def test_a_mean_that_begins_unbiased() -> None:
    """(0.95 x 1 + 2) / (0.95 + 1)."""
    smooth = listener.Smooth()
    assert smooth.mean is None
    smooth.add(1.0)
    assert smooth.mean == 1.0
    smooth.add(2.0)
    assert smooth.mean == pytest.approx(2.95 / 1.95)


# --------------------------------------------------------------------------------------------------------- replay


def scripted(corpus: Path, folder: Path, script: dict[int, dict[str, Any]], end: int = 14, **settings: Any) -> None:
    """A run in which a person sends commands at the end of some steps: they are heard a step later."""
    settings = {"tokens": end * 64, "evaluate_every_steps": 1, "save_every_steps": 4, "schedule": "cosine"} | settings
    job = listening_job(corpus, folder, **settings)
    box = Mailbox(folder)

    calls = [-1]  # one before the first step

    def validate(model: Any, autocast: Any) -> dict[str, float]:
        calls[0] += 1
        if (command := script.get(calls[0])) is not None:
            box.send(command)
        return {"loss": 1.0, "bits_per_byte": 1.0}

    object.__setattr__(job, "validate", validate)
    train(job, TorchEngine(make_model(job), job.config))


def same(one: Path, other: Path) -> None:
    first, second = (checkpoints.require_newest(folder / "checkpoints") for folder in (one, other))
    assert first.name == second.name
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


SCRIPT = {
    1: {"command": "learning-rate", "value": "x3"},
    4: {"command": "learning-rate", "value": "2e-3"},
    8: {"command": "learning-rate", "value": "x0.25"},
    9: {"command": "save"},
}


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_killed_run_makes_its_interventions_again(corpus: Path, tmp_path: Path, lost: int) -> None:
    """Checkpoints 4, 8, 9 (by hand) and 12, the end is 14; the newest ones are lost as in a kill before they were written."""
    settings = {"keep_checkpoints": 10}
    scripted(corpus, tmp_path / "unbroken", SCRIPT, **settings)
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    for path in checkpoints.checkpoints(tmp_path / "broken" / "checkpoints")[-lost:]:
        shutil.rmtree(path)
    scripted(corpus, tmp_path / "broken", {}, **settings)
    same(tmp_path / "unbroken", tmp_path / "broken")
    one, two = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("unbroken", "broken"))
    assert [(row["loss"], row["learning_rate"]) for row in one] == [(row["loss"], row["learning_rate"]) for row in two]
    again = [row["of"] for row in read_jsonl(tmp_path / "broken" / "history.jsonl") if row["event"] == "replayed"]
    assert again == {1: [], 2: [], 3: [3]}[lost]


def test_an_intervention_after_the_checkpoint_is_replayed_once(corpus: Path, tmp_path: Path) -> None:
    scripted(corpus, tmp_path / "unbroken", SCRIPT | {9: {"command": "status"}}, save_every_steps=100)
    scripted(corpus, tmp_path / "plain", {}, save_every_steps=100)
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    shutil.rmtree(checkpoints.require_newest(tmp_path / "broken" / "checkpoints"))
    assert checkpoints.require_newest(tmp_path / "broken" / "checkpoints").name == "step-00000000"
    scripted(corpus, tmp_path / "broken", {}, save_every_steps=6, keep_checkpoints=10)
    same(tmp_path / "unbroken", tmp_path / "broken")
    replayed = [
        (row["step"], row["of"])
        for row in read_jsonl(tmp_path / "broken" / "history.jsonl")
        if row["event"] == "replayed"
    ]
    assert replayed == [(2, 1), (5, 2), (9, 3)]
    shutil.rmtree(
        checkpoints.require_newest(tmp_path / "broken" / "checkpoints")
    )  # killed again: what is pending is in step 6
    assert checkpoints.require_newest(tmp_path / "broken" / "checkpoints").name == "step-00000012"
    shutil.rmtree(checkpoints.require_newest(tmp_path / "broken" / "checkpoints"))
    scripted(corpus, tmp_path / "broken", {}, save_every_steps=100)
    same(tmp_path / "unbroken", tmp_path / "broken")
    weights = [(checkpoints.require_newest(tmp_path / name / "checkpoints") / "model.safetensors").read_bytes()
               for name in ("plain", "unbroken")]  # fmt: skip
    assert weights[0] != weights[1]  # the interventions did change something


def test_a_run_that_was_asked_is_the_one_that_was_left_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout every step draws random numbers, so this fails if a question draws one of them."""
    monkeypatch.setattr(conftest, "SHAPE", conftest.SHAPE.model_copy(update={"attention_dropout": 0.3}))
    questions = {3: {"command": "generate", "prompt": "中国", "temperature": 1.0}, 5: {"command": "batch"},
                 7: {"command": "save"}, 8: {"command": "status"}, 9: {"command": "prompts", "prompts": ["天气"]}}  # fmt: skip
    scripted(corpus, tmp_path / "alone", {})
    scripted(corpus, tmp_path / "asked", questions)
    same(tmp_path / "alone", tmp_path / "asked")
    answers = [json.loads(path.read_bytes()) for path in (tmp_path / "asked" / "control" / "answers").iterdir()]
    assert sorted(answer["step"] for answer in answers) == [4, 6, 8, 8, 10] and all(answer["ok"] for answer in answers)


def test_what_cannot_be_written_down_does_not_happen(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Running(listening_job(corpus, tmp_path, tokens=ENDLESS, save_every_minutes=None)) as run:

        def full(self: Logbook) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Logbook, "sync", full)
            answer = run.ask("learning-rate", value="x0.5")
        assert not answer["ok"] and "No space left" in answer["text"]
        assert run.ask("status")["status"]["learning_rate_factor"] == 1.0
        step = run.step
        until(lambda: run.step > step)
        assert run.records[-1]["learning_rate"] == 0.01
        run.ask("learning-rate", value="x0.1")
    for path in checkpoints.checkpoints(tmp_path / "checkpoints")[1:]:  # killed: neither does it happen when it goes on
        shutil.rmtree(path)
    with Running(listening_job(corpus, tmp_path, tokens=ENDLESS, save_every_minutes=None)) as run:
        until(lambda: any(row["event"] == "replayed" for row in run.history))
        events = [row["event"] for row in run.history]
        assert events == ["intervention", "refused", "intervention", "stopped", "resumed", "replayed"]
        assert run.ask("status")["status"]["learning_rate_factor"] == pytest.approx(0.1)


def test_a_stop_on_a_full_disk_does_not_say_that_it_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with Running(listening_job(corpus, tmp_path, tokens=ENDLESS, save_every_minutes=None)) as run:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save", full)
            assert not run.ask("save")["ok"]  # this one is borne
            step = run.step
            until(lambda: run.step > step)
            assert not run.ask("stop")["ok"]
            run.join()
        assert isinstance(run.ended, OSError) and "stopped" not in [row["event"] for row in run.history]
        assert (run.box.status() or {})["state"] == "failed"
        run.ended = None


def test_factors_of_factors_have_bounds(corpus: Path, tmp_path: Path) -> None:
    with Running(listening_job(corpus, tmp_path, tokens=ENDLESS, save_every_minutes=None)) as run:
        run.ask("pause")
        for value, found in (("x1e200", "inf"), ("x1e-200", "0")):
            assert run.ask("learning-rate", value=value)["ok"]
            again = run.ask("learning-rate", value=value)
            assert not again["ok"] and f"out of bounds, got {found} times" in again["text"]
            assert run.ask("learning-rate", value="1e-2")["rate"] == pytest.approx(1.0)


def test_a_run_begun_anew_replays_nothing(corpus: Path, tmp_path: Path) -> None:
    """Its checkpoints were moved away, as its errors advise; what was done to the first run is in the history still. Killed, it
    makes only its own interventions again.
    """
    own = {6: {"command": "learning-rate", "value": "x0.5"}}
    scripted(corpus, tmp_path / "unbroken", own)
    scripted(corpus, tmp_path / "anew", SCRIPT)
    shutil.rmtree(tmp_path / "anew" / "checkpoints")
    scripted(corpus, tmp_path / "anew", own, save_every_steps=100)
    same(tmp_path / "unbroken", tmp_path / "anew")
    shutil.rmtree(checkpoints.require_newest(tmp_path / "anew" / "checkpoints"))
    scripted(corpus, tmp_path / "anew", {})
    same(tmp_path / "unbroken", tmp_path / "anew")
    again = [row["of"] for row in read_jsonl(tmp_path / "anew" / "history.jsonl") if row["event"] == "replayed"]
    assert again == [5]


def test_going_back_keeps_what_was_set_and_replays_nothing(corpus: Path, tmp_path: Path) -> None:
    """The rate is set behind step 6; three refused steps lead back to step 4, and steps 5 to 14 have the new rate."""
    job = make_job(
        corpus, tmp_path, tokens=14 * 64, save_every_steps=4, schedule="constant", warmup_ratio=0.0, keep_checkpoints=10
    )
    engine, box, forward, seen = TorchEngine(make_model(job), job.config), Mailbox(tmp_path), None, [0]
    forward = engine.forward

    def poisoned(batch: Any, last: bool = True) -> Any:
        seen[0] += 1
        if seen[0] == 6:
            box.send(
                {"command": "learning-rate", "value": "x0.5"}
            )  # heard behind step 7: not summed up in step 6 any more
        found = forward(batch, last)
        return found._replace(cross_entropy=found.cross_entropy * (float("nan") if 9 <= seen[0] <= 11 else 1.0))

    engine.forward = poisoned  # type: ignore[method-assign]
    train(job, engine)
    rates = [record["learning_rate"] for record in read_jsonl(tmp_path / "metrics.jsonl")]
    history = read_jsonl(tmp_path / "history.jsonl")
    back = next(row["to_step"] for row in history if row["event"] == "rolled back")
    assert rates == [0.01] * back + [0.005] * (14 - back)
    assert [row["event"] for row in history].count("intervention") == 1 and "replayed" not in [
        row["event"] for row in history
    ]


# ------------------------------------------------------------------------------------------------------ many ranks


def scenario(corpus: str, folder: str) -> dict[str, Any]:
    """Commands reach all ranks: a changed rate, a pause, a generation, a stop."""
    world = this_world()
    with joined(world, torch.device("cpu")):
        job = _job(Path(corpus), Path(folder), world.size)
        engine = TorchEngine(make_model(job), job.config, world)
        try:
            train(job, engine, stop=lambda: False)
        except Stopped:
            weights = engine.snapshot().weights
            return {
                "rank": world.rank,
                "weights": len(weights),
                "sum": float(sum(p.sum() for p in engine.model.parameters())),
            }
    return {"rank": world.rank}


def _job(corpus: Path, folder: Path, processes: int) -> Job:
    job = make_job(
        corpus, folder, processes=processes, tokens=ENDLESS, device="cpu", schedule="constant", warmup_ratio=0.0
    )
    generate = listening_job(corpus, folder).generate
    object.__setattr__(job, "generate", generate)
    return job


@pytest.mark.slow
def test_several_ranks_act_alike(corpus: Path, tmp_path: Path) -> None:
    import threading

    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.extend(run_processes(f"{__name__}:scenario", 2, str(corpus), str(tmp_path)))
    )
    thread.start()
    box = Mailbox(tmp_path)

    def ask(command: str, **arguments: Any) -> dict[str, Any]:
        name = box.send({"command": command, **arguments})
        answer: dict[str, Any] = until(lambda: box.answered(name))
        return answer

    until(lambda: len(read_jsonl(tmp_path / "metrics.jsonl")) > 2)
    assert ask("learning-rate", value="1e-3")["ok"] and ask("pause")["ok"]
    assert ask("generate", prompt="中国")["text"].startswith("【中国】")
    assert ask("resume")["ok"]
    stopped = ask("stop")
    thread.join()
    assert stopped["ok"] and [row["rank"] for row in found] == [0, 1]
    assert found[0]["sum"] == found[1]["sum"]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["learning_rate"] == pytest.approx(1e-3)
