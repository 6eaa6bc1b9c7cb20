"""An exponential average of the weights: what is measured, sampled and kept while training goes on with the weights themselves.

    average <- lerp(average, weights, 1 - d),    d = min(decay, (1 + t) / (10 + t)),    t steps averaged before

The rising d is the usual remedy for the beginning, where an average of hundreds of steps would mostly be the first weights. An
average does what the fall of the learning rate does at the end, at any time (arXiv:2306.03241); with a schedule that falls to
zero little is left for it to do. It costs 4 bytes a weight, sharded as the weights are, and one pass over them a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from jielong.train.optimizers.muon import local_part

STEPS = "averaged_steps"  # among the tensors of a checkpoint: t


class Average:
    """The average of a model's parameters; buffers are not averaged."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        first = {id(parameter): name for name, parameter in reversed(list(model.named_parameters()))}
        self._same = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}  # tied ones
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """After a step was taken."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = [(local_part(self.weights[name]), local_part(p)) for name, p in model.named_parameters()]
        pairs = [(mine, weight) for mine, weight in pairs if mine.numel()]
        torch._foreach_lerp_([mine for mine, _ in pairs], [weight.detach() for _, weight in pairs], 1 - decay)
        self.steps += 1

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """From the weights as they are."""
        self.steps = 0
        for name, parameter in model.named_parameters():
            local_part(self.weights[name]).copy_(local_part(parameter))

    def state(self, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """A model's state_dict with averages in place of its parameters."""
        for name, tensor in tensors.items():
            yield name, self.weights[self._same[name]] if name in self._same else tensor
