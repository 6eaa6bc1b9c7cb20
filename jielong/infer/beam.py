"""Beam search: the most probable of several continuations that are followed at once.

At each step every beam is continued by every token, and the best continuations by their sum of log-probabilities go on. Those
that end (with a stop id, or at the length limit) are compared by sum / length^length_penalty, so length_penalty > 0 favours
longer texts and < 0 shorter ones (sums are negative). The search is over when as many texts have ended as there are beams and
the best open beam, judged at its present length, is not better than the worst of them: the default of `transformers`
(early_stopping = False), whose choices these are, including which candidates count as ended (only the best `num_beams` of a
step) and a repetition penalty on log-probabilities.

Cost: a step is a batch of `num_beams` rows; the prompt goes through once. The rows of the cache change places when beams do,
which copies what is filled of it.

Source: Wu et al., arXiv:1609.08144, section 7, without its coverage penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jielong.infer.config import Config
from jielong.infer.sampling import penalise_repetition
from jielong.infer.stepping import begin
from jielong.model.transformer import CausalLM

NEVER = -1e9  # a log-probability below all that occur; -inf would make ties of what is to be ordered


@dataclass(frozen=True)
class Ended:
    """A text that ended: its score and its tokens, a stop id included."""

    score: float
    tokens: list[int]


@torch.no_grad()
def beam_search(model: CausalLM, ids: list[int], config: Config, stop_ids: frozenset[int], count: int) -> list[int]:
    """The best continuation of `ids`, at most `count` tokens, without its stop id. Draws nothing."""
    beams, power = config.num_beams, config.length_penalty
    logits_BV, stepper = begin(model, [ids], count, config)
    device, vocabulary = logits_BV.device, logits_BV.shape[1]
    rows = torch.zeros(beams, dtype=torch.long, device=device)
    assert stepper.keep(rows)
    logits_BV = logits_BV[rows]
    seen_BV = torch.zeros(beams, vocabulary, dtype=torch.bool, device=device)
    seen_BV[:, ids] = True
    sums_B = torch.full((beams,), NEVER, device=device)
    sums_B[0] = 0.0  # all beams are the prompt yet: only one of them is continued
    texts: list[list[int]] = [[] for _ in range(beams)]
    ended: list[Ended] = []
    width = min(max(2, 1 + len(stop_ids)) * beams, beams * vocabulary)
    for length in range(1, count + 1):
        shares_BV = penalise_repetition(logits_BV.float().log_softmax(dim=-1), seen_BV, config.repetition_penalty)
        best = (shares_BV + sums_B[:, None]).flatten().topk(width)
        scores = (best.values / length**power).tolist()
        going: list[tuple[float, int, int]] = []  # sum, beam and token of what goes on
        for place, (total, number) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            row, token = divmod(number, vocabulary)
            if token not in stop_ids and length < count:
                going.append((total, row, token))
            elif place < beams:
                ended.append(Ended(scores[place], [*texts[row], token]))
        going, ended = going[:beams], sorted(ended, key=lambda text: -text.score)[:beams]
        if not going or (len(ended) == beams and going[0][0] / length**power <= ended[-1].score):
            break
        sums, parents, tokens = zip(*going, strict=True)
        sums_B, rows = torch.tensor(sums, device=device), torch.tensor(parents, device=device)
        tokens_B = torch.tensor(tokens, device=device)
        texts = [[*texts[row], token] for _, row, token in going]
        seen_BV = seen_BV[rows].scatter(1, tokens_B[:, None], True)
        stepper.keep(rows)
        logits_BV = stepper.step(tokens_B)
    stepper.close()
    found = ended[0].tokens  # at the latest the length limit ended one
    return found[:-1] if found[-1] in stop_ids else found
