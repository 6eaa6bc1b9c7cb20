"""The recipe's [evaluate] table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from jielong.recipe import Section, absolute, harmless


class Config(Section):
    """Measures of the trained model."""

    max_tokens: int | None = Field(None, description="validation tokens to measure on; none: all of them", ge=1)
    sequence_length: int | None = Field(
        None, description="tokens in a row; none: the model's context, at most 4096", ge=2
    )
    general: tuple[str, ...] = Field(
        (),
        description="files or globs of general text, to tell what a model that goes on from another one has forgotten, relative to the "
        "recipe's folder",
        strict=False,
    )
    prompts: tuple[str, ...] = Field(
        ("人工智能是", "中国的首都是", "请介绍一下你自己。"),
        description="prompts for the model before and after, where it goes on from another one; questions where it was tuned",
        strict=False,
    )
    prompt_tokens: int = Field(64, description="their answers end after so many tokens at the latest", ge=1)
    batch_tokens: int = harmless(
        4096, "at most this many tokens go through the model at once, one row at the least", ge=1
    )

    def placed(self, folder: Path) -> Config:
        """Paths made absolute."""
        return self.model_copy(update={"general": tuple(absolute(path, folder) for path in self.general)})

    def result_fields(self) -> dict[str, Any]:
        """Without the places of files: their content is hashed."""
        values = super().result_fields()
        return values | {"general": [Path(path).name for path in self.general]}


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be a model to measure."""
    return (
        [] if {"train", "tune"} & sections.keys() else ["evaluate: needs the stage train or tune; add a [train] table"]
    )
