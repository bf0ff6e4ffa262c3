"""The real CUDA layer on a real GPU, against the reference in float64 on the same GPU. Skips where there is none.

Every engine is asked for by name. One that cannot run a size leaves it to stepwise, so each size is right whichever
ran; that the engines do run where they should is a test of its own.
"""

from __future__ import annotations

import functools
import os
import re

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    NOISY_STATE,
    UNUSED_OUTPUTS,
    assert_correct_with_unused_outputs,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    assert_same_bits_while_the_gpu_is_busy,
    assert_tf32_follows_the_switch_of_nn_lstm,
    make_problem,
    map_tensors,
    runs_that_differ,
    with_gradient_as_batch_first,
)

import rnndrop_cuda
from rnndrop_cuda import functional, ops, stack
from tests.problems import CONSTANTS, INPUTS, assert_equals_reference

if why_not := functional.usable_backends()["cuda"]:
    pytest.skip(f"the real CUDA layer needs a GPU: {why_not}", allow_module_level=True)

pytestmark = pytest.mark.gpu

DTYPES = [torch.float64, torch.float32]
HALVES = (torch.bfloat16, torch.float16)
SIZES = [(1, 1, 1, 1), (5, 3, 7, 8), (4, 129, 31, 45), (6, 16, 24, 264), (3, 130, 300, 128)]

LONG = 70  # steps: more than are timed
ENGINES = ("stepwise", "block", "cluster", "grid", "auto")

cuda_layer = functools.partial(functional.lstm_layer, backend="cuda")
cuda_problem = functools.partial(make_problem, device="cuda")


TRIALS = {
    "": {},
    "shared": {"registers": False},
    "prefetch": {"registers": False, "prefetch": 2},
    "pieces": {"registers": False, "pieces": 2, "prefetch": 2},
}
TRIED_ENGINES = ("block, shared", "cluster, shared", "cluster, prefetch", "grid, shared", "grid, pieces")


@pytest.fixture(params=[*ENGINES, *TRIED_ENGINES])
def engine(request):
    """Runs the test on each engine, and on some with W_hh in shared memory and with what is off."""
    name, _, trials = request.param.partition(", ")
    rnndrop_cuda._C.set_cuda_trials(**TRIALS[trials])
    with rnndrop_cuda.cuda_engine(name):
        yield name
    rnndrop_cuda._C.set_cuda_trials()


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_g", ["", "H", "BH", "TBH"], ids="g{}".format)
@pytest.mark.parametrize("mask_h", ["", "H", "BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "I", "BI"], ids="x{}".format)
def test_every_combination(mask_x, mask_h, mask_g, lengths, reverse, engine):
    masks = {"mask_x": mask_x, "mask_h": mask_h, "mask_g": mask_g}
    assert_equals_reference(cuda_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks), cuda_layer)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("zone_h", ["", "H", "BH", "TBH"], ids="zh{}".format)
@pytest.mark.parametrize("zone_c", ["", "H", "TBH"], ids="zc{}".format)
@pytest.mark.parametrize("mask_c", ["", "H", "BH"], ids="c{}".format)
def test_every_combination_of_noise_on_the_state(mask_c, zone_c, zone_h, lengths, engine):
    masks = {"mask_h": "BH", "mask_g": "BH", "mask_c": mask_c, "zone_c": zone_c, "zone_h": zone_h}
    for reverse in (False, True):
        problem = cuda_problem(4, 3, 5, 8, lengths=lengths, reverse=reverse, **masks)
        assert_equals_reference(problem, cuda_layer)


@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("mask_h", ["", "BH", "41H", "4BH"], ids="h{}".format)
@pytest.mark.parametrize("mask_x", ["", "41I", "4BI"], ids="x{}".format)
def test_untied_masks(mask_x, mask_h, lengths, engine):
    for H in (8, 45):
        problem = cuda_problem(4, 3, 5, H, lengths=lengths, mask_x=mask_x, mask_h=mask_h)
        assert_equals_reference(problem, cuda_layer)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(sizes, dtype, engine):
    for options in (ALL_FEATURES, NOISY_STATE, {"reverse": True, "without": ("b_hh",)}):
        assert_equals_reference(cuda_problem(*sizes, dtype=dtype, **options), cuda_layer)


@pytest.mark.parametrize("dtype", [*DTYPES, "tf32", *HALVES], ids=str)
@pytest.mark.parametrize("B", [1, 16, 64], ids="B{}".format)
@pytest.mark.parametrize("H", [128, 264, 512, 768], ids="H{}".format)
def test_sizes_of_several_blocks_and_groups(engine, H, B, dtype):
    tf32 = dtype == "tf32"
    features = {**ALL_FEATURES, "reverse": True} if B == 16 else {"mask_x": "I", "mask_h": "H", "mask_g": "TBH"}
    problem = cuda_problem(5, B, 24, H, dtype=torch.float32 if tf32 else dtype, **features)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
        if dtype in HALVES:
            assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, [problem])
        else:
            assert_equals_reference(problem, cuda_layer, eps=2**-10 if tf32 else None)


@pytest.mark.parametrize("engine", ["grid"], indirect=True)
@pytest.mark.parametrize(("B", "H"), [(16, 1536), (32, 1536), (128, 768)], ids=str)
def test_inputs_in_many_pieces(engine, B, H):
    problem = cuda_problem(5, B, 24, H, dtype=torch.bfloat16, mask_h="BH", mask_g="TBH")
    assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, [problem])


@pytest.mark.parametrize("B", [1, 5])
def test_strides_of_the_gradient_do_not_matter(engine, B):
    assert_equals_reference(with_gradient_as_batch_first(cuda_problem(6, B, 7, 40)), cuda_layer)


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("H", [64, 264])
def test_long_sequences(engine, H, lengths, reverse):
    problem = cuda_problem(LONG, 19, 12, H, mask_h="BH", mask_g="BH", lengths=lengths, reverse=reverse)
    assert_equals_reference(problem, cuda_layer)


@pytest.mark.parametrize(
    ("engine", "B", "H"),
    [("stepwise", 64, 128), ("block", 64, 64), ("cluster", 16, 264), ("grid", 16, 768), ("multicast", 16, 768)],
)
def test_the_engine_asked_for_is_the_one_that_runs(engine, B, H):
    if engine in ("cluster", "multicast") and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU with clusters: sm_90 or later")
    problem = cuda_problem(8, B, 24, H, dtype=torch.bfloat16, mask_h="H", mask_g="TBH")
    with rnndrop_cuda.cuda_engine(engine):
        problem.solve(cuda_layer)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            problem.solve(cuda_layer)
            torch.cuda.synchronize()
    names = [event.name for event in profiled.events()]
    if not any("rnndrop" in name for name in names):
        pytest.skip("torch.profiler sees no kernels here")
    persistent = [re.search(r"recurrence_(\w+)_kernel<.*Engine\)(\d)", name) for name in names]
    number = {"block": "2", "cluster": "3", "grid": "4", "multicast": "5"}.get(
        engine
    )  # of the enum in recurrence_tiling.h
    expected = [("forward", number), ("backward", number)] if number else []
    assert [found.groups() for found in persistent if found] == expected


def test_empty_batch(engine):
    assert_equals_reference(cuda_problem(3, 0, 5, 8, **ALL_FEATURES), cuda_layer)


@pytest.mark.parametrize("unused", UNUSED_OUTPUTS, ids="+".join)
def test_outputs_that_nobody_uses(unused, engine):
    problem = cuda_problem(3, 2, 5, 8, mask_h="BH", dtype=torch.float64)
    assert_correct_with_unused_outputs(cuda_layer, problem, unused)


@pytest.mark.parametrize("H", [45, 128])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(dtype, H, engine):
    problems = [cuda_problem(6, 16, 24, H, dtype=dtype, reverse=reverse, **ALL_FEATURES) for reverse in (False, True)]
    assert_errs_at_most_twice_as_much_as_plain_torch(cuda_layer, problems)


def test_equals_nn_lstm(engine):
    problem = cuda_problem(6, 5, 7, 16)
    theirs = torch.nn.LSTM(7, 16, device="cuda")
    x, h_0, c_0, *parameters = (problem.inputs[name] for name in INPUTS)
    with torch.no_grad():
        for parameter, value in zip(theirs.parameters(), parameters, strict=True):
            parameter.copy_(value)
        expected, (h_n, c_n) = theirs(x, (h_0[None], c_0[None]))
    results = problem.solve(cuda_layer)
    for name, value in (("y", expected), ("h_n", h_n[0]), ("c_n", c_n[0])):
        torch.testing.assert_close(results[name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_tf32_follows_the_switch_of_nn_lstm(engine):
    assert_tf32_follows_the_switch_of_nn_lstm(cuda_layer, cuda_problem(4, 64, 128, 256))


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_same_bits_on_every_run(dtype, engine):
    problem = cuda_problem(8, 33, 20, 128, dtype=dtype, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    for _ in range(10):
        assert_same_bits(problem.solve(cuda_layer), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("engine", ["block", "cluster", "grid", *TRIED_ENGINES], indirect=True)
def test_same_bits_many_times(engine, dtype):
    """A barrier that misses once in a thousand runs is found here. `bench/gpu_check.sh repeat` asks for 10,000 runs."""
    problem = cuda_problem(5, 19, 8, 48, dtype=dtype, **ALL_FEATURES)
    assert runs_that_differ(cuda_layer, problem, repeats=int(os.environ.get("GPU_REPEATS", "500"))) == 0


def test_two_streams_at_once(engine):
    """Both want many blocks at once, and the thread's one side stream."""
    problems = [cuda_problem(LONG, 16, 24, 264, dtype=torch.bfloat16, reverse=k == 1, **ALL_FEATURES) for k in (0, 1)]
    expected = [problem.solve(cuda_layer) for problem in problems]
    streams = [torch.cuda.Stream() for _ in problems]
    torch.cuda.synchronize()
    for _ in range(20):
        results = []
        for problem, stream in zip(problems, streams, strict=True):
            with torch.cuda.stream(stream):
                results.append(problem.solve(cuda_layer))
        torch.cuda.synchronize()
        for actual, wanted in zip(results, expected, strict=True):
            assert_same_bits(actual, wanted)


def test_runs_while_another_kernel_keeps_the_gpu_busy(engine):
    """Blocks that wait for each other start together: one that never starts would be waited for without end."""
    problem = cuda_problem(LONG, 16, 24, 512, dtype=torch.bfloat16, **ALL_FEATURES)
    assert_same_bits_while_the_gpu_is_busy(cuda_layer, problem)


def test_runs_on_the_callers_stream(engine):
    """The inputs come late on the caller's stream; whoever works on another one reads the zeros before them."""
    problem = cuda_problem(8, 64, 64, 256, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    late = map_tensors(problem, torch.zeros_like)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for part in ("inputs", "options", "upstream"):
            for name, value in getattr(problem, part).items():
                if torch.is_tensor(value):
                    getattr(late, part)[name].copy_(value)
        results = late.solve(cuda_layer)
    stream.synchronize()
    assert_same_bits(results, expected)


@pytest.mark.parametrize("T", [5, LONG])
def test_can_be_captured_in_a_cuda_graph(engine, T):
    """Which also shows that nothing waits for the GPU: a capture does not allow it. Long ones bring a second stream."""
    problem = cuda_problem(T, 16, 24, 264, **ALL_FEATURES)
    expected = problem.solve(cuda_layer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = {name: value.detach() for name, value in problem.solve(cuda_layer).items()}
    for _ in range(3):
        for value in results.values():
            value.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(results, expected)


def test_inference_gives_the_same(engine):
    for T in (5, LONG):
        problem = cuda_problem(T, 16, 24, 264, **ALL_FEATURES)
        given = [problem.inputs[name] for name in INPUTS]
        options = {name: problem.options.get(name) for name in CONSTANTS}
        with torch.no_grad():
            results = cuda_layer(*given, **options)
        expected = problem.solve(cuda_layer)
        assert_same_bits(
            dict(zip(("y", "h_n", "c_n"), results, strict=True)), {k: expected[k] for k in ("y", "h_n", "c_n")}
        )


def test_a_stack_in_both_directions_equals_nn_lstm(engine):
    theirs = torch.nn.LSTM(24, 72, num_layers=2, bidirectional=True, device="cuda")
    ours = rnndrop_cuda.LSTM.from_torch(theirs, backend="cuda")
    x = torch.randn(LONG, 16, 24, device="cuda", requires_grad=True)
    upstream = torch.randn(LONG, 16, 144, device="cuda")
    found = []
    for module in (theirs, ours):
        y, (h_n, c_n) = module(x)
        found.append([y, h_n, c_n, *torch.autograd.grad(y, [x, *module.parameters()], upstream)])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def two_directions():
    """(run, one_after_the_other): what a stack in both directions gives, gradients included, both at once and not.

    From copies that are given up on the way, so that memory is used anew as early as it may be.
    """
    features = {
        "dropout": 0.3, "input_dropout": 0.5, "hidden_dropout": 0.5, "candidate_dropout": 0.5, "weight_dropout": 0.5,
        "cell_zoneout": 0.2,
    }  # fmt: skip
    model = rnndrop_cuda.LSTM(
        24, 264, num_layers=2, bidirectional=True, **features, mask_scope="sample", backend="cuda", device="cuda"
    )
    x, lengths = torch.randn(LONG, 16, 24, device="cuda"), torch.randint(1, LONG + 1, (16,), device="cuda")
    hx = torch.randn(2, 4, 16, 264, device="cuda")
    upstream = [torch.randn(LONG, 16, 2 * 264, device="cuda"), *torch.randn(2, 4, 16, 264, device="cuda")]
    masks = model.draw_masks(LONG, 16)

    def run():
        given, state = x.clone().requires_grad_(), tuple(hx.clone().requires_grad_())
        own = [type(of_layer)(*(m if m is None else m.clone() for m in of_layer)) for of_layer in masks]
        y, (h_n, c_n) = model(given, state, lengths=lengths, masks=own)
        del own
        gradients = torch.autograd.grad((y, h_n, c_n), [given, *state, *model.parameters()], upstream)
        return {str(k): t.detach() for k, t in enumerate((y, h_n, c_n, *gradients))}

    def one_after_the_other():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ops, "plain_call", lambda *args: None)
            patch.setattr(stack, "run_both_ways", functional.run_in_turn)
            return run()

    return run, one_after_the_other


def test_both_directions_at_once_give_what_one_after_the_other_gives(engine, two_directions):
    run, one_after_the_other = two_directions
    expected = one_after_the_other()
    assert all(value.isfinite().all() for value in expected.values())
    for _ in range(100):
        assert_same_bits(run(), expected)


def test_both_directions_at_once_in_a_cuda_graph(engine, two_directions):
    run, one_after_the_other = two_directions
    expected = one_after_the_other()
    run()  # what is only set up once: the other stream, cuBLAS' workspace for it
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for _ in range(20):
        for value in results.values():
            value.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(results, expected)


def test_lengths_out_of_range_are_clamped(engine):
    problem = cuda_problem(3, 4, 5, 8, mask_h="BH", lengths=True)
    problem.options["lengths"] = torch.tensor([0, 3, 0, 3], device="cuda")
    expected = problem.solve(cuda_layer)
    problem.options["lengths"] = torch.tensor([-1, 4, -(2**62), 2**62], device="cuda")
    assert_same_bits(problem.solve(cuda_layer), expected)


@pytest.mark.parametrize(("engine", "B", "H"), [("stepwise", 2**19 + 3, 1024), ("block", 2**23 + 3, 64)])
def test_offsets_beyond_32_bits(engine, B, H):
    """4 B H > 2^31: the last rows of a large batch are those of a small one."""
    I = 8
    if torch.cuda.get_device_properties(0).total_memory < 60 * 2**30:
        pytest.skip("needs a GPU with 60 GiB of memory")
    small = cuda_problem(1, 4, I, H, dtype=torch.float16, mask_h="BH", mask_g="TBH", lengths=True)
    weights = [small.inputs[name] for name in ("W_ih", "W_hh", "b_ih", "b_hh")]

    def padded(tensor: torch.Tensor) -> torch.Tensor:
        """Zeros in front of the four samples; the batch is the dimension before the last of all but lengths."""
        if any(tensor is weight for weight in weights):
            return tensor
        dim = max(tensor.dim() - 2, 0)
        shape = list(tensor.shape)
        shape[dim] = B - 4
        return torch.cat([tensor.new_zeros(shape), tensor], dim)

    with rnndrop_cuda.cuda_engine(engine):
        expected, actual = small.solve(cuda_layer), map_tensors(small, padded).solve(cuda_layer)
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        last = actual[name].narrow(-2, B - 4, 4)
        torch.testing.assert_close(last, expected[name], rtol=1e-2, atol=1e-2, msg=lambda m, name=name: f"{name}: {m}")


def test_on_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert_equals_reference(make_problem(4, 3, 5, 8, device="cuda:1", **ALL_FEATURES), cuda_layer)
    assert torch.cuda.current_device() == 0
