"""The guard by hand: what is a hit, when a run goes back, at which rate, and what it writes down."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest

from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Guard as Config
from jielong.train.guard import Guard, dump
from jielong.train.loader import PackedLoader, Span


def settled(**settings: float) -> Guard:
    """After 16 steps with losses 3.9, 4.0, 4.1, ... and norms around 1."""
    guard = Guard(Config.model_validate({"window": 16, **settings}), 1000)
    for n in range(16):
        guard.accept(n + 1, 4.0 + 0.1 * (n % 3 - 1), 1.0 + 0.1 * (n % 3 - 1))
    return guard


def test_limits_by_hand() -> None:
    """The last four of 16 losses are 3.9, 4.0, 4.1, 3.9: median 3.95. Of 15 differences ten are 0.1 and five 0.2: median 0.1,
    so the noise is 0.105, less than 5 % of 3.95.
    """
    loss, norm = settled().limits()
    assert loss == pytest.approx(3.95 + 8 * 0.05 * 3.95) and norm == pytest.approx(10.0)
    loud = Guard(Config(window=16), 1000)
    for n in range(16):
        loud.accept(n + 1, 2.0 + n % 2, 0.5)
    assert loud.limits() == (pytest.approx(2.5 + 8 * 1.4826 / math.sqrt(2)), pytest.approx(5.0))


def test_a_falling_loss_does_not_widen_the_band() -> None:
    guard = Guard(Config(window=16), 1000)
    for n in range(16):
        guard.accept(n + 1, 8.0 - 0.3 * n, 1.0)
    assert guard.limits()[0] == pytest.approx(3.95 + 8 * 0.3 * 1.4826 / math.sqrt(2))  # the last: 4.4, 4.1, 3.8, 3.5


def test_what_is_a_hit() -> None:
    guard = settled()
    assert guard.objection(5.5, 2.0) is None
    assert guard.objection(6.0, 2.0) == "loss 6 is above 5.53"
    assert guard.objection(4.0, 11.0) == "gradient norm 11 is above 10"
    assert guard.objection(math.nan, 1.0) == "loss is nan" and guard.objection(4.0, math.inf) == "gradient norm is inf"


def test_before_there_is_a_band() -> None:
    """The first loss may be three times ln(1000), later ones 1.5 times the largest so far; any finite norm is right."""
    guard = Guard(Config(window=64), 1000)
    assert guard.objection(3 * math.log(1000) - 0.1, 1e9) is None
    assert guard.objection(3 * math.log(1000) + 0.1, 1.0) is not None
    guard.accept(1, 7.0, 1.0)
    assert guard.objection(10.4, 50.0) is None and guard.objection(10.6, 1.0) is not None
    for n in range(15):
        guard.accept(n + 2, 7.0, 1.0)
    assert guard.limits()[1] == 10.0  # a quarter of the window


def test_switched_off_only_what_is_not_finite_is_refused() -> None:
    guard = settled(enabled=False)
    assert guard.objection(1e6, 1e6) is None and guard.objection(math.inf, 1.0) == "loss is inf"


def test_hits_in_a_row_lead_back_and_single_ones_do_not() -> None:
    guard = settled(hits=3)
    assert not guard.hit() and not guard.hit()
    guard.accept(19, 4.0, 1.0)  # the state is good: what came before was the data's
    assert [guard.hit() for _ in range(3)] == [False, False, True]


def test_where_it_goes_back_to() -> None:
    """16 is the last step taken: the state of step 16 was never tried. What it went back to once is known to be good."""
    guard = settled()
    assert guard.target([0, 10, 15, 16]) == 15 and guard.target([0, 16, 18]) == 0
    assert guard.target([16, 18]) == 16  # there is nothing else
    kept = guard.state.to_json() | {"taken": 15}
    guard.go_back(kept, 15)
    assert guard.target([0, 10, 15]) == 15


def returns(guard: Guard, between: int) -> list[float]:
    """The rates after going back again and again, with so many steps taken between."""
    kept, rates = guard.state.to_json(), []
    for _ in range(4):
        assert guard.go_back(kept, 15)
        rates.append(guard.state.rate)
        for n in range(between):
            guard.accept(16 + n, 4.0, 1.0)
    return rates


def test_trouble_soon_after_going_back_lowers_the_rate() -> None:
    assert returns(settled(), 2) == [1.0, 0.5, 0.125, 1 / 64]


def test_trouble_long_after_going_back_does_not() -> None:
    assert returns(settled(), 20) == [1.0, 1.0, 1.0, 1.0]


def test_trouble_at_once_means_that_the_data_is_another() -> None:
    """No step from good weights is in the band any more: the band begins anew, the rate stays."""
    guard = settled()
    assert returns(guard, 0) == [1.0, 1.0, 1.0, 1.0]
    assert guard.state.losses == [] and guard.objection(8.0, 99.0) is None


def test_too_often_is_an_end() -> None:
    guard = settled(max_rollbacks=2)
    kept = guard.state.to_json()
    assert [guard.go_back(kept, 15) for _ in range(3)] == [True, True, False]
    assert guard.go_back(kept, 30)  # another checkpoint is counted anew


def test_the_state_is_json() -> None:
    guard = settled()
    guard.hit()
    again = Guard(guard.config, 1000, orjson.loads(orjson.dumps(guard.state.to_json())))
    assert again.state == guard.state and again.limits() == guard.limits()


def test_the_dump_is_readable_text(corpus: Path, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    shards = Shards(corpus / "shards", "train")
    ids = shards.targets(3)
    loader = PackedLoader(shards, 16, 1)
    loader.spans = lambda state, rows: [Span(0, 3, 0, len(ids)), Span(1, 5, 2, 6)]  # type: ignore[method-assign]
    texts = loader.texts(loader.state, 2, tokenizer)
    for _ in range(2):  # the same step again is added
        dump(tmp_path / "spikes" / "step.jsonl", {"step": 4, "reason": "loss is nan"}, texts)
    lines = [orjson.loads(line) for line in (tmp_path / "spikes" / "step.jsonl").read_bytes().splitlines()]
    assert len(lines) == 6 and lines[3:] == lines[:3]
    assert lines[0]["reason"] == "loss is nan" and lines[1]["text"].startswith("第3条新闻：中国人民")
    assert lines[2]["text"] == tokenizer.decode(shards.targets(5)[2:6].tolist()) and lines[2]["begin"] == 2


def test_a_phase_begins_the_band_anew_and_keeps_the_counts() -> None:
    """The loss of longer rows may be up to three times a guess again, where the band of the shorter ones ended at 5.53."""
    guard = settled()
    guard.hit()
    before = guard.state.to_json()
    guard.begin_anew()
    assert guard.objection(6.0, 50.0) is None and guard.objection(3.1 * math.log(1000), 1.0) is not None
    assert guard.state.to_json() == before | {"losses": [], "norms": []}
