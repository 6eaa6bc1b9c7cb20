"""Scores of answers: by a reward model's folder, whatever else is scored beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.align.scoring import open_scorer
from jielong.errors import InputError, ModelError
from jielong.model.config import Config as ModelConfig
from jielong.model.heads import add_head
from jielong.model.hf import save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.folder import TokenizerFolder, copy_folder


@pytest.fixture(scope="module")
def model(tokenizer: TokenizerFolder) -> CausalLM:
    shape = ModelConfig(
        vocab_size=tokenizer.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    found = CausalLM(shape)
    initialise(found, 1)
    return found


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_score_does_not_depend_on_what_is_scored_beside_it(
    model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    add_head(model, "score", 1)
    save_folder(model, tmp_path, tokenizer.end_id)
    copy_folder(tokenizer, tmp_path)
    score = open_scorer(tmp_path, "cpu")
    questions = [question("天为什么是蓝的？"), question("谢谢"), question("今天天气")]
    answers = ["因为短波散射得多。", "", "很好很好很好很好"]
    together = score(questions, answers)
    assert len(set(together)) == 3
    for number in range(3):
        assert score([questions[number]], [answers[number]]) == pytest.approx([together[number]], rel=1e-5)
    assert score(questions[:1], ["因为短波散射得多"]) != pytest.approx(together[:1], rel=1e-6)


def test_what_is_no_reward_model(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="reward model: no model folder"):
        open_scorer(tmp_path / "gone")
    plain = CausalLM(
        ModelConfig(
            vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2
        )
    )
    initialise(plain, 1)
    save_folder(plain, tmp_path, tokenizer.end_id)
    with pytest.raises(ModelError, match="a language model and no reward model"):
        open_scorer(tmp_path)
