"""bench.trials without a GPU: what it compares, what it refuses to time, and how it reads the profiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import trials
from bench.records import Size
from rnndrop_cuda import ops
from tests.bench.samples import no_gpu

SIZE = Size(4, 3, 5, 8)

needs_kernels = pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What the plan was asked for, in order."""
    from rnndrop_cuda import _C

    calls: list[dict[str, object]] = []
    monkeypatch.setattr(_C, "set_cuda_trials", lambda **options: calls.append(options))
    return calls


def measure(call: Callable[[], list[Tensor]], wrong: list[str]) -> list[trials.TrialTime]:
    ticks = iter(range(1, 10_000))

    def times(call: trials.Call) -> dict[str, float]:
        call()
        return dict.fromkeys(trials.KERNELS, float(next(ticks)))

    return trials.measure(SIZE, torch.float32, "grid", call, 3, wrong, times)


@needs_kernels
def test_all_are_measured_in_turn_and_the_switches_are_off_at_the_end(asked: list[dict[str, object]]) -> None:
    call = trials.layer_call(SIZE, torch.float32, torch.device("cpu"))
    wrong: list[str] = []
    times = measure(call, wrong)
    n = len(trials.TRIALS)
    assert [time.trial for time in times] == list(trials.TRIALS)
    assert [time.forward_us for time in times] == [n + 1 + k for k in range(n)]  # the second of three rounds
    assert asked == [*trials.TRIALS.values()] * 4 + [{}]
    assert not wrong


def test_an_engine_is_timed_with_what_makes_a_difference_to_it() -> None:
    for engine, absent in trials.ABSENT.items():
        tried = [trials.TRIALS[name].keys() for name in trials.trials_of(engine)]
        assert set().union(*tried) == {"registers", "prefetch", "pieces", "multicast"} - absent
    assert trials.trials_of("multicast") == ["as it is", trials.TIMED]


@needs_kernels
def test_plans_are_timed_in_one_trial_alone(asked: list[dict[str, object]]) -> None:
    """By torch's own switch, which says so to the first call of a shape."""
    seen: list[bool] = []

    def call() -> list[Tensor]:
        seen.append(torch.backends.cudnn.benchmark)
        return [torch.ones(1)]

    measure(call, [])
    assert seen == [name == trials.TIMED for name in trials.TRIALS] * 4
    assert not torch.backends.cudnn.benchmark


@needs_kernels
def test_what_gives_something_else_is_not_timed(asked: list[dict[str, object]]) -> None:
    wrong: list[str] = []
    times = measure(lambda: [torch.tensor([2.0 if asked[-1].get("pieces") == 4 else 1.0])], wrong)
    assert [line.partition(", ")[2] for line in wrong] == ["in shared memory, 4 pieces: differs by 1.0e+00"]
    assert "in shared memory, 4 pieces" not in {time.trial for time in times}
    assert len(times) == len(trials.TRIALS) - 1


def test_the_kernels_are_found_by_their_names() -> None:
    events = [
        ("void rnndrop::cuda::recurrence_forward_kernel<Float16, grid>(RecurrenceForward)", 3.0),
        ("void rnndrop::cuda::recurrence_backward_kernel<Float16, grid>(RecurrenceBackward)", 5.0),
        ("ampere_gemm", 100.0),
    ]
    assert trials.sums_of_kernels(events) == dict(zip(trials.KERNELS, (3.0, 5.0), strict=True))


@no_gpu
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert trials.main([]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
