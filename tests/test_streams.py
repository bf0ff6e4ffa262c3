"""Both directions of a layer at once: what waits for what, and whose memory the allocator must know of.

On streams that run nothing and know what is in order before them, so that it needs no GPU; what a GPU makes of it is
tests/cuda/test_gpu.py's.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves

from rnndrop_cuda import LSTM, stack, streams

T, B, I, H = 4, 3, 5, 6
PLAIN: dict[str, float] = {}
DROPOUT = {
    "dropout": 0.3, "input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.5, "weight_dropout": 0.5,
    "cell_dropout": 0.2, "hidden_zoneout": 0.2, "cell_zoneout": 0.2,
}  # fmt: skip


class Stream:
    """Knows the layers that are done before whatever is launched on it next."""

    def __init__(self):
        self.done = set()
        self.recorded = []

    def wait_stream(self, other):
        self.done |= other.done

    def has(self, tensor):
        return any(tensor.untyped_storage()._cdata == known.untyped_storage()._cdata for known in self.recorded)


class Run(NamedTuple):
    """Of one layer and direction."""

    stream: Stream
    after: frozenset[int]
    inputs: list[torch.Tensor]
    recorded: list[torch.Tensor]
    outputs: list[torch.Tensor]


@pytest.fixture
def fake_streams(monkeypatch):
    """(the caller's stream, the other, the runs so far), in place of CUDA's."""
    here, side = Stream(), Stream()
    current, runs = [here], []

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    run_layer = stack.run_layer

    def run(*args, **options):
        stream = current[-1]
        result = run_layer(*args, **options)
        inputs = [t for t in tree_leaves((args, options)) if isinstance(t, torch.Tensor)]
        runs.append(Run(stream, frozenset(stream.done), inputs, list(side.recorded), tree_leaves(result)))
        stream.done.add(len(runs) - 1)
        return result

    monkeypatch.setattr(streams, "has_streams", lambda x: True)
    monkeypatch.setattr(streams, "side_stream", lambda device, thread: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: stream.recorded.append(tensor))
    monkeypatch.setattr(stack, "run_layer", run)
    return here, side, runs


def model_and_input(**options):
    torch.manual_seed(1)
    model = LSTM(I, H, num_layers=2, bidirectional=True, **options)
    x = torch.randn(T, B, I)
    hx = (torch.randn(4, B, options.get("proj_size") or H), torch.randn(4, B, H))
    return model, x, hx, torch.tensor([4, 1, 3]), model.draw_masks(T, B)


@pytest.mark.parametrize("options", [PLAIN, DROPOUT, {"proj_size": 2}], ids=["plain", "dropout", "projection"])
def test_a_direction_waits_for_the_layer_below_and_not_for_the_other(fake_streams, options):
    here, side, runs = fake_streams
    model, x, hx, lengths, masks = model_and_input(**options)
    model(x, hx, lengths=lengths, masks=masks)
    assert [run.stream for run in runs] == [here, side, here, side]
    assert [run.after for run in runs] == [set(), set(), {0, 1}, {0, 1}]
    assert here.done == {0, 1, 2, 3}


@pytest.mark.parametrize("options", [PLAIN, DROPOUT, {"proj_size": 2}], ids=["plain", "dropout", "projection"])
def test_no_memory_is_given_away_that_the_other_stream_uses(fake_streams, options):
    here, _, runs = fake_streams
    model, x, hx, lengths, masks = model_and_input(**options)
    model(x, hx, lengths=lengths, masks=masks, return_states=True)
    for k in (1, 3):
        known_before = Stream()
        known_before.recorded = runs[k].recorded
        needed = [*hx, lengths, runs[k].inputs[0], *model.all_weights[k], *masks[k]]
        assert all(known_before.has(tensor) for tensor in needed if tensor is not None)
        assert all(here.has(tensor) for tensor in runs[k].outputs)
    of_forward = [tensor for k in (0, 2) for tensor in runs[k].outputs]
    assert not any(here.has(tensor) for tensor in of_forward)


@pytest.mark.parametrize("options", [PLAIN, DROPOUT], ids=["plain", "dropout"])
def test_gives_what_one_after_the_other_gives(fake_streams, options):
    _, _, runs = fake_streams
    model, x, hx, lengths, masks = model_and_input(**options)
    y, state = model(x, hx, lengths=lengths, masks=masks)
    with pytest.MonkeyPatch.context() as one_after_the_other:
        one_after_the_other.setattr(streams, "has_streams", lambda x: False)
        expected, expected_state = model(x, hx, lengths=lengths, masks=masks)
    assert len(runs) == 4
    for actual, wanted in zip((y, *state), (expected, *expected_state), strict=True):
        assert torch.equal(actual, wanted)


def test_other_tensors_than_plain_ones_on_cuda_stay_on_their_stream():
    x = torch.randn(T, B, I)
    assert not streams.has_streams(x)
    with torch._subclasses.FakeTensorMode():
        assert not streams.has_streams(torch.empty(T, B, I, device="cuda"))
