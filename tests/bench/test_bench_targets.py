"""The targets: each is met or missed by its own timings."""

from __future__ import annotations

import dataclasses

import pytest

from bench import records, targets
from bench.records import FORWARD, FORWARD_BACKWARD, INFERENCE, MASKS, Timing
from tests.bench.samples import measured_for_cuda_targets, measured_for_targets, peak


def test_targets_are_met_or_missed_by_what_was_measured() -> None:
    found = targets.cpu_targets(measured_for_targets(), [])
    assert [(bar.required, bar.shown, bar.met) for bar in found] == [
        *((f"at least {bound}", "2.000", True) for bound in ("1.15", "1.90", "1.05")),
        *((f"at least {bound}", "2.000", True) for bound in ("1.05", "1.70", "1.00")),
        *((f"at least {bound}", "2.000", True) for bound in ("1.10", "1.60", "1.05")),
        ("at least 1.50", "2.000", True),
        ("at least 2.50", "2.000", False),
        ("at least 2.50", "2.000", False),
        ("at most 1.10", "1.000", True),
        ("at most 1.10", "1.250", False),
        ("at most 1.10", "1.250", False),
        *[("at most 2%", "2.00%", True)] * 6,
    ]


@pytest.mark.parametrize(
    "changed, by, what",
    [
        (
            {"contender": "LSTM module", "dropout": "Gal batch", "phase": FORWARD_BACKWARD, "T": 400},
            1.3,
            "nn.LSTM / ours, Gal p=0.5",
        ),
        ({"contender": "LSTM module", "dropout": "none", "phase": INFERENCE, "B": 1}, 1.5, "nn.LSTM / ours"),
        (
            {"contender": "LSTM module", "phase": MASKS, "p_g": 0.3, "T": 32},
            1.01,
            "drawing masks / all, Semeniuta p_g=0.3",
        ),
        ({"sequences": "padded"}, 0.9, "ours lengths= / ours padded"),
    ],
)
def test_a_target_is_missed_where_its_own_timing_is_worse(changed: dict[str, object], by: float, what: str) -> None:
    worse = [
        dataclasses.replace(t, median_ms=t.median_ms * by) if all(getattr(t, k) == v for k, v in changed.items()) else t
        for t in measured_for_targets()
    ]
    before, after = (targets.cpu_targets(timings, []) for timings in (measured_for_targets(), worse))
    assert [new.what for old, new in zip(before, after, strict=True) if old.met and not new.met] == [what]


def test_targets_of_memory_and_of_the_largest_number_of_threads() -> None:
    sizes = [dict(zip("TBIH", size, strict=True)) for size in targets.SPEEDUPS]
    kinds = [dict(zip(("dropout", "p", "p_g"), kind, strict=True)) for kind in targets.KINDS.values()]
    ours = {"contender": records.MODULE, "backend": "cpu", "median_bytes": 21_000_000}
    peaks = [*(peak(**size) for size in sizes), *(peak(**size | kind | ours) for size in sizes for kind in kinds)]
    slower = [dataclasses.replace(t, threads=1, median_ms=9e9) for t in measured_for_targets()]
    with_peaks = targets.cpu_targets(slower + measured_for_targets(), peaks)
    without = targets.cpu_targets(measured_for_targets(), [])
    assert with_peaks[: len(without)] == without
    assert [(bar.required, bar.shown, bar.met) for bar in with_peaks[len(without) :]] == [
        ("at most 1.00", "1.050", False)
    ] * 9


def test_targets_name_what_was_not_measured() -> None:
    timings = [t for t in measured_for_targets() if t.phase != MASKS]
    with pytest.raises(ValueError, match="no masks of LSTM module, full, dropout Gal batch 0.5 0.0, T=32 B=128"):
        targets.cpu_targets(timings, [])


def test_cuda_targets_are_of_ours_with_both_dropouts_against_those_without() -> None:
    found = targets.targets_of({"device": "NVIDIA H100"}, measured_for_cuda_targets(), [])
    speedups = [case.speedup for case in targets.CUDA for _ in (FORWARD, FORWARD_BACKWARD)]
    assert speedups[::2] == [2, 2, 2, 1.5, 1, 1.3, 2, 4]
    assert [(bar.bound, bar.shown, bar.met) for bar in found[::2]] == [(s, "2.000", s <= 2) for s in speedups]
    assert [(bar.bound, bar.shown, bar.met) for bar in found[1::2]] == [(15, "18.000", True)] * len(speedups)
    assert found[-2].case == "T=512 B=64 I=256 H=256, bfloat16, lengths=, forward+backward"
    assert found[-2].what == "packed nn.LSTM / ours, both dropouts"
    assert found[-6].case == "T=256 B=64 I=256 H=256, bfloat16, 2 layers, bidirectional, forward+backward"


@pytest.mark.parametrize("phase", [FORWARD, FORWARD_BACKWARD])
@pytest.mark.parametrize("case", targets.CUDA, ids=str)
def test_a_cuda_target_is_missed_where_its_own_timing_is_worse(case: targets.CudaCase, phase: str) -> None:
    def is_it(t: Timing) -> bool:
        of_case = (t.T, t.B, t.I, t.H, t.dtype, t.phase, t.sequences) == (*case.size, case.dtype, phase, case.ours)
        return of_case and t.contender == records.MODULE and t.dropout == "both"

    slower = [dataclasses.replace(t, median_ms=500.0) if is_it(t) else t for t in measured_for_cuda_targets()]
    before, after = (targets.cuda_targets(timings) for timings in (measured_for_cuda_targets(), slower))
    changed = [new.case for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2 and changed[0] == changed[1] and changed[0].endswith(f", {phase}")
    assert not any(new.met for old, new in zip(before, after, strict=True) if old != new)


def test_cuda_targets_name_what_was_not_measured() -> None:
    timings = [t for t in measured_for_cuda_targets() if t.dtype != "float16" or t.contender != records.MODULE]
    with pytest.raises(ValueError, match="no forward of LSTM module, full, dropout both 0.5 0.3, T=1024 .*, float16"):
        targets.cuda_targets(timings)
