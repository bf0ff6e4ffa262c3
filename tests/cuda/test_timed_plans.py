"""With torch.backends.cudnn.benchmark a shape's first call times the plans, on the emulation as a test says."""

from __future__ import annotations

import itertools

import pytest
import torch
from layer_checks import ALL_FEATURES, assert_same_bits, make_problem
from test_late_streams import late_streams

from tests.problems import CONSTANTS, INPUTS, assert_equals_reference

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
gpus = itertools.count(40_000, 16)  # one for each test, known by its shared memory: what is timed is remembered


@pytest.fixture
def timed(op):
    """Launches take a time of their own, and the engine is not asked for."""
    op.set_engine("auto")
    op.set_gpu(9, 48, next(gpus))
    op.set_times(0)
    op.set_multicast(4)
    yield op
    op.set_multicast(0)
    op.set_times(-1)
    op.set_gpu(9, 132, 232448)
    op.set_engine("stepwise")


def solve(problem, emulated, **flags):
    with torch.backends.cudnn.flags(**{"enabled": True, "benchmark": True, "allow_tf32": False, **flags}):
        return problem.solve(emulated)


def launched(op):
    """Configurations of forwards and of backwards that have been launched since the last time, with their times.

    The GPU here has room for all groups of a plan at once, of which no more are launched behind the others.
    """
    lines = [line.split() for line in op.recurrences()]
    return [
        [(configuration, float(milliseconds)) for name, configuration, milliseconds in lines if kernel in name]
        for kernel in ("forward", "backward")
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [{}, {**ALL_FEATURES, "reverse": True}], ids=["plain", "features"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_fastest_of_several_runs_from_then_on(timed, emulated, seed, options, dtype):
    problem = make_problem(5, 9, 4, 64, dtype=dtype, **options)
    timed.set_times(seed)
    first = solve(problem, emulated)
    of_first = launched(timed)
    second = solve(problem, emulated)
    for tried, ran in zip(of_first, launched(timed), strict=True):
        assert len(set(tried)) > 2
        fastest = min(milliseconds for _, milliseconds in tried)
        assert [milliseconds for _, milliseconds in ran] == [tried[-1][1]] <= [fastest / 0.98]
    assert_same_bits(second, first)
    if dtype == torch.float64:
        assert_equals_reference(problem, emulated)


def test_not_unless_it_is_asked_for(timed, emulated):
    problem = make_problem(5, 9, 4, 64)
    for flags in ({"benchmark": False}, {"deterministic": True}):
        solve(problem, emulated, **flags)
        assert [len(of_kernel) for of_kernel in launched(timed)] == [1, 1]
    torch.use_deterministic_algorithms(True)
    try:
        solve(problem, emulated)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [len(of_kernel) for of_kernel in launched(timed)] == [1, 1]


def test_which_is_asked_for_once_a_shape(timed, emulated):
    def forwards(T, B, **options):
        solve(make_problem(T, B, 4, 64, **options), emulated)
        return len(launched(timed)[0])

    assert forwards(5, 9) > 10
    assert forwards(7, 9) == forwards(4, 9) == 1, "as many steps are timed"
    assert forwards(9, 9) > 10
    assert forwards(5, 17) > 10
    assert forwards(5, 9, lengths=True) > 10
    assert forwards(5, 9, mask_g="TBH") == 1


def test_a_capture_takes_what_has_been_timed_and_times_nothing(timed, emulated):
    """The host may not wait while it lasts."""
    problem = make_problem(5, 9, 4, 64)
    with late_streams(timed, capture=True):
        solve(problem, emulated)
    timed.set_times(1)
    expected = solve(problem, emulated)
    assert len(launched(timed)[0]) > 10, "what was captured is not remembered as timed"
    with late_streams(timed, capture=True):
        results = solve(problem, emulated)
    assert_same_bits(results, expected)


def test_an_engine_that_is_asked_for_is_the_only_one(timed, emulated):
    timed.set_engine("grid")
    solve(make_problem(5, 9, 4, 64, dtype=torch.bfloat16), emulated)
    for of_kernel in launched(timed):
        clusters = {configuration.split(",")[-2:] == ["1", "1"] for configuration, _ in of_kernel}
        assert clusters == {True}, "cooperative launches, of no clusters"


def test_a_plan_that_a_driver_refuses_is_left_out_and_said_so(timed, emulated):
    """What the driver says about what fits is not all that it may have against a launch."""
    problem = make_problem(5, 9, 4, 64, dtype=torch.bfloat16)
    timed.set_times(1, 2)
    with pytest.warns(UserWarning, match=r"a plan is left out that does not run: cluster: \d group.* of 2 block"):
        first = solve(problem, emulated)
    for of_kernel in launched(timed):
        assert len({configuration for configuration, _ in of_kernel}) > 2
        assert {configuration.split(",")[-2] for configuration, _ in of_kernel} >= {"1", "4"}
    assert_same_bits(solve(problem, emulated), first)


@pytest.mark.parametrize("tried", [0, 4])
def test_multicasts_are_timed_only_where_they_are_tried(timed, emulated, tried):
    """No GPU has run them yet."""
    timed.set_multicast(tried)
    solve(make_problem(5, 9, 4, 64, dtype=torch.bfloat16), emulated)
    for of_kernel in launched(timed):
        in_clusters_that_start_together = {
            configuration.split(",")[-2:] == ["2", "1"] for configuration, _ in of_kernel
        }
        assert in_clusters_that_start_together == {False, tried > 0}


def test_prefetching_is_timed(timed, emulated):
    """Of float64, which has no kernel with W_hh in registers: those prefetch nothing."""
    timed.set_engine("grid")
    before = timed.prefetches()
    solve(make_problem(5, 9, 4, 64, dtype=torch.float64), emulated)
    assert timed.prefetches() > before


def test_inference_is_timed_too(timed):
    """It saves no gates, and has two slots for c."""
    problem = make_problem(9, 9, 4, 64, mask_h="BH")
    given = [problem.inputs[name] for name in INPUTS] + [None] + [problem.options.get(name) for name in CONSTANTS]
    expected = timed.lstm_layer(*given, False, True)[:3]
    timed.recurrences()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        first = timed.lstm_layer(*given, False, False)[:3]
        assert len(launched(timed)[0]) > 10
        second = timed.lstm_layer(*given, False, False)[:3]
    assert len(launched(timed)[0]) == 1
    for of_first, of_second, value in zip(first, second, expected, strict=True):
        assert torch.equal(of_first, of_second)
        torch.testing.assert_close(of_first, value)


def test_both_directions_at_once_run_what_the_first_has_timed(timed):
    x, W_ih, W_hh = torch.randn(5, 9, 4), torch.randn(256, 4), torch.randn(256, 64) / 8
    expected = timed.both_ways(x, W_ih, W_hh)
    timed.recurrences()
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        found = timed.both_ways(x, W_ih, W_hh)
    configurations = [configuration for configuration, _ in launched(timed)[0]]
    assert len(configurations) > 10 and configurations[-1] == configurations[-2], "one for each direction"
    for actual, value in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, value)


def test_where_the_driver_lacks_memory_it_times_once_all_the_same(timed, emulated):
    problem = make_problem(5, 9, 4, 64)
    solve(problem, emulated, benchmark=False)  # by a plan that it knows already
    timed.recurrences()
    timed.set_driver_error(OUT_OF_MEMORY)
    try:
        solve(problem, emulated)
        assert len(launched(timed)[0]) > 1
        solve(problem, emulated)
    finally:
        timed.set_driver_error(0)
    assert len(launched(timed)[0]) == 1


def test_timing_takes_no_more_memory_than_the_call(timed, emulated):
    """Of what grows with the sequence."""
    problem = make_problem(64, 9, 4, 64)

    def large_tensors():
        with torch.profiler.profile(profile_memory=True) as profile:
            solve(problem, emulated)
        return sum(
            event.self_cpu_memory_usage >= problem.inputs["x"][:, :, :1].nbytes * 64 for event in profile.events()
        )

    while_timed = large_tensors()
    assert len(launched(timed)[0]) > 10
    assert while_timed == large_tensors() > 0
    assert len(launched(timed)[0]) == 1


def test_says_what_it_has_timed(timed, emulated):
    before = set(timed.timed_plans())
    solve(make_problem(6, 9, 4, 64, lengths=True, dtype=torch.bfloat16), emulated)
    forward, backward = sorted(set(timed.timed_plans()) - before, reverse=True)
    assert forward.startswith("cuda:0 forward B=9 H=64 bfloat16, lengths or noise on the state, timed over 4 steps: ")
    assert backward.startswith("cuda:0 backward B=9 H=64 ")
    assert forward.endswith(" as timed")
