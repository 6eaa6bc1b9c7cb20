"""Questions one by one: by the template, with their seeds, and the model left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import InputError
from jielong.infer.answering import answer_questions
from jielong.infer.config import Config
from jielong.infer.models import open_model


def test_each_question_is_a_conversation_of_its_own(model_folder: Path) -> None:
    model, tokenizer, _ = open_model(str(model_folder), model_folder.parent)
    config = Config(max_new_tokens=6, temperature=1.0, seed=5)
    model.train()
    both = answer_questions(model, tokenizer, ["中国", "美国"], config)
    assert model.training
    assert [row.prompt for row in both] == ["中国", "美国"] and all(row.tokens <= 6 for row in both)
    alone = answer_questions(model, tokenizer, ["美国"], config.model_copy(update={"seed": 6}))
    assert alone[0] == both[1]  # nothing of the first is in the second


def test_a_question_that_does_not_fit_is_refused(model_folder: Path) -> None:
    model, tokenizer, _ = open_model(str(model_folder), model_folder.parent)
    with pytest.raises(InputError, match="too long"):
        answer_questions(model, tokenizer, ["很长的问题" * 40], Config())
