"""The step that is recorded as a CUDA graph: unrecorded on the CPU, recorded where there is a GPU."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from jielong.infer import graphs
from jielong.infer.config import Config
from jielong.infer.graphs import GraphStepper, reason_against, static_step
from jielong.infer.stepping import begin, padded
from jielong.model.transformer import CausalLM
from tests.infer.twins import FEATURES, POSITIONS, make, some_ids

TOLERANCE = 1e-4
MODELS: dict[str, dict[str, Any]] = POSITIONS | {name: FEATURES[name] for name in FEATURES if name != "dense"}


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_static_step_equals_the_ordinary_one(name: str, rows: int) -> None:
    """Three texts one after the other in the same memory; the second is shorter than what the first left behind."""
    model = make(**MODELS[name])
    stepper = GraphStepper(model, rows, 16, recorded=False)
    for seed, length in enumerate((8, 3, 5)):
        ids_BT = some_ids(rows, length + 6, seed)
        prompts = [ids_BT[row, : length - row % 3].tolist() for row in range(rows)]
        filled_BT, padding_B = padded(prompts, ids_BT.device)
        found = [stepper.begin(filled_BT, padding_B)]
        found += [stepper.step(ids_BT[:, place]) for place in range(length, length + 5)]
        text_BT = torch.cat((filled_BT, ids_BT[:, length : length + 5]), dim=1)
        expected = model(text_BT, padding_B=padding_B, reach=16)[:, length - 1 :]
        torch.testing.assert_close(torch.stack(found, dim=1), expected, rtol=0, atol=TOLERANCE)
        assert stepper.cache.length == int(stepper.cache.at) == length + 5


@torch.no_grad()
def test_no_value_is_read_and_no_shape_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a recording could not hold: numbers that go to the host, and memory of other sizes for longer texts."""
    for fields in MODELS.values():
        if "num_experts" in fields:
            continue  # on the CPU experts are computed in slices, which reads their ends
        model = make(**fields)
        stepper = GraphStepper(model, 2, 16, recorded=False)
        stepper.begin(some_ids(2, 4), None)
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
                patch.setattr(torch.Tensor, name, _read)
            shapes = []
            for _ in range(2):
                with torch.overrides.BaseTorchFunctionMode():
                    recorder = _Shapes()
                    with recorder:
                        static_step(model, stepper.ids_B1, stepper.cache, stepper.padding_B)
                    shapes.append(recorder.seen)
        assert shapes[0] == shapes[1] and len(shapes[0]) > 20


def _read(*_: Any, **__: Any) -> None:
    raise AssertionError("a value was read")


class _Shapes(torch.overrides.TorchFunctionMode):
    """Notes the function and the shape of every result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, tuple[int, ...]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.seen.append((str(func), tuple(out.shape)))
        return out


def test_reasons() -> None:
    model = make()
    assert reason_against(model, Config(), 1, 100) == "no graphs on cpu"
    cuda = _OnCuda(model)
    assert reason_against(cuda, Config(), 1, 100) is None
    assert reason_against(cuda, Config(temperature=0, num_beams=2), 1, 100) == "beams change places"
    assert reason_against(cuda, Config(cache="rolling"), 1, 100) == "a rolling cache changes its shape"
    assert reason_against(cuda, Config(), 1, 3) == "not worth it for 3 tokens"
    other = _OnCuda(make(position="none", num_key_value_heads=4))
    assert reason_against(other, Config(cache="hidden"), 1, 100) == "a hidden cache changes its shape"


class _OnCuda:
    """A model that says it is on a GPU."""

    def __init__(self, model: CausalLM) -> None:
        self.config, self.model, self.adapted = model.config, self, False
        self.embed_tokens, self.weight, self.device, self.dtype = self, self, torch.device("cuda"), torch.float32


def test_a_recording_is_kept_for_the_next_prompt_and_goes_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make().requires_grad_(False)
    first = graphs.take(model, 1, 10)
    assert first.cache.capacity == graphs.GRAIN
    first.close()
    assert model not in graphs._kept  # nothing was recorded
    monkeypatch.setattr(first, "_graph", object())
    first.close()
    assert graphs.take(model, 1, 200) is first  # large enough
    assert graphs.take(model, 1, 10) is not first  # taken: it belongs to the other text
    first.close()
    assert graphs.take(model, 2, 10) is not first  # other rows
    first.close()
    model.model.norm.weight = torch.nn.Parameter(model.model.norm.weight.clone(), requires_grad=False)
    assert graphs.take(model, 1, 10) is not first  # other memory
    model.requires_grad_(True)
    first.close()
    assert model not in graphs._kept  # it is being trained
    model.requires_grad_(False)
    first.close()
    before = len(graphs._kept)
    del model
    gc.collect()
    assert len(graphs._kept) == before - 1


def test_where_frequencies_depend_on_the_length_the_capacity_is_exact() -> None:
    assert graphs.take(make(**POSITIONS["dynamic"]), 1, 13).cache.capacity == 13


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_recorded_steps_equal_unrecorded_ones(name: str, rows: int, kind: torch.dtype) -> None:
    """The same step on the same device; two texts, the second over the kept recording."""
    model = make(**MODELS[name]).requires_grad_(False).to("cuda", kind)
    for seed, length in enumerate((8, 3)):
        ids_BT = some_ids(rows, length + 6, seed).cuda()
        prompts = [ids_BT[row, : length - row % 3].tolist() for row in range(rows)]
        filled_BT, padding_B = padded(prompts, ids_BT.device)
        recorded = graphs.take(model, rows, 16)
        plain = GraphStepper(model, rows, recorded.cache.capacity, recorded=False)
        assert (recorded._graph is not None) == (seed == 1)
        for stepper in (recorded, plain):
            stepper.begin(filled_BT, padding_B)
        for place in range(length, length + 5):
            found, expected = recorded.step(ids_BT[:, place]).clone(), plain.step(ids_BT[:, place])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if kind == torch.float32 else 1e-2)
        recorded.close()


@pytest.mark.gpu
def test_tokens_of_the_graph_equal_those_of_the_model() -> None:
    """Through `begin`, which takes the graph: 40 greedy tokens against passes over the whole text."""
    model = make(max_position_embeddings=64).requires_grad_(False).cuda()
    text = [1, 2, 9]
    logits_BV, stepper = begin(model, [text], 40, Config())
    assert isinstance(stepper, GraphStepper)
    for _ in range(40):
        with torch.no_grad():
            assert int(logits_BV.argmax()) == int(model(torch.tensor([text]).cuda())[0, -1].argmax())
        text.append(int(logits_BV.argmax()))
        logits_BV = stepper.step(torch.tensor(text[-1:]).cuda())
    stepper.close()
