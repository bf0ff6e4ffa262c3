"""What surrounds the kernels of a layer, on a real GPU: its masks, and packed input. Skips where there is none."""

from __future__ import annotations

import pytest
import torch
from layer_checks import make_problem

import rnndrop_cuda
from rnndrop_cuda import functional
from tests.problems import INPUTS

if why_not := functional.usable_backends()["cuda"]:
    pytest.skip(f"the real CUDA layer needs a GPU: {why_not}", allow_module_level=True)

pytestmark = pytest.mark.gpu

HALVES = (torch.bfloat16, torch.float16)


def test_masks_of_a_seed_are_those_of_the_cpu():
    """What the emulation shows, on a GPU: the same bits."""
    for dtype in (torch.float64, torch.float32, *HALVES):
        for shape in ((), (5,), (0, 3), (64,), (8193,), (7, 9001)):
            seeds = torch.randint(-(2**31), 2**31, (2, 3), dtype=torch.int32)
            rest = (shape, 20_000, -0.3, 1.7, dtype)
            on_gpu = torch.ops.rnndrop.expand_dropout_mask(seeds.cuda(), *rest)
            assert on_gpu.is_cuda
            assert torch.equal(on_gpu.cpu(), torch.ops.rnndrop.expand_dropout_mask(seeds, *rest))


def test_masks_follow_the_generator():
    layer = rnndrop_cuda.LSTM(30, 20, 2, hidden_dropout=0.3, candidate_dropout=0.25, device="cuda")
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append([mask for masks in layer.draw_masks(50, 40) for mask in masks if mask is not None])
    drawn.append([mask for masks in layer.draw_masks(50, 40) for mask in masks if mask is not None])
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not any(map(torch.equal, drawn[1], drawn[2]))
    for mask, p in zip(drawn[0], (0.3, 0.25) * 2, strict=True):
        assert mask.is_cuda and set(mask.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert abs((drawn[0][1] == 0).float().mean().item() - 0.25) < 0.02


def test_a_graph_draws_anew_with_each_replay():
    layer = rnndrop_cuda.LSTM(30, 20, candidate_dropout=0.5, device="cuda")
    layer.draw_masks(10, 8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        [masks] = layer.draw_masks(10, 8)
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(masks.g.clone())
    assert not torch.equal(*seen)


def test_packed_input_waits_for_nothing():
    layer = rnndrop_cuda.LSTM(6, 8, 2, device="cuda")
    lengths = torch.tensor([3, 7, 1, 7])
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(7, 4, 6).cuda(), lengths, enforce_sorted=False)
    x = torch.randn(7, 4, 6, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(packed)
        layer(x, lengths=lengths)
        layer(x, lengths=lengths.tolist())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "dropout": 0.5, "bidirectional": True},
     {"input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.3},
     {"mask_scope": "sample", "input_dropout": 0.5}, {"batch_first": True, "proj_size": 8}, {"weight_dropout": 0.5}],
    ids=str,
)  # fmt: skip
def test_a_plain_call_gives_what_the_long_way_gives(taken, options, dtype):
    layer = rnndrop_cuda.LSTM(6, 16, device="cuda", dtype=dtype, **options)
    x = torch.randn(7, 4, 6, device="cuda", dtype=dtype, requires_grad=True)
    lengths = torch.tensor([3, 7, 1, 7], device="cuda")

    def results(call):
        torch.manual_seed(5)
        y, (h_n, c_n) = call(x)[:2]
        gradients = torch.autograd.grad(y.sum() + h_n.sum() + c_n.sum(), [x, *layer.parameters()])
        return [y, h_n, c_n, *gradients]

    ways = [{}] if layer.batch_first else [{}, {"lengths": lengths}]
    for given in ways:
        plain = results(lambda x, given=given: layer(x, **given))
        assert taken == [True]
        long = results(lambda x, given=given: layer(x, **given, return_masks=True))
        assert all(map(torch.equal, plain, long))
        taken.clear()
    packed = torch.nn.utils.rnn.pack_padded_sequence(x.detach(), lengths.cpu(), enforce_sorted=False)
    layer.eval()
    with torch.no_grad():
        _, hx = layer(x)
        plain, long = layer(packed)[0], layer(packed, return_masks=True)[0]
        torch.testing.assert_close(plain.data, long.data)  # samples in another order: another rounding
        assert all(map(torch.equal, plain[1:], long[1:]))
        assert taken == [True] * 2
        taken.clear()
        plain, long = layer(x, hx), layer(x, hx, return_masks=True)
    assert taken == [True]
    assert torch.equal(plain[0], long[0]) and all(map(torch.equal, plain[1], long[1]))


def test_what_is_no_plain_call_on_cuda(taken):
    x, lengths = torch.randn(7, 4, 6, device="cuda"), torch.tensor([3, 7, 1, 7])
    layer = rnndrop_cuda.LSTM(6, 16, device="cuda")
    layer(x, lengths=lengths)
    layer(x, lengths=lengths.tolist())
    assert taken == [False] * 2
    with torch.autocast("cuda"):
        plain, long = layer(x)[0], layer(x, return_masks=True)[0]
    assert taken == [False] * 2 + [True]
    assert plain.dtype == torch.float16 and torch.equal(plain, long)
    with pytest.raises(RuntimeError, match="at cuda:0"):
        layer(x.cpu())


def test_a_plain_call_waits_for_nothing_and_can_be_captured(taken):
    layer = rnndrop_cuda.LSTM(6, 8, 2, hidden_dropout=0.5, device="cuda")
    x = torch.randn(7, 4, 6, device="cuda")
    layer(x)[0].sum().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        y = layer.eval()(x)[0]
    graph.replay()
    with torch.no_grad():
        assert torch.equal(y, layer(x)[0])
    assert all(taken)


def test_the_op_refuses_x_on_the_cpu():
    problem = make_problem(2, 3, 4, 8, device="cuda")
    x, *others = (problem.inputs[name] for name in INPUTS)
    with pytest.raises(RuntimeError, match="x: expected a CUDA tensor"):
        torch.ops.rnndrop.lstm_layer(x.cpu(), *others, *[None] * 8, False, True)
