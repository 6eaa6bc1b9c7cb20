"""The `deepspeed` engine: ZeRO stages 0 to 3, and the optimizer's state in the machine's memory (arXiv:1910.02054, 2101.06840).

What is divided among N devices, of the 16 bytes a weight takes in training (float32 weights, gradients, two AdamW moments):

    0   nothing               2   moments and gradients
    1   moments               3   weights, too, which are gathered a module at a time

Weights stay float32 under our autocast. Stages 1 to 3 keep one more float32 copy of a device's share of them, as they would beside
half-precision ones: 4 bytes a weight, divided by N.

DeepSpeed does what it is good at, dividing and exchanging, and decides nothing. Its JSON is derived from the recipe (`deepspeed_config`) and
names neither optimizer nor scheduler nor clipping nor half precision: there is no second place where a learning rate or a loss
scale could be written. The optimizer is ours (train/optimizers). DeepSpeed hands it flat shares of weights and gradients after it
has measured the norm over all ranks; `_step`, which stands in its step's place, asks the loop then, before anything has changed. When
the answer is no it returns, and DeepSpeed writes back the weights it had.

Two defects known in this field are closed off by that: a learning rate that a scheduler of DeepSpeed's sets beside the loop's, and
gradients divided by the accumulation steps twice. DeepSpeed averages over ranks, so the loss goes in times their number;
`scale_wrt_gas=False` keeps it from dividing by the steps.

Stages 0 and 1 exchange gradients once a step. Stages 2 and 3 do it at each micro-batch: a device that keeps no whole gradients
has nowhere to add them up. A small `micro_batch_tokens` costs more there.

No operator of DeepSpeed is compiled: AdamW is torch's fused one, also on the CPU for `cpu_offload`, and its shared-memory
collective for CPUs is switched off in favour of gloo. Checked against DeepSpeed 0.19.8, whose inner parts are used in `_piece`: where
a parameter's share lies has no public name.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from jielong.errors import InputError, RecipeError
from jielong.model.attention import choose_kernel
from jielong.model.experts import move_biases
from jielong.model.transformer import CausalLM, Losses
from jielong.runtime import choose_device
from jielong.train.config import Config
from jielong.train.engines.interface import Snapshot, Stepped
from jielong.train.engines.pytorch import LossModule, clip_factor
from jielong.train.engines.state import HostCopies, by_parameter, random_of_all, restore_random
from jielong.train.loader import Batch
from jielong.train.optimizers.checks import check_optimizer
from jielong.train.optimizers.opening import check_kinds, kinds_of, open_optimizer
from jielong.train.precision import Precision
from jielong.world import TIMEOUT, World, add_up, own_device

if TYPE_CHECKING:
    from jielong.train.job import Plan

BUCKET = 50_000_000  # gradients that are exchanged at a time: a buffer of 200 MB on each device


def deepspeed_config(config: Config, plan: Plan, world: World, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's JSON for a recipe. Everything that the loop or our optimizer does is absent or off."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if config.cpu_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    # where steps end is said by `forward` at each micro-batch, so phases and ramps may have other numbers of them; whether there
    # can be several is asked of the JSON, when buffers are made
    micro, most = plan.stretches[0].rows_per_micro_batch, max(stretch.micro_batches for stretch in plan.stretches)
    return {
        "train_batch_size": micro * most * world.size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": most,
        "gradient_clipping": 0.0,  # ours, in _step
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # it would be compiled
    }


def check_recipe(config: Config, device: torch.device) -> None:
    """Raises RecipeError for what this engine cannot do."""
    check_optimizer(config)
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"train.device: not with engine deepspeed, got {device.type}; cpu or cuda; change one of them"
        )
    if config.cpu_offload and config.zero_stage == 0:
        raise RecipeError("train.cpu_offload: nothing to offload, got true with zero_stage 0; use zero_stage 1, 2 or 3")


class Piece(NamedTuple):
    """Where this process holds its share of a parameter."""

    flat: Tensor  # (n) float32: what the optimizer steps
    begin: int  # in `flat`
    start: int  # in the parameter, flattened
    size: int  # 0: nothing of it is here


@dataclass
class Asked:
    """A step that the loop asks for, and what has become of it."""

    learning_rate: float
    take: Callable[[float], bool]
    finite: bool  # whether the loss is
    stepped: Stepped | None = None  # None: not decided yet
    times: float | None = None  # what gradients are multiplied by; None: the step is not taken


class AutocastLosses(LossModule):
    """Autocast inside of what is wrapped: DeepSpeed switches off any that is outside of its forward pass."""

    def __init__(self, causal: CausalLM, z_loss: float, precision: Precision) -> None:
        super().__init__(causal, z_loss)
        self._precision = precision

    def forward(self, ids: Tensor, labels: Tensor, positions: Tensor | None, documents: Tensor | None) -> Losses:
        """See CausalLM.losses."""
        with self._precision.autocast():
            return super().forward(ids, labels, positions, documents)


class DeepSpeedEngine:
    """See the module's text; the methods' contract is in interface.py."""

    def __init__(self, model: CausalLM, config: Config, world: World, plan: Plan) -> None:
        self.world = world
        self.device = own_device(world, choose_device(config.device))
        check_recipe(config, self.device)
        self._precision = Precision(config.precision, self.device)
        self.precision = self._precision.name
        self.grad_clip, self.document_mask = config.grad_clip, config.document_mask
        self.stage, self.offload = config.zero_stage, config.cpu_offload
        self.model = model.to(self.device).train()
        self._shapes = {name: parameter.shape for name, parameter in self.model.named_parameters()}  # 3 empties them
        self._deepspeed = _quietly_imported(self.device)
        with contextlib.ExitStack() as taken:  # from the process, until close()
            taken.callback(self._precision.restore)
            self._precision.prepare(self.model)
            self.attention = choose_kernel(self.model.config, self.device.type, self._precision.half)
            self.model.model.kernel(self.device.type, self._precision.half)
            taken.enter_context(_environment(LOCAL_RANK=str(world.local_rank)))  # DeepSpeed reads it all the time
            taken.enter_context(_group(world, self.device, self._deepspeed))
            self.optimizer = open_optimizer(self.model, config, self.device, world)
            self._wanted = next(
                iter(kinds_of(self.optimizer).values())
            )  # of all alike, where parameters are flat shares
            self._own_step: Callable[[], Any] = self.optimizer.step
            self.optimizer.step = self._step  # type: ignore[method-assign, assignment]  # what DeepSpeed will call
            self._engine: Any = self._wrapped(deepspeed_config(config, plan, world, self.device), config.z_loss)
            taken.callback(self._engine.destroy)
            self._taken = taken.pop_all()
        self._zero: Any = self._engine.optimizer  # what divides; in stage 0, where nothing does, our optimizer itself
        self._group_of = {
            id(parameter): number
            for number, group in enumerate(self._zero.bit16_groups if self.stage in (1, 2) else ())
            for parameter in group
        }
        self._host = HostCopies()
        self._asked = Asked(0.0, lambda norm: False, True)

    def _wrapped(self, settings: dict[str, Any], z_loss: float) -> Any:
        # DeepSpeed's Muon, which nobody asked for, is compiled at import otherwise: seconds, and a warning of torch's
        with _environment(TORCHDYNAMO_DISABLE="1"):
            return self._deepspeed.initialize(
                model=AutocastLosses(self.model, z_loss, self._precision),
                optimizer=self.optimizer,
                config=settings,
                dist_init_required=False,
            )[0]

    def describe(self) -> str:
        """One line for a person."""
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        offload = ", optimizer in the machine's memory" if self.offload else ""
        return f"{self.precision} on {self.device.type}{processes} (deepspeed, ZeRO {self.stage}{offload})"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The arithmetic of a forward pass."""
        return self._precision.autocast()

    def forward(self, batch: Batch, last: bool = True) -> Losses:
        """Sums over a batch's labels: the cross-entropy in nats, what is added to it, and the experts' use."""
        self._engine.set_gradient_accumulation_boundary(last)
        ids, labels, positions, documents = (
            torch.from_numpy(part).to(self.device)
            for part in (batch.inputs, batch.labels, batch.positions, batch.documents)
        )
        losses: Losses = self._engine(ids, labels, *((positions, documents) if self.document_mask else (None, None)))
        return losses

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add a micro-batch's gradients; stages 0 and 1 exchange theirs at the last one of the step."""
        self._engine.backward(loss * (self.world.size * self._precision.scale.value), scale_wrt_gas=False)

    def step(
        self, learning_rate: float, take: Callable[[float], bool] = lambda norm: True, finite: bool = True
    ) -> Stepped:
        """Clip and step at the given learning rate if `take` agrees; gradients are gone afterwards."""
        self._asked = Asked(learning_rate, take, finite)
        self._engine.step()
        if self._asked.stepped is None:  # DeepSpeed found gradients that are not finite, and has dropped them
            self._decide(math.inf)
        stepped = self._asked.stepped
        assert stepped is not None
        if stepped.overflow or stepped.taken:
            self._precision.scale.update(stepped.overflow)
        return stepped

    def _step(self) -> None:
        """In place of the optimizer's step: called by DeepSpeed for each group, or share of a group, with gradients over all ranks."""
        asked = self._asked
        if asked.stepped is None:
            norm = self._zero._global_grad_norm if self.stage else torch.nn.utils.get_total_norm(self._gradients())
            self._decide(float(norm))
        if asked.times is None:
            return
        if asked.times != 1.0:
            torch._foreach_mul_(self._gradients(), asked.times)
        for group in self.optimizer.param_groups:  # those that are really used: DeepSpeed puts them in and out
            group["lr"] = asked.learning_rate * group["rate"]
        self._own_step()

    def _decide(self, scaled_norm: float) -> None:
        """Once a step, on all ranks at the same time: is it taken, and clipped by how much?"""
        factor = self._precision.scale.value
        norm = scaled_norm / factor
        overflow = self._asked.finite and self._precision.overflows(norm)
        taken = not overflow and self._asked.take(norm) and math.isfinite(norm)
        self._asked.stepped = Stepped(norm, taken, overflow)
        self._asked.times = clip_factor(norm, self.grad_clip) / factor if taken else None

    def _gradients(self) -> list[Tensor]:
        return [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]

    def optimize(self, config: Config, carried: bool) -> None:
        """Another phase has the same optimizer (opening.check_optimizer sees to that): its weight decay, and its state or none."""
        for group in self.optimizer.param_groups:
            if group["decayed"]:
                group["weight_decay"] = config.weight_decay
        if not carried:
            self.optimizer.state.clear()

    def let_work(self, blocks: Iterable[int]) -> None:
        """Refused when the recipe is read."""
        raise AssertionError("LISA with DeepSpeed")

    def balance(self, expert_use_LE: Tensor) -> None:
        """After a step: move the experts' biases towards an even load, where the model balances in that way."""
        rate = self.model.config.router_bias_update_rate
        if rate > 0:
            move_biases(self.model, expert_use_LE, rate)

    # ---------------------------------------------------------------------------------------------------- state

    def _piece(self, parameter: nn.Parameter, numel: int) -> Piece:
        """Where a parameter of `numel` elements lies in this process."""
        if not self.stage:
            return Piece(parameter, 0, 0, numel)
        if self.stage == 3:
            group, begin, share = self._zero.grad_position[self._zero.get_param_id(parameter)]
            start = min(numel, share * self.world.rank)
            return Piece(self._zero.fp32_partitioned_groups_flat[group], begin, start, min(share, numel - start))
        flat = self._zero.single_partition_of_fp32_groups[self._group_of[id(parameter)]]
        found: Any = getattr(parameter, "_hp_mapping", None)
        if found is None:
            return Piece(flat, 0, 0, 0)
        inner, outer = found.hp_fragment_address, found.lp_fragment_address
        return Piece(flat, inner.start, outer.start, outer.numel)

    def _pieces(self) -> Iterator[tuple[str, nn.Parameter, Piece]]:
        for name, parameter in self.model.named_parameters():
            yield name, parameter, self._piece(parameter, self._shapes[name].numel())

    def _gathered(self, name: str, piece: Piece, flat: Tensor) -> Tensor:
        """A parameter's part of a flat tensor, whole. All ranks call it."""
        shape = self._shapes[name]
        mine = flat.detach().view(-1)[piece.begin : piece.begin + piece.size]
        if piece.size == shape.numel() and (self.world.size == 1 or not self.stage):
            return mine.view(shape)
        whole = torch.zeros(shape.numel(), dtype=flat.dtype, device=self.device)
        whole[piece.start : piece.start + piece.size] = mine
        return add_up(self.world, whole).view(shape)  # the others have zeros there, so this is exact

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """The model's state_dict, whole, a tensor at a time. All ranks go through it."""
        if self.stage < 3:
            yield from self.model.state_dict().items()
            return
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            own = names.get(id(tensor))  # None: a buffer; tied parameters have one name of their own
            if own is None:
                yield name, tensor
            else:
                piece = self._piece(tensor, self._shapes[own].numel())
                yield name, self._gathered(own, piece, piece.flat)

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's state, whole, a tensor at a time. All ranks go through it."""
        for name, _, piece in self._pieces():
            for kind, value in self.optimizer.state.get(piece.flat, {}).items():
                yield f"optimizer.{kind}.{name}", self._gathered(name, piece, value) if value.ndim else value

    @contextlib.contextmanager
    def whole(self) -> Iterator[CausalLM | None]:
        """The model with all its weights, on rank 0; None on the others."""
        if self.stage < 3:
            yield self.model if self.world.first else None
            return
        state = {}
        for name, tensor in self._weights():
            if self.world.first:
                state[name] = tensor.detach().clone()
        if not self.world.first:
            yield None
            return
        with torch.device("meta"):
            plain = CausalLM(self.model.config)
        plain.load_state_dict(state, assign=True)
        if self.model.config.tie_word_embeddings:
            plain.lm_head.weight = plain.model.embed_tokens.weight
        plain.model.kernel(self.device.type, self._precision.half)
        yield plain

    def snapshot(self) -> Snapshot:
        """Copy the state to the host; whole tensors on rank 0, nothing on the others. The copies of the last call are used again."""
        weights, optimizer = self._copies(self._weights()), self._copies(self._optimizer_tensors())
        random = random_of_all(self.world, self.device)
        plain = {name.removeprefix("optimizer."): tensor for name, tensor in optimizer.items()}
        return Snapshot(weights, plain, random, self._precision.scale.to_json())

    def _copies(self, tensors: Iterator[tuple[str, Tensor]]) -> dict[str, Tensor]:
        if self.world.first:
            return self._host.copy(tensors)
        for _ in tensors:
            pass
        return {}

    @torch.no_grad()
    def load(self, snapshot: Snapshot, weights: bool = True) -> None:
        """Go back to a state that every rank has read whole."""
        state = by_parameter(snapshot.optimizer, self._shapes)
        if not state:
            self.optimizer.state.clear()
        for name, parameter, piece in self._pieces():
            if self.stage:
                check_kinds(name, state.get(name, {}), self._wanted)
            if weights:
                self._set_weight(parameter, piece, snapshot.weights[name])
            held = self.optimizer.state[piece.flat] if state else {}
            for kind, whole in state.get(name, {}).items():
                if not whole.ndim:  # AdamW's count of steps, the same for all of a flat tensor
                    held[kind] = whole.clone().to(piece.flat.device)
                    continue
                if kind not in held:
                    held[kind] = torch.zeros_like(piece.flat, requires_grad=False)
                _fill(held[kind], piece, whole)
        if weights:
            for name, buffer in self.model.named_buffers():
                if name in snapshot.weights:
                    buffer.copy_(snapshot.weights[name])
        restore_random(self.world, self.device, snapshot.random)
        self._precision.scale.restore(snapshot.scale)

    def _set_weight(self, parameter: nn.Parameter, piece: Piece, whole: Tensor) -> None:
        """Both where the model computes with it and where the optimizer steps it."""
        if self.stage:
            _fill(piece.flat, piece, whole)
        if self.stage < 3:
            parameter.copy_(whole)
            return
        with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.world.first:
                parameter.copy_(whole)

    def close(self) -> None:
        """Take DeepSpeed's hooks off the model, put global switches back, and end the group if it is ours."""
        self._taken.close()


def _fill(flat: Tensor, piece: Piece, whole: Tensor) -> None:
    part = whole.reshape(-1)[piece.start : piece.start + piece.size]
    flat.view(-1)[piece.begin : piece.begin + piece.size].copy_(part)


def _quietly_imported(device: torch.device) -> Any:
    """DeepSpeed, for this kind of device, saying nothing below an error, and compiling nothing."""
    with _environment(DS_ACCELERATOR=device.type):  # read once, at the first import
        import deepspeed
    loaded: Any = deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # torch 2.13 has new names for collectives that DeepSpeed calls by the old ones: nothing that a person could do about
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    found = loaded.accelerator.get_accelerator().device_name()
    if found != device.type:
        raise RecipeError(
            f"train.device: deepspeed computes on {found} in this process, got {device.type}; start a new process"
        )
    loaded.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiled at init_distributed otherwise
    return loaded


@contextlib.contextmanager
def _group(world: World, device: torch.device, deepspeed: Any) -> Iterator[None]:
    """See to it that there is a group of the run's processes.

    DeepSpeed wants one for a single process, too: one in memory, without a port. Raises InputError for another group.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        if (there := dist.get_world_size()) != world.size:
            raise InputError(
                f"train.engine: this process belongs to a group of another size already, got {there} processes for "
                f"{world.size}; end that group first"
            )
        yield
        return
    assert world.size == 1, "world.joined makes the group of several processes"
    hook = sys.excepthook  # torch puts one of its own in front of it
    store = dist.HashStore()  # type: ignore[attr-defined]  # public, but not declared so
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
    try:
        yield
    finally:
        known = deepspeed.comm.is_initialized()
        (deepspeed.comm if known else dist).destroy_process_group()  # torch's, and what DeepSpeed keeps of it
        sys.excepthook = hook


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that DeepSpeed reads, for as long as it takes."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
