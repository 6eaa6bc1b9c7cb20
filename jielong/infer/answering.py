"""Questions put to a tuned model one by one, each a conversation of its own: what samples and the infer stage show of it."""

from __future__ import annotations

from jielong.infer.chat.speaking import Speaker
from jielong.infer.config import Config
from jielong.infer.generate import Continuation
from jielong.model.transformer import CausalLM
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder


def answer_questions(
    model: CausalLM, tokenizer: TokenizerFolder, questions: list[str], config: Config, system: str = ""
) -> list[Continuation]:
    """The answers, by the tokenizer's chat template; question n draws with seed config.seed + n. The model's mode is put back.

    Raises InputError for a question that does not fit the context, TokenizerError for a template that cannot be used.
    """
    speaker = Speaker("the model", model, tokenizer, config, ChatTemplate(tokenizer, learns=False))
    training, found = model.training, list[Continuation]()
    model.eval()
    try:
        for number, question in enumerate(questions):
            ids, _ = speaker.prompt(system, [], question)
            answer = speaker.answer(ids, config.seed + number)
            for _ in answer.pieces:
                pass
            found.append(answer.end(question, interrupted=False)[1])
    finally:
        model.train(training)
    return found
