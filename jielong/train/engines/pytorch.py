"""The `torch` engine: one device, or many with DDP (each has all weights) or FSDP2 (each has a share of them).

DDP keeps weights and optimizer on every device and exchanges gradients once a step: right up to a billion weights on
24 GB. FSDP2 (`torch.distributed.fsdp.fully_shard`, a block at a time) divides weights, gradients and optimizer state by the number of
devices and gathers a block's weights when it is computed. Weights stay float32 under autocast in both, so the losses of
one process, DDP and FSDP2 agree to rounding.

Both average gradients over ranks; the loop asks for sums, so the loss goes in times the number of ranks. While gradients are
accumulated, ranks exchange nothing until the last micro-batch of the step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from jielong.model.attention import choose_kernel
from jielong.model.experts import move_biases
from jielong.model.transformer import CausalLM, Losses
from jielong.runtime import choose_device, keep_freed_memory
from jielong.train.config import Config
from jielong.train.engines.interface import Snapshot, Stepped
from jielong.train.engines.state import HostCopies, by_parameter, kept, random_of_all, restore_random, state_tensors
from jielong.train.loader import Batch
from jielong.train.optimizers.averaging import STEPS, Average
from jielong.train.optimizers.opening import carry, check_kinds, kinds_of, open_optimizer
from jielong.train.optimizers.sampling import work
from jielong.train.precision import Precision
from jielong.world import World, own_device


class LossModule(nn.Module):
    """A model as a module whose forward pass gives losses: what DDP, FSDP2 and DeepSpeed wrap."""

    def __init__(self, causal: CausalLM, z_loss: float, compiled: bool = False) -> None:
        super().__init__()
        self.causal = causal
        causal.z_loss = z_loss
        self._losses: Callable[..., Losses] = torch.compile(causal.losses) if compiled else causal.losses

    def forward(self, ids: Tensor, labels: Tensor, positions: Tensor | None, documents: Tensor | None) -> Losses:
        """See CausalLM.losses."""
        return self._losses(ids, labels, positions, documents)


class TorchEngine:
    """See the module's text. `model` is the one that was given, its parameters sharded in place with FSDP2."""

    def __init__(self, model: CausalLM, config: Config, world: World | None = None) -> None:
        self.world = world or World()
        self.device = own_device(self.world, choose_device(config.device))
        self._precision = Precision(config.precision, self.device)
        self.precision = self._precision.name
        self.grad_clip = config.grad_clip
        self.document_mask = config.document_mask
        self.sharded = self.world.size > 1 and config.parallel == "fsdp"
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = model.to(self.device).train()
        self.model.model.recompute = config.recompute
        self._precision.prepare(self.model)
        self.attention = choose_kernel(self.model.config, self.device.type, self._precision.half)
        # settled here, so that nothing is looked for in compiled code
        self.model.model.kernel(self.device.type, self._precision.half)
        self._module = self._parallel(
            LossModule(self.model, config.z_loss, config.compile and not self.sharded), config
        )
        self.optimizer = open_optimizer(self.model, config, self.device, None if self.sharded else self.world)
        self.average = Average(self.model, config.ema_decay) if config.ema_decay is not None else None
        self._host = HostCopies()

    def _parallel(self, module: LossModule, config: Config) -> nn.Module:
        """The module that ranks run together."""
        if self.world.size == 1:
            return module
        if not self.sharded:
            wrap: Callable[..., nn.Module] = nn.parallel.DistributedDataParallel
            # buffers are moved by the same counts on every rank (balance), so there is nothing to exchange; torch 2.13's word
            # for it, and that of those before
            words = [
                name for name in ("forward_sync_buffers", "broadcast_buffers") if name in signature(wrap).parameters
            ]
            device_ids = [self.device] if self.device.type == "cuda" else None
            return wrap(module, device_ids, gradient_as_bucket_view=True, **{words[0]: False})
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.world.size,))
        for block in self.model.model.layers:
            if config.compile:
                block.compile()
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)  # in place
        return module

    def describe(self) -> str:
        """One line for a person."""
        kind = "fsdp" if self.sharded else "ddp"
        return f"{self.precision} on {self.device.type}" + (
            f", {self.world.size} processes ({kind})" if self.world.size > 1 else ""
        )

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Half-precision matrix products with float32 weights and reductions; or nothing, in float32."""
        return self._precision.autocast()

    def forward(self, batch: Batch, last: bool = True) -> Losses:
        """Sums over a batch's labels: the cross-entropy in nats, what is added to it, and the experts' use."""
        if self.sharded:
            self._module.set_requires_gradient_sync(last)  # type: ignore[operator]  # what fully_shard adds
        elif self.world.size > 1:
            self._module.require_backward_grad_sync = last  # type: ignore[assignment]  # what DDP's no_sync sets
        ids, labels = self._put(batch.inputs), self._put(batch.labels)
        inside = (self._put(batch.positions), self._put(batch.documents)) if self.document_mask else (None, None)
        with self.autocast():
            losses: Losses = self._module(ids, labels, *inside)
        return losses

    def _put(self, part: Any) -> Tensor:
        """A part of a batch on the device; from page-locked memory, so that the copy does not wait for what is computed."""
        tensor = torch.from_numpy(part)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add a micro-batch's gradients; ranks exchange theirs at the last one of the step."""
        loss = loss * (self.world.size * self._precision.scale.value)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped

    def step(
        self, learning_rate: float, take: Callable[[float], bool] = lambda norm: True, finite: bool = True
    ) -> Stepped:
        """Clip and step at the given learning rate if `take` agrees; gradients are gone afterwards."""
        scale, factor = self._precision.scale, self._precision.scale.value
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = _norm(gradients) / factor
        overflow = finite and self._precision.overflows(norm)
        taken = not overflow and take(norm)
        if overflow or taken:
            scale.update(overflow)
        if taken:
            if (times := clip_factor(norm, self.grad_clip) / factor) != 1.0:
                torch._foreach_mul_(gradients, times)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate * group["rate"]
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        return Stepped(norm, taken, overflow)

    def optimize(self, config: Config, carried: bool) -> None:
        """From now on step with the optimizer that this config names; carried: see `carry`."""
        before = self.optimizer
        if config.lisa is not None:
            self.model.requires_grad_(True)  # which blocks rest is said again before the next step
        self.optimizer = open_optimizer(self.model, config, self.device, None if self.sharded else self.world)
        if carried:
            carry(before, self.optimizer)
        self._host.forget("optimizer.")

    def let_work(self, blocks: Iterable[int]) -> None:
        """From now on train these blocks, by number, and no other; see optimizers/sampling.py."""
        work(self.model, blocks, self.optimizer.state)

    def balance(self, expert_use_LE: Tensor) -> None:
        """After a step: move the experts' biases towards an even load, where the model balances in that way."""
        rate = self.model.config.router_bias_update_rate
        if rate > 0:
            move_biases(self.model, expert_use_LE, rate)

    @contextlib.contextmanager
    def whole(self) -> Iterator[CausalLM | None]:
        """The model with all its weights, or their average, on rank 0; None on the others."""
        if (
            self.model.adapted
        ):  # frozen weights may be in half precision, which asks for autocast wherever they are used
            with self.autocast():
                yield self.model if self.world.first else None
            return
        if not self.sharded and (self.average is None or not self.world.first):
            yield self.model if self.world.first else None
            return
        shown = self.model.state_dict().items() if self.average is None else self.average.state(self.model.state_dict())
        if not self.world.first:
            for _, tensor in shown:  # every rank takes part; none but the first keeps anything
                _full(tensor)
            yield None
            return
        state = {name: _full(tensor) for name, tensor in shown}
        with torch.device("meta"):
            plain = CausalLM(self.model.config)
        plain.load_state_dict(state, assign=True)
        if self.model.config.tie_word_embeddings:
            plain.lm_head.weight = plain.model.embed_tokens.weight
        plain.model.kernel(self.device.type, self._precision.half)
        yield plain

    def snapshot(self) -> Snapshot:
        """Copy the state to the host; whole tensors on rank 0, nothing on the others. The copies of the last call are used again."""
        weights = self._copies("", kept(self.model))
        optimizer = self._copies(
            "optimizer.", state_tensors(self.model, self.optimizer.state, kinds_of(self.optimizer))
        )
        averaged = {}
        if self.average is not None:
            averaged = self._copies("averaged.", self.average.state(self.model.state_dict()))
            averaged |= {STEPS: torch.tensor(self.average.steps)} if self.world.first else {}
        random = random_of_all(self.world, self.device)
        return Snapshot(weights, optimizer, random, self._precision.scale.to_json(), averaged)

    def _copies(self, prefix: str, tensors: Any) -> dict[str, Tensor]:
        whole = ((prefix + name, _full(tensor)) for name, tensor in tensors)  # a sharded one at a time
        if not self.world.first:
            for _ in whole:  # every rank takes part in gathering
                pass
            return {}
        return {name.removeprefix(prefix): tensor for name, tensor in self._host.copy(whole).items()}

    @torch.no_grad()
    def load(self, snapshot: Snapshot, weights: bool = True) -> None:
        """Go back to a state that every rank has read whole."""
        if weights:
            for name, tensor in kept(self.model):
                _fill(tensor, snapshot.weights[name])
        if self.average is not None and snapshot.averaged:
            self.average.steps = int(snapshot.averaged[STEPS])
            for name, tensor in self.average.weights.items():
                _fill(tensor, snapshot.averaged[name])
        elif self.average is not None:
            self.average.restart(self.model)
        wanted = kinds_of(self.optimizer)
        parameters = {name: one for name, one in self.model.named_parameters() if one in wanted}
        self.optimizer.state.clear()
        for name, kinds in by_parameter(snapshot.optimizer, parameters).items():
            parameter = parameters[name]
            if not kinds:
                continue
            check_kinds(name, kinds, wanted[parameter])
            # AdamW's step counter stays on the CPU unless it is fused on the device; torch keeps it where it is given
            self.optimizer.state[parameter] = {
                kind: _like(parameter, value)
                if value.ndim
                else value.clone().to(self.device if self.device.type == "cuda" else "cpu")
                for kind, value in kinds.items()
            }
        restore_random(self.world, self.device, snapshot.random)
        self._precision.scale.restore(snapshot.scale)

    def close(self) -> None:
        """Put global switches of the arithmetic back."""
        self._precision.restore()


def _norm(gradients: list[Tensor]) -> float:
    """The norm of all gradients together, over all shards."""
    return float(_full(torch.nn.utils.get_total_norm(gradients)))


def clip_factor(norm: float, limit: float | None) -> float:
    """What gradients of this norm are multiplied by: torch's clip_grad_norm_."""
    return 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))


def _full(tensor: Tensor) -> Tensor:
    """A tensor whole, gathered from all ranks where it is sharded."""
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole.detach()


def _like(parameter: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor, on the parameter's device and sharded as it is."""
    if not hasattr(parameter, "full_tensor"):
        return whole.to(parameter.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    mine: Any = parameter
    return distribute_tensor(whole.to(mine.device), mine.device_mesh, mine.placements, src_data_rank=None)


def _fill(tensor: Tensor, whole: Tensor) -> None:
    if hasattr(tensor, "full_tensor"):
        tensor.to_local().copy_(_like(tensor, whole).to_local())  # type: ignore[attr-defined]  # DTensor's
    else:
        tensor.copy_(whole)
