"""Names of optimizer state, copies that do not change, generators of ranks that come and go."""

from __future__ import annotations

import weakref

import pytest
import torch

from jielong.errors import CheckpointError
from jielong.train.engines.state import HostCopies, by_parameter, random_of_all, restore_random, state_tensors
from jielong.world import World

CPU = torch.device("cpu")


def test_copies_are_taken_once_and_used_again() -> None:
    copies, source = HostCopies(), torch.arange(4.0)
    first = copies.copy([("a", source)])["a"]
    source.add_(1)
    assert first.tolist() == [0, 1, 2, 3]
    second = copies.copy([("a", source)])["a"]
    assert second.data_ptr() == first.data_ptr() and second.tolist() == [1, 2, 3, 4]
    assert copies.copy([("a", torch.zeros(2))])["a"].shape == (2,)  # another shape: another place


def test_copies_of_what_is_gone_are_let_go() -> None:
    copies = HostCopies()
    held = copies.copy([("optimizer.a", torch.zeros(2)), ("model", torch.zeros(2))])
    gone, kept = weakref.ref(held.pop("optimizer.a")), held.pop("model").data_ptr()
    copies.forget("optimizer.")
    assert gone() is None and copies.copy([("model", torch.ones(2))])["model"].data_ptr() == kept


def test_state_by_parameter() -> None:
    tensors = {f"{kind}.model.{name}.weight": torch.zeros(1) for kind in ("step", "exp_avg") for name in ("a", "b")}
    found = by_parameter(tensors, ["model.a.weight", "model.b.weight"])
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "model.a.weight": {"step", "exp_avg"}, "model.b.weight": {"step", "exp_avg"}}  # fmt: skip
    with pytest.raises(CheckpointError, match=r"no optimizer state for model\.c\.weight"):
        by_parameter(tensors, ["model.a.weight", "model.c.weight"])
    assert by_parameter({}, ["model.a.weight"]) == {}  # before the first step there is none


def test_a_parameter_that_has_no_state_yet_says_so() -> None:
    model = torch.nn.Linear(2, 3)
    assert dict(state_tensors(model, {})) == {}
    named = dict(state_tensors(model, {model.weight: {"exp_avg": torch.ones(3, 2), "step": 4}}))
    assert named.keys() == {"exp_avg.weight", "step.weight", "fresh.bias"} and named["fresh.bias"].numel() == 0
    assert by_parameter(named, ["weight", "bias"])["bias"] == {}


def test_random_numbers_go_on_where_they_were() -> None:
    saved = random_of_all(World(), CPU)
    expected = torch.rand(3)
    torch.rand(5)
    restore_random(World(), CPU, saved)
    assert torch.equal(torch.rand(3), expected)


def test_a_rank_that_was_not_there_gets_numbers_of_its_own() -> None:
    saved = random_of_all(World(), CPU)
    draws = []
    for rank in (0, 1, 2, 1):
        restore_random(World(rank, 3), CPU, saved)
        draws.append(torch.rand(3))
    assert torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
