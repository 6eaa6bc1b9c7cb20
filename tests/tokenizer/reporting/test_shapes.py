"""Parameters of the usual shapes, against the model's own arithmetic."""

from __future__ import annotations

import pytest

from jielong.errors import InputError
from jielong.model.config import Config
from jielong.model.cost import embedding_parameters, parameters
from jielong.tokenizer.reporting.shapes import USUAL, Shape, guess, shapes, shares


def config(shape: Shape, vocabulary: int, tied: bool) -> Config:
    return Config(
        vocab_size=vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads, intermediate_size=shape.feed_forward, tie_word_embeddings=tied,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [*USUAL, guess(512), guess(768), guess(1024), guess(100), guess(64), guess(16)])
@pytest.mark.parametrize("tied", [True, False])
def test_counted_as_the_model_counts(shape: Shape, tied: bool) -> None:
    made = config(shape, 6400, tied)
    total = shape.body() + 6400 * shape.hidden * (1 if tied else 2)
    assert parameters(made) == total
    [row] = shares(6400, (shape,))
    assert row["tied" if tied else "untied"] == embedding_parameters(made) / total


def test_the_usual_shapes_are_of_their_size() -> None:
    """With the vocabularies they are known with: 6,400 (26M and 0.1B), 151,936 (0.5B) and 128,256 (1B), tied."""
    known = ((6400, 25e6, 27e6), (6400, 0.1e9, 0.11e9), (151_936, 0.48e9, 0.5e9), (128_256, 1.2e9, 1.3e9))
    for shape, (vocabulary, low, high) in zip(USUAL, known, strict=True):
        assert low <= shape.body() + vocabulary * shape.hidden <= high


def test_guesses_grow() -> None:
    bodies = [guess(hidden).body() for hidden in (256, 512, 768, 1024, 2048)]
    assert bodies == sorted(bodies) and 20e6 < bodies[1] < 30e6


def test_widths_as_given() -> None:
    assert shapes(None) == USUAL
    assert [shape.hidden for shape in shapes("512, 1024，512")] == [512, 1024]
    assert shapes("512")[0].name == "26M" and shapes("1024")[0].name == "hidden 1,024"
    # U+FF15 U+FF11 U+FF12: full-width digits
    for wrong in ("", "wide", "12", "1e3", "512,,768", "99999999", "\uff15\uff11\uff12"):
        with pytest.raises(InputError, match="--hidden: not a width"):
            shapes(wrong)
