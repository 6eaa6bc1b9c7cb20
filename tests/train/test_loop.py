"""The loop: its arithmetic by hand, accumulation, exact resume, and what it says when it must stop."""

from __future__ import annotations

import math
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import CheckpointError, Stopped, TrainingError
from jielong.metrics import read_jsonl
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM, Losses
from jielong.train import checkpoints, loop, precision
from jielong.train.checkpoints import newest, read_state
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch, PackedLoader
from jielong.train.loop import train
from tests.train.conftest import SHAPE, RunTraining, make_job, make_model


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_jsonl(folder / "metrics.jsonl")]


def test_first_loss_by_hand(run_training: RunTraining, model: CausalLM, corpus: Path, tmp_path: Path) -> None:
    """The first record's loss is the mean over the first 4 rows of the untrained model, computed apart from the loop."""
    from jielong.tokenizer.shards.reading import Shards

    run_training(tmp_path, tokens=64)
    batch = PackedLoader(Shards(corpus / "shards", "train"), 16, seed=1).next_batch(4)
    parts = (batch.inputs, batch.labels, batch.positions, batch.documents)
    with torch.no_grad():
        expected = float(model.loss_sum(*(torch.from_numpy(part) for part in parts))) / 64
    assert losses(tmp_path) == [pytest.approx(expected, rel=1e-6)]


def test_loss_falls(run_training: RunTraining, tmp_path: Path) -> None:
    counts = run_training(tmp_path, tokens=60 * 64)
    found = losses(tmp_path)
    assert len(found) == counts["steps"] == 60
    assert found[-1] < 0.7 * found[0]


def test_accumulation_equals_one_large_batch(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "one", micro_batch_tokens=64)
    run_training(tmp_path / "four", micro_batch_tokens=16)
    assert losses(tmp_path / "one") == [pytest.approx(loss, rel=1e-4) for loss in losses(tmp_path / "four")]


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
def test_resume_is_bit_exact(run_training: RunTraining, tmp_path: Path, stop: int) -> None:
    run_training(tmp_path / "unbroken", save_every_steps=5)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=stop + 1, save_every_steps=5)
    run_training(tmp_path / "broken", save_every_steps=5)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    one, two = (newest(tmp_path / name / "checkpoints") for name in ("unbroken", "broken"))
    assert one is not None and two is not None
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_resume_with_dropout_is_bit_exact(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout every step draws random numbers, so this fails unless the generator's state is restored."""
    from tests.train import conftest

    monkeypatch.setattr(conftest, "SHAPE", conftest.SHAPE.model_copy(update={"attention_dropout": 0.3}))
    run_training(tmp_path / "unbroken", save_every_steps=5)
    with pytest.raises(RuntimeError):
        run_training(tmp_path / "broken", fail_at=8, save_every_steps=5)
    torch.manual_seed(999)
    run_training(tmp_path / "broken", save_every_steps=5)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_finished_run_does_nothing_more(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    before = losses(tmp_path)
    again = run_training(tmp_path)
    assert again["steps"] == 12 and again["final_loss"] == before[-1] and again["validation_bits_per_byte"] == 1.0
    assert losses(tmp_path) == before


def test_another_recipe_s_checkpoint_is_refused(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    checkpoint = newest(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint)["fingerprint"] == "fingerprint"
    from jielong.model.hf import write_checksums
    from jielong.runs import write_json

    state = read_state(checkpoint)
    for change, sentence in (
        ({"fingerprint": "other"}, "belongs to another recipe"),
        ({"total_steps": 13}, "run of 13"),
    ):
        write_json(checkpoint / "trainer" / "state.json", state | change)
        write_checksums(checkpoint)
        with pytest.raises(CheckpointError, match=sentence):
            run_training(tmp_path)


def patched(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Batch, Losses], Losses]) -> None:
    """Let `change` see the micro-batch's number, from 1, the batch and what the model found, and replace that."""
    forward, seen = TorchEngine.forward, [0]

    def other(self: TorchEngine, batch: Batch, last: bool = True) -> Losses:
        seen[0] += 1
        return change(seen[0], batch, forward(self, batch, last))

    monkeypatch.setattr(TorchEngine, "forward", other)


def events(folder: Path) -> list[tuple[int, str]]:
    return [(row["step"], row["event"]) for row in read_jsonl(folder / "history.jsonl")]


def test_a_step_that_is_not_finite_is_passed_over(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(
        monkeypatch,
        lambda n, batch, found: found._replace(cross_entropy=found.cross_entropy * (math.nan if n == 8 else 1)),
    )
    run_training(tmp_path, keep_every_steps=7)
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in records] == list(range(1, 13))
    assert records[7]["skipped"] == "loss is nan" and records[7]["loss"] is None and records[7]["grad_norm"] is None
    assert not any("skipped" in row for row in records[:7] + records[8:])
    assert events(tmp_path) == [(8, "skipped")]
    dumped = read_jsonl(tmp_path / "spikes" / "step-00000008.jsonl")
    assert dumped[0]["reason"] == "loss is nan" and any("新闻" in row["text"] for row in dumped[1:])
    newest = checkpoints.require_newest(tmp_path / "checkpoints")
    assert all(bool(p.isfinite().all()) for p in load_folder(newest).parameters())


@pytest.mark.parametrize("save_every_steps", [None, 1, 2, 3, 5])
def test_a_learning_rate_of_1_is_survived(
    save_every_steps: int | None, run_training: RunTraining, tmp_path: Path
) -> None:
    """The weights are ruined at once; the run goes back to a state that is known to be good, at ever lower rates."""
    run_training(tmp_path, learning_rate=1.0, warmup_ratio=0.0, tokens=40 * 64, save_every_steps=save_every_steps)
    history = read_jsonl(tmp_path / "history.jsonl")
    back = [row for row in history if row["event"] == "rolled back"]
    assert back and back[-1]["rate"] <= 0.5 and {row["event"] for row in history} == {"skipped", "rolled back"}
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in records] == list(range(1, 41))
    assert records[-1]["learning_rate"] == pytest.approx(0.1 * back[-1]["rate"])
    taken = [row["loss"] for row in records if "skipped" not in row]
    assert taken[-1] < taken[0] and read_jsonl(tmp_path / "discarded.jsonl")
    newest = checkpoints.require_newest(tmp_path / "checkpoints")
    assert all(bool(p.isfinite().all()) for p in load_folder(newest).parameters())


def test_a_rate_that_never_works_ends_with_a_sentence(run_training: RunTraining, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="went back 2 times to step-00000000 and the loss leaves its band again"):
        run_training(tmp_path, learning_rate=1e6, warmup_ratio=0.0, tokens=40 * 64, guard={"max_rollbacks": 2})


def test_poisoned_batches_are_passed_over(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One poisoned step is skipped. Three in a row lead back to step 36, and the data goes on behind them."""
    poisoned, texts = {18, 39, 40, 41}, list[bytes]()

    def noise(n: int, batch: Batch, found: Losses) -> Losses:
        texts.append(batch.labels.tobytes())
        return found._replace(cross_entropy=found.cross_entropy * (5.0 if n in poisoned else 1.0))

    patched(monkeypatch, noise)
    run_training(tmp_path, tokens=48 * 64, save_every_steps=12)
    skipped = [(n, "skipped") for n in sorted(poisoned)]
    assert events(tmp_path) == [*skipped, (41, "rolled back")]
    assert len(texts) == 48 + 5 and len(set(texts)) == len(texts)  # steps 37 to 41 twice, no row twice
    names = sorted(path.name for path in (tmp_path / "spikes").iterdir())
    assert names == [f"step-000000{n}.jsonl" for n in sorted(poisoned)]
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == list(range(1, 49))
    assert [row["step"] for row in read_jsonl(tmp_path / "discarded.jsonl")] == list(range(37, 42))


def test_other_data_is_no_fault(run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the 30th step on every loss is twice as high, as in another phase of a mix: the band moves, the rate stays."""
    patched(
        monkeypatch,
        lambda n, batch, found: found._replace(cross_entropy=found.cross_entropy * (2.0 if n > 30 else 1.0)),
    )
    run_training(tmp_path, tokens=48 * 64, save_every_steps=10)
    assert [event for _, event in events(tmp_path)] == 2 * [*3 * ["skipped"], "rolled back"]
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert len(records) == 48 and not any("skipped" in row for row in records)
    assert records[-1]["learning_rate"] == pytest.approx(0.001) and records[-1]["loss"] > 4


def test_a_loss_that_is_not_a_number_leaves_the_scale_of_float16_alone(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(
        monkeypatch,
        lambda n, batch, found: found._replace(cross_entropy=found.cross_entropy * (math.nan if n == 8 else 1.0)),
    )
    run_training(tmp_path, precision="float16")
    assert events(tmp_path) == [(8, "skipped")]
    state = read_state(checkpoints.require_newest(tmp_path / "checkpoints"))
    assert state["scale"] == {"value": 65536.0, "good_steps": 11}


def test_a_damaged_newest_checkpoint_is_passed_over_when_going_back(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(n: int, batch: Batch, found: Losses) -> Losses:
        if n == 25:
            newest = tmp_path / "checkpoints" / "step-00000020" / "model.safetensors"
            while not newest.is_file():  # it is written beside the training
                time.sleep(0.01)
            newest.write_bytes(b"bad")
        return found._replace(cross_entropy=found.cross_entropy * (math.nan if 25 <= n < 28 else 1.0))

    patched(monkeypatch, ruin)
    run_training(tmp_path, tokens=30 * 64, save_every_steps=10, keep_checkpoints=3)
    back = [row for row in read_jsonl(tmp_path / "history.jsonl") if row["event"] == "rolled back"]
    assert [row["to_step"] for row in back] == [10]
    assert (tmp_path / "checkpoints" / "damaged-step-00000020").is_dir()


def test_a_run_that_went_back_resumes_exactly(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong lies in the data, so it happens again after a kill; the end is the same, bit for bit."""

    def poison(n: int, batch: Batch, found: Losses) -> Losses:
        bad = int(batch.labels.sum()) % 7 == 3  # always the same rows
        return found._replace(cross_entropy=found.cross_entropy * (math.inf if bad else 1.0))

    patched(monkeypatch, poison)
    settings = {"tokens": 30 * 64, "save_every_steps": 4, "guard": {"hits": 2, "max_rollbacks": 50}}
    run_training(tmp_path / "unbroken", **settings)
    assert "rolled back" in {event for _, event in events(tmp_path / "unbroken")}
    for fail_at in (6, 3, 9):
        with pytest.raises(RuntimeError, match="injected fault"):
            run_training(tmp_path / "broken", fail_at=fail_at, **settings)
    run_training(tmp_path / "broken", **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    one, two = (newest(tmp_path / name / "checkpoints") for name in ("unbroken", "broken"))
    assert one is not None and two is not None
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_a_float16_overflow_halves_the_scale(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**24)
    run_training(tmp_path, precision="float16")
    found = events(tmp_path)
    assert found and {event for _, event in found} == {"overflow"} and len(found) < 12
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in records if "skipped" in row] == [step for step, _ in found]
    state = read_state(checkpoints.require_newest(tmp_path / "checkpoints"))
    assert state["scale"] == {"value": 2.0**24 / 2 ** len(found), "good_steps": 12 - len(found)}
    monkeypatch.undo()
    run_training(tmp_path / "half", precision="float16")
    run_training(tmp_path / "full")
    assert losses(tmp_path / "half") != losses(tmp_path / "full")  # it is really used
    assert losses(tmp_path / "half") == [pytest.approx(loss, rel=0.02) for loss in losses(tmp_path / "full")]


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_and_resumes(
    kind: signal.Signals, status: int, run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(tmp_path / "unbroken")
    patched(monkeypatch, lambda n, batch, found: (signal.raise_signal(kind) if n == 4 else None) or found)
    with pytest.raises(Stopped, match="stopped after step 5, saved") as stopped:
        run_training(tmp_path / "broken")
    assert stopped.value.exit_code == status
    assert [path.name for path in checkpoints.checkpoints(tmp_path / "broken" / "checkpoints")] == [
        "step-00000000", "step-00000005"]  # fmt: skip
    run_training(tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert events(tmp_path / "broken") == [(5, "stopped"), (5, "resumed")]


def test_a_stop_in_the_last_step_stops_what_comes_after(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched(monkeypatch, lambda n, batch, found: (signal.raise_signal(signal.SIGTERM) if n == 12 else None) or found)
    with pytest.raises(Stopped, match="stopped after the last step, saved"):
        run_training(tmp_path)
    assert run_training(tmp_path)["steps"] == 12


def test_the_same_request_that_comes_in_twice_does_not_kill(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue signals every process, and the process above passes the signal on."""

    def twice(n: int, batch: Batch, found: Losses) -> Losses:
        for _ in range(2 if n == 4 else 0):
            signal.raise_signal(signal.SIGTERM)
        return found

    patched(monkeypatch, twice)
    with pytest.raises(Stopped, match="stopped after step 5, saved"):
        run_training(tmp_path)


def test_one_more_request_after_a_second_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: killed.append(number))
    try:
        with loop.graceful_stop() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop() and not killed
            moment = time.monotonic()
            monkeypatch.setattr(loop.time, "monotonic", lambda: moment + 1.5)
            signal.raise_signal(signal.SIGTERM)
            assert killed == [signal.SIGTERM]  # what was there before is in charge again
    finally:
        signal.signal(signal.SIGTERM, previous)


# ------------------------------------------------------------------------------------ killed at any moment


def train_in(corpus: str, folder: str) -> None:
    """In a process of its own, to be killed."""
    job = make_job(Path(corpus), Path(folder), tokens=90 * 64, save_every_steps=3)
    train(job, TorchEngine(make_model(job), job.config))


def killed_and_resumed(corpus: Path, folder: Path, kills: int) -> None:
    """Kill the training `kills` times at random moments and let it end; compare it with the unbroken run."""
    # a server process that has imported everything forks the ones that are killed: a start costs milliseconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    moments, killed, during, checkpoint = random.Random(7), 0, 0, folder / "broken" / "checkpoints"
    while killed < kills:
        process = context.Process(target=train_in, args=(str(corpus), str(folder / "broken")))
        process.start()
        process.join(moments.uniform(0.05, 0.7))
        while killed % 2 and process.is_alive() and not any(checkpoint.glob(".step-*")):
            pass  # every other time as soon as a checkpoint is being written
        if process.is_alive():
            process.kill()
            killed += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        during += any(checkpoint.glob(".step-*"))  # what it left
        if process.exitcode == 0 and killed < kills:  # it came to its end: once more from the beginning
            compare_ends(folder)
            shutil.rmtree(folder / "broken")
    train_in(str(corpus), str(folder / "broken"))
    compare_ends(folder)
    assert during > 0, "no kill fell into the writing of a checkpoint"


def compare_ends(folder: Path) -> None:
    assert losses(folder / "broken") == losses(folder / "unbroken")
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        one, two = (newest(folder / kind / "checkpoints") for kind in ("unbroken", "broken"))
        assert one is not None and two is not None and (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(corpus: Path, tmp_path: Path, kills: int) -> None:
    train_in(str(corpus), str(tmp_path / "unbroken"))
    killed_and_resumed(corpus, tmp_path, kills)


# ----------------------------------------------------------- regressions: the defects known in this field


def test_loss_is_not_logged_divided_by_the_accumulation_steps(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "one", tokens=64, micro_batch_tokens=64)
    run_training(tmp_path / "four", tokens=64, micro_batch_tokens=16)
    first = losses(tmp_path / "four")[0]
    assert first == pytest.approx(losses(tmp_path / "one")[0], rel=1e-5)
    assert first == pytest.approx(math.log(300), rel=0.05)  # about that of a guess, not a quarter of it


def test_warm_up_is_counted_in_optimizer_steps(run_training: RunTraining, tmp_path: Path) -> None:
    for name, micro in (("one", 64), ("four", 16)):
        run_training(tmp_path / name, micro_batch_tokens=micro, warmup_ratio=0.5)
        rates = [row["learning_rate"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
        assert rates[:6] == [pytest.approx(0.01 * step / 6) for step in range(1, 7)] and max(rates) == rates[5]


def test_auxiliary_loss_keeps_no_graph(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is summed over micro-batches is numbers: no sum leads back to the graph of a micro-batch."""
    found: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "add_up", lambda world, tensor: found.append(tensor) or tensor)
    shape = SHAPE.model_copy(update={"num_experts": 4, "moe_intermediate_size": 8})
    run_training(tmp_path, shape=shape, micro_batch_tokens=16, tokens=2 * 64)
    assert len(found) == 5  # losses and expert use of two steps, and whether to stop
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in found) and found[0][1] > 0


def test_weights_are_not_halved_on_resume(run_training: RunTraining, tmp_path: Path) -> None:
    """Saved, loaded and saved again, the weights are the same; so are they where the embedding is tied."""
    for tied in (False, True):
        shape, folder = SHAPE.model_copy(update={"tie_word_embeddings": tied}), tmp_path / str(tied)
        run_training(folder, shape=shape, tokens=4 * 64)
        first = checkpoints.require_newest(folder / "checkpoints")
        before = load_folder(first).state_dict()
        engine = TorchEngine(load_folder(first), Config(precision="float32"))
        engine.load(checkpoints.read_snapshot(first, read_state(first)))
        after = engine.snapshot().weights
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_last_partial_accumulation_is_not_dropped(run_training: RunTraining, tmp_path: Path) -> None:
    """900 tokens in steps of 64 are 15 steps, and each of them is a whole one: 15 x 64 labels are learned from."""
    counts = run_training(tmp_path, tokens=900, micro_batch_tokens=16)
    records = read_jsonl(tmp_path / "metrics.jsonl")
    assert counts["steps"] == 15 and counts["tokens"] == 15 * 64 and len(records) == 15
    assert checkpoints.require_newest(tmp_path / "checkpoints").name == "step-00000015"


def test_bfloat16_stays_near_float32(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "full")
    run_training(tmp_path / "half", precision="bfloat16")
    assert losses(tmp_path / "half") != losses(tmp_path / "full")  # it is really used
    assert losses(tmp_path / "half") == [pytest.approx(loss, rel=0.02) for loss in losses(tmp_path / "full")]


@pytest.mark.parametrize(
    "changes", [{}, {"scoring_func": "sigmoid", "router_bias_update_rate": 0.01}], ids=["loss", "bias"]
)
def test_experts_are_logged_and_resume_exactly(
    changes: dict[str, Any], run_training: RunTraining, tmp_path: Path
) -> None:
    """Every step says how even the experts' use was; a broken run goes on with the same biases and losses, bit for bit."""
    shape = SHAPE.model_copy(update={"num_experts": 4, "moe_intermediate_size": 8, **changes})
    run_training(tmp_path / "unbroken", shape=shape, log_every_steps=6)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=9, shape=shape, save_every_steps=4, log_every_steps=6)
    run_training(tmp_path / "broken", shape=shape, log_every_steps=6)
    first, second = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("unbroken", "broken"))
    for one, other in zip(first, second, strict=True):
        for key in ("loss", "auxiliary_loss", "expert_share_max", "experts_unused"):
            assert one[key] == other[key]
        assert one["auxiliary_loss"] > 0 and 0.25 <= one["expert_share_max"] <= 0.5  # each token takes two of four
        assert ("expert_use" in one) == (one["step"] % 6 == 0)
    assert [sum(row) for row in first[-1]["expert_use"]] == [64 * 2, 64 * 2]
    weights = [load_folder(newest(tmp_path / name / "checkpoints")).state_dict() for name in ("unbroken", "broken")]  # type: ignore[arg-type]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    biases = [value for name, value in weights[0].items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == (2 if changes else 0) and all(bias.abs().max() > 0 for bias in biases)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # where deepspeed was imported before
def test_compiled_equals_eager(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "eager", tokens=3 * 64)
    run_training(tmp_path / "compiled", tokens=3 * 64, compile=True)
    assert losses(tmp_path / "compiled") == [pytest.approx(loss, rel=1e-4) for loss in losses(tmp_path / "eager")]
