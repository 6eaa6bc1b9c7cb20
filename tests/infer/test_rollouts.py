"""Answers in tokens: what ended them is the last one, seeds decide, and many together are what each is alone."""

from __future__ import annotations

import torch

from jielong.infer.rollouts import rollouts
from tests.model.test_faces import made

PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5]]


def test_what_ended_an_answer_is_its_last_token() -> None:
    model = made()
    found = rollouts(model, PROMPTS, [1, 2, 3], 1.0, 20, frozenset({7, 8}))
    assert all(0 < len(answer) <= 20 for answer in found)
    for answer in found:
        assert not {7, 8} & set(answer[:-1]) and (len(answer) == 20 or answer[-1] in (7, 8))


def test_each_is_what_it_is_alone() -> None:
    model = made()
    together = rollouts(model, PROMPTS, [1, 2, 3], 1.0, 10, frozenset({7}))
    for number, prompt in enumerate(PROMPTS):
        assert rollouts(model, [prompt], [number + 1], 1.0, 10, frozenset({7})) == [together[number]]
    assert rollouts(model, PROMPTS, [4, 5, 6], 1.0, 10, frozenset({7})) != together


def test_temperature_0_is_the_likeliest_and_the_mode_is_put_back() -> None:
    model = made().train()
    [found] = rollouts(model, [PROMPTS[0]], [1], 0.0, 5, frozenset())
    ids = list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert found == ids[3:] and model.training
