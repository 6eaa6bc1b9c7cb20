"""What a model gained and what it forgot: the model that was there before, and the one that training made of it, on the same texts and prompts.

Bits per byte on the held-out documents of the run (its new field), on texts that the recipe names as general (what was known before, and should
not be forgotten), and of held-out answers where the model was tuned. The same prompts are continued by both, or put to both as questions, with
the most probable token each time, so that what differs is the models.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import TokenizerError
from jielong.evaluate.config import Config
from jielong.progress import say
from jielong.runs import StageContext

if TYPE_CHECKING:
    from jielong.model.transformer import CausalLM
    from jielong.tokenizer.folder import TokenizerFolder

Measures = dict[str, float]  # text -> bits per byte
DOMAIN, ANSWERS = "held-out documents", "held-out answers"


def base_of(context: StageContext) -> Path | None:
    """The model that a run began with, where it was a trained one; None: it began with random weights.

    Of a run that trained, tuned and aligned, what came of the first is a station on the way, and before is what was there before all.
    """
    stages = [stage for stage in ("align", "tune") if stage in context.upstream]
    made = [manifest for stage in stages if (manifest := context.run.manifest(stage)) is not None]
    for manifest in made:
        if manifest["section"].get("base") is not None:
            return Path(manifest["counts"]["base"])
    model = context.run.manifest("model")
    given = model["counts"].get("base") if model is not None else None
    if given is not None:
        return Path(given) if (Path(given) / "config.json").is_file() else context.run.stage("model")
    return Path(made[-1]["counts"]["base"]) if made else None


def compare(
    before: Path,
    after: Path,
    measure: Callable[[CausalLM, TokenizerFolder], Measures],
    config: Config,
    tuned: bool,
    system: str = "",
) -> dict[str, Any]:
    """Both models measured and asked: {"before", "after", "rows": [{"text", "before", "after"}], "prompts": [{"prompt", "before", "after"}]}.

    measure: bits per byte by text, of a model with its tokenizer. tuned: prompts are questions.
    """
    from jielong.infer.models import open_model

    found: dict[str, tuple[Measures, list[str]]] = {}
    for name, folder in (("before", before), ("after", after)):
        say(f"evaluate: {name}: {folder}")
        model, tokenizer, _ = open_model(str(folder), folder.parent, "auto", "auto")
        found[name] = measure(model, tokenizer), asked(model, tokenizer, config, tuned, system)
        del model
        gc.collect()
    texts, words = [found[name][0] for name in found], [found[name][1] for name in found]
    return {
        "before": str(before),
        "after": str(after),
        "rows": [
            {"text": text, "before": texts[0][text], "after": texts[1][text]} for text in texts[1] if text in texts[0]
        ],
        "prompts": [
            {"prompt": prompt, "before": one, "after": other}
            for prompt, one, other in zip(config.prompts, *words, strict=True)
        ],
    }


def asked(model: CausalLM, tokenizer: TokenizerFolder, config: Config, tuned: bool, system: str = "") -> list[str]:
    """What a model says to the prompts: greedy, with a slight penalty on repetition, without which small models run in circles."""
    from jielong.infer.answering import answer_questions
    from jielong.infer.batch import continue_prompts
    from jielong.infer.config import Config as InferConfig

    greedy = InferConfig(temperature=0.0, top_p=None, max_new_tokens=config.prompt_tokens)
    if tuned:
        try:
            return [row.text for row in answer_questions(model, tokenizer, list(config.prompts), greedy, system)]
        except TokenizerError:  # the base knows no turns: it goes on from the question
            pass
    return [row.text for row in continue_prompts(model, tokenizer, list(config.prompts), greedy)]
