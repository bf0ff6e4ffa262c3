"""Timings, peaks, problems and wrong layers that several tests of bench/ share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import grids, layers, records, targets
from bench.problems import Problem
from bench.records import FORWARD, FORWARD_BACKWARD, INFERENCE, MASKS, Peak, Shape, Size, SweepTiming, Timing
from rnndrop_cuda import LayerMasks, ops

PROJECT = Path(__file__).parents[2]
CPU = torch.device("cpu")
SMALL = Size(T=3, B=2, I=4, H=5)
PLAIN = Shape(T=3, B=2, I=4, H=5, layers=1, directions=1, P=0, lengths=0, batch_first=0, bias=1)
OURS = ["cpu", "python"] if not ops.WHY_NOT_LOADED else ["python"]
needs_kernels = pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED or "built")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
RUN = (*grids.SEMINAR, "float32", 2, records.FULL, records.NN_LSTM, "", "none", 0.0, 0.0)


def timing(**changes: object) -> Timing:
    ms = {"median_ms": 2.0, "q1_ms": 1.5, "q3_ms": 3.25, "min_ms": 1.0, "max_ms": 9.0}
    base = Timing(*RUN, repeats=15, phase=FORWARD, calls=3, **ms)
    return dataclasses.replace(base, **changes)


def peak(**changes: object) -> Peak:
    return dataclasses.replace(Peak(*RUN, repeats=3, median_bytes=20_000_000, min_bytes=1, max_bytes=2), **changes)


def sweep_timing(**changes: object) -> SweepTiming:
    base = SweepTiming(
        **vars(PLAIN), dtype="float32", threads=1, phase=FORWARD_BACKWARD, contender=records.NN_LSTM, dropout="none",
        p=0.0, p_g=0.0, repeats=5, calls=2, median_ms=6.0, q1_ms=5.0, q3_ms=7.0, min_ms=4.0, forward_op_ms=0.0,
        backward_op_ms=0.0,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


FACTS = {"device": "cpu", "machine": "a CPU, 2 cores", "torch": "2.13.0", "commit": "0123456789abcdef", "command": "x"}
TIMINGS = [
    timing(),
    timing(contender="rnndrop", backend="cpu", dropout="both", p=0.5, p_g=0.25, median_ms=1.6),
    timing(contender="GEMMs alone", backend="oneDNN", median_ms=1.25),
    timing(T=400, median_ms=314.1),
    timing(T=400, contender="GEMMs alone", backend="oneDNN", median_ms=286.2),
]
PEAKS = [peak(), peak(contender="LSTM module", backend="cpu", median_bytes=15_000_000), peak(T=1, median_bytes=300_000)]


def measured_for_targets() -> list[Timing]:
    """nn.LSTM takes 100 ms everywhere, ours 50, the GEMMs 40, drawing 1."""
    ours = {"contender": records.MODULE, "backend": "cpu", "median_ms": 50.0}
    timings = []
    for size in (grids.SEMINAR, grids.LONG, grids.WIDE, grids.ONE):
        at = {**dict(zip("TBIH", size, strict=True)), "median_ms": 100.0}
        for phase in (INFERENCE, FORWARD_BACKWARD):
            timings.append(timing(**at, phase=phase))
            timings += [timing(**at | ours, phase=phase)]
            timings += [timing(**at | {"contender": records.GEMMS, "backend": b, "median_ms": ms}, phase=phase)
                        for b, ms in (("ATen", 60.0), ("oneDNN", 40.0))]  # fmt: skip
        for dropout, p, p_g in (targets.GAL, targets.SEMENIUTA):
            kind = {"dropout": dropout, "p": p, "p_g": p_g}
            timings.append(timing(**at | ours | kind, phase=FORWARD_BACKWARD))
            timings.append(timing(**at | ours | kind | {"median_ms": 1.0}, phase=MASKS))
    ragged = {**dict(zip("TBIH", grids.LONG, strict=True)), "phase": FORWARD_BACKWARD}
    timings.append(timing(**ragged, sequences="packed", median_ms=100.0))
    timings += [timing(**ragged | ours | {"sequences": form}) for form in ("packed", "lengths=", "padded")]
    return timings


def measured_for_cuda_targets() -> list[Timing]:
    """nn.LSTM takes 100 ms everywhere, the loop 900, ours 50; ours on an engine by name, and without dropout, 1."""
    timings = []
    for case in targets.CUDA:
        for phase in (FORWARD, FORWARD_BACKWARD):
            at = {**dict(zip("TBIH", case.size, strict=True)), "dtype": case.dtype, "phase": phase}
            both = dict(zip(("dropout", "p", "p_g"), targets.BOTH, strict=True))
            module = {"contender": records.MODULE, "backend": "cuda", "sequences": case.ours}
            timings += [
                timing(**at, sequences=case.lstm, median_ms=100.0),
                timing(**at, contender=records.CELL_LOOP, sequences=case.loop, median_ms=900.0),
                timing(**at | module | both, median_ms=50.0),
                timing(**at | module, median_ms=1.0),
                timing(**at | both, contender=records.OP, backend="cuda grid", median_ms=1.0),
            ]
    return timings


def without_gradient_through_h_n(problem: Problem, masks: LayerMasks) -> tuple[Tensor, Tensor, Tensor]:
    y, h_n, c_n = layers.rnndrop("python")(problem, masks)
    return y, h_n.detach() + 0 * h_n, c_n
