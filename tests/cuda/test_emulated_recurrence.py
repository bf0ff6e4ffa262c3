"""The persistent engines behind the real op and CUDA backend, run by the emulation, against the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from layer_checks import (
    ALL_FEATURES,
    NOISY_STATE,
    assert_errs_at_most_twice_as_much_as_plain_torch,
    assert_same_bits,
    assert_tf32_follows_the_switch_of_nn_lstm,
    make_problem,
    runs_that_differ,
    with_gradient_as_batch_first,
)

from rnndrop_cuda import reference
from tests.emulation import toolchain
from tests.problems import CONSTANTS, INPUTS, assert_equals_reference

H100 = (9, 132, 232448)
# So little shared memory that a few units fill a block, and clusters and grids get several.
SMALL = (9, 132, 20000)
A100 = (8, 108, 166912)
DTYPES = [torch.float64, torch.float32]
DRIVER_ERRORS = {"MemoryAllocation": 2, "StreamCaptureUnsupported": 900, "Unknown": 999}  # cudaError...
FEATURES = {
    "plain": {},
    "reverse": {"reverse": True, "without": ("b_hh",)},
    "Gal": {"mask_x": "I", "mask_h": "H"},
    "Gal a sample": {"mask_x": "BI", "mask_h": "BH", "reverse": True},
    "untied": {"mask_x": "41I", "mask_h": "41H", "without": ("b_ih",)},
    "Semeniuta": {"mask_g": "TBH", "without": ("b_ih", "b_hh")},
    "all": ALL_FEATURES,
    "all reversed": ALL_FEATURES | {"reverse": True},
    "noisy state": NOISY_STATE,
    "noisy state reversed": NOISY_STATE | {"reverse": True},
}


@pytest.fixture
def use(op):
    """use(engine, gpu) for the rest of the test."""

    def use_engine(engine, gpu=H100):
        op.set_engine(engine)
        op.set_gpu(*gpu)

    yield use_engine
    use_engine("stepwise")


@pytest.fixture(params=["block", "cluster", "grid"])
def engine(use, request):
    """Runs the test on each engine, of several blocks where it may have them."""
    use(request.param, H100 if request.param == "block" else SMALL)
    return request.param


def recurrences_of(op, solve):
    """What it gives, and how many launches of the engines' kernels or of the step's it takes."""

    def launches():
        return op.launches() - op.launches_of("masked_rows_kernel")

    before = launches()
    result = solve()
    return result, launches() - before


@pytest.mark.parametrize("features", FEATURES)
def test_equals_the_reference_in_one_launch_each_way(op, emulated, engine, features):
    for dtype in DTYPES:
        problem = make_problem(4, 5, 3, 19, dtype=dtype, **FEATURES[features])
        _, launches = recurrences_of(op, lambda problem=problem: problem.solve(emulated))
        assert launches == 2
        assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 9, 2, 40), (2, 19, 1, 8)], ids=str)
def test_sizes(emulated, engine, sizes):
    for options in (ALL_FEATURES, NOISY_STATE, {"reverse": True}):
        assert_equals_reference(make_problem(*sizes, **options), emulated)


@pytest.mark.parametrize("sizes", [(4, 1, 3, 8), (1, 1, 3, 8), (1, 5, 3, 8), (4, 5, 3, 8), (4, 5, 3, 1)], ids=str)
def test_strides_of_the_gradient_do_not_matter(emulated, engine, sizes):
    """As batch_first makes them: of a single sample the stride from one to the next is that of a whole sequence."""
    assert_equals_reference(with_gradient_as_batch_first(make_problem(*sizes)), emulated)


def test_rows_of_the_gradient_may_be_further_apart_than_32_bits_count(emulated, engine):
    """As slices of very wide rows are. Memory that nobody touches costs nothing: 4 GiB of addresses."""
    problem = make_problem(1, 3, 3, 8, dtype=torch.float16)
    apart = 2**30
    room = torch.empty(2 * apart + 8, dtype=torch.float16)
    dy = room.as_strided((1, 3, 8), (3 * apart, apart, 1)).copy_(problem.upstream["y"])
    far = replace(problem, upstream=problem.upstream | {"y": dy})
    assert_same_bits(far.solve(emulated), problem.solve(emulated))


@pytest.mark.parametrize("absent", [("h_0", "c_0"), ("h_0",), ("c_0",)], ids="+".join)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("name", ["stepwise", "block", "cluster", "grid"])
def test_without_an_initial_state_it_is_zeros(emulated, use, name, features, absent):
    use(name, H100 if name in ("stepwise", "block") else SMALL)
    options = FEATURES[features] | {"without": (*absent, *FEATURES[features].get("without", ()))}
    for T in (4, 1):
        assert_equals_reference(make_problem(T, 5, 3, 19, **options), emulated)


@pytest.mark.parametrize("features", ["plain", "Gal", "untied"])
def test_strides_of_the_weights_do_not_matter(emulated, engine, features):
    """A mask that the batch shares is multiplied into a dense weight."""

    def on_transposed_weights(x, h_0, c_0, W_ih, W_hh, *others, **options):
        W_ih, W_hh = (W.mT.contiguous().mT for W in (W_ih, W_hh))
        return emulated(x, h_0, c_0, W_ih, W_hh, *others, **options)

    assert_equals_reference(make_problem(4, 5, 3, 19, **FEATURES[features]), on_transposed_weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_err_at_most_twice_as_much_as_plain_torch(emulated, engine, dtype):
    problems = [
        make_problem(5, 6, 12, H, dtype=dtype, reverse=reverse, **ALL_FEATURES)
        for H in (19, 40)
        for reverse in (False, True)
    ]
    assert_errs_at_most_twice_as_much_as_plain_torch(emulated, problems)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("features", ["plain", "reverse", "Gal a sample", "untied", "Semeniuta"])
def test_multicast_gives_the_bits_of_a_grid(op, emulated, use, features, dtype):
    """On the tensor cores, in one launch each way: how the input comes makes no difference to what is multiplied."""
    problem = make_problem(4, 13, 3, 64, dtype=dtype, **FEATURES[features])
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        use("grid", SMALL)
        expected = problem.solve(emulated)
        use("multicast", SMALL)
        for schedule in (*toolchain.SCHEDULES[1:], toolchain.SCHEDULES[0]):
            op.set_schedule(schedule)
            results, launches = recurrences_of(op, lambda: problem.solve(emulated))
            assert launches == 2
            assert_same_bits(results, expected)


IN_PARTS = [("grid", torch.float32, features) for features in FEATURES]
IN_PARTS += [("multicast", torch.bfloat16, features) for features in ("plain", "reverse", "Gal a sample", "Semeniuta")]


@pytest.mark.parametrize(("name", "dtype", "features"), IN_PARTS)
def test_a_batch_that_does_not_fit_at_once_is_launched_in_parts(op, emulated, use, name, dtype, features):
    """On a GPU of four multiprocessors."""
    use(name, (9, 4, 20000))
    T = 7
    problem = make_problem(T, 150, 3, 64 if name == "multicast" else 24, dtype=dtype, **FEATURES[features])
    _, launches = recurrences_of(op, lambda: problem.solve(emulated))
    assert 2 < launches < 2 * T, "more than one each way, and not step by step"
    if dtype == torch.float32:
        assert_equals_reference(problem, emulated)
    else:
        assert_errs_at_most_twice_as_much_as_plain_torch(emulated, [problem])


def test_tf32_follows_the_switch_of_nn_lstm(emulated, engine):
    assert_tf32_follows_the_switch_of_nn_lstm(emulated, make_problem(3, 4, 16, 8))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16], ids=str)
def test_same_bits_under_every_schedule(op, emulated, engine, dtype):
    problem = make_problem(3, 9, 5, 24, dtype=dtype, **ALL_FEATURES)
    expected = problem.solve(emulated)
    for schedule in toolchain.SCHEDULES[1:]:
        op.set_schedule(schedule)
        results = problem.solve(emulated)
        op.set_schedule(toolchain.SCHEDULES[0])
        assert_same_bits(results, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_many_times(emulated, engine, dtype):
    """What `bench/gpu_check.sh repeat` does 10,000 times on a GPU."""
    problem = make_problem(5, 19, 8, 24, dtype=dtype, **ALL_FEATURES)
    assert runs_that_differ(emulated, problem, repeats=5) == 0


@pytest.mark.parametrize("what", ["outputs", "a gradient"])
def test_one_run_of_many_that_differs_is_found(what):
    calls = 0

    def layer(x, *args, **options):
        nonlocal calls
        calls += 1
        y, h_n, c_n = reference.lstm_layer(x, *args, **options)
        if calls == 4:
            y = y * (1 + 2**-23) if what == "outputs" else y + (x - x.detach()).sum()
        return y, h_n, c_n

    assert runs_that_differ(layer, make_problem(2, 3, 4, 5), repeats=6) == 1


def test_inference_saves_nothing_and_gives_the_same(op, emulated, engine):
    problem = make_problem(4, 5, 3, 19, **ALL_FEATURES)
    given = [problem.inputs[name] for name in INPUTS] + [None] + [problem.options.get(name) for name in CONSTANTS]
    saved = op.lstm_layer(*given, False, True)
    y, h_n, c_n, *nothing = op.lstm_layer(*given, False, False)
    assert [tensor.numel() for tensor in nothing] == [0, 0, 0]
    for value, expected in zip((y, h_n, c_n), saved, strict=False):
        assert torch.equal(value, expected)


@pytest.mark.parametrize(
    ("engine", "gpu", "options"),
    [
        ("auto", H100, {"mask_h": "4BH"}),  # four products a step
        ("auto", (9, 132, 1000), {}),  # W_hh fits nowhere
        ("block", SMALL, {}),
        ("cluster", A100, {}),  # has no clusters
        ("grid", (9, 1, 232448), {}),  # one multiprocessor
        ("multicast", H100, {}),  # not without tensor cores
    ],
)
def test_goes_step_by_step_where_the_engine_cannot_run(op, emulated, use, engine, gpu, options):
    use(engine, gpu)
    problem = make_problem(3, 4, 5, 40, **options)
    _, launches = recurrences_of(op, lambda: problem.solve(emulated))
    assert launches == 2 * 3
    assert_equals_reference(problem, emulated)


@pytest.mark.parametrize("engine", ["cluster", "multicast"])
@pytest.mark.parametrize(("ptx_version", "launches"), [(80, 2 * 3), (90, 2)])
def test_no_cluster_of_kernels_that_were_compiled_without(op, emulated, use, ptx_version, launches, engine):
    """An older GPU's PTX runs on a newer one, whose blocks then hand each other nothing."""
    use(engine, (9, 132, 20000 + ptx_version))  # a GPU for itself: plans are remembered
    op.set_ptx_version(ptx_version)
    problem = make_problem(3, 4, 5, 40, dtype=torch.bfloat16)
    _, found = recurrences_of(op, lambda: problem.solve(emulated))
    op.set_ptx_version(90)
    assert found == launches


@pytest.mark.parametrize(("gpu", "error"), [(0, "MemoryAllocation"), (1, "Unknown"), (2, "StreamCaptureUnsupported")])
def test_what_the_driver_cannot_say_for_once_is_not_remembered(op, emulated, engine, gpu, error):
    """It has no memory for a kernel, which it loads when it is first asked about it, or tells of an earlier error."""
    problem = make_problem(3, 4, 5, 24)
    found = []
    op.set_gpu(9, 132, 20024 + 16 * gpu)  # a GPU for itself: plans are remembered
    for answer in (DRIVER_ERRORS[error], 0, DRIVER_ERRORS[error]):
        op.set_driver_error(answer)
        try:
            found.append(recurrences_of(op, lambda: problem.solve(emulated))[1])
        finally:
            op.set_driver_error(0)
    assert found == [2 * 3, 2, 2]


def test_no_launch_of_blocks_that_run_together_where_the_gpu_has_none(op, emulated, use):
    use("grid", (9, 132, 20072))
    op.set_cooperative(False)
    try:
        _, launches = recurrences_of(op, lambda: make_problem(3, 4, 5, 24).solve(emulated))
    finally:
        op.set_cooperative(True)
    assert launches == 2 * 3


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_more_steps_than_a_kernel_counts_go_step_by_step_whatever_went_before(op, use, backward):
    """A plan is remembered for all lengths but those. Nothing is run: so long a sequence is one step, seen again."""
    use("block")
    step, state, W_ih, W_hh = torch.zeros(1, 1, 3), torch.zeros(1, 7), torch.zeros(28, 3), torch.zeros(28, 7)

    def engine_of(T):
        return op.engine_of(step.expand(T, 1, 3), state, W_ih, W_hh, backward)

    lengths = (5, 2**31, 2**31 - 1, 2**31, 5)
    assert [engine_of(T) for T in lengths] == ["block", "stepwise", "block", "stepwise", "block"]


@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
def test_padding_may_be_anything(emulated, engine, reverse):
    problem = make_problem(4, 5, 3, 19, lengths=True, reverse=reverse)
    expected = problem.solve(emulated)
    x = problem.inputs["x"].clone()
    x[torch.arange(4).unsqueeze(1) >= problem.options["lengths"]] = float("nan")
    assert x.isnan().any()
    assert_same_bits(replace(problem, inputs=problem.inputs | {"x": x}).solve(emulated), expected)


def test_an_empty_batch_launches_nothing(op, emulated, use):
    use("auto")
    _, launches = recurrences_of(op, lambda: make_problem(3, 0, 5, 8, **ALL_FEATURES).solve(emulated))
    assert launches == 0


def test_an_unknown_engine_is_refused(op):
    with pytest.raises(
        ValueError, match="engine: expected auto, stepwise, block, cluster, grid or multicast, got fast"
    ):
        op.set_engine("fast")
