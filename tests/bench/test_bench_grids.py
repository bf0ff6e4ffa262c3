"""The grids have what the targets and the curves need."""

from __future__ import annotations

from bench import grids, records, targets
from bench.records import Size


def test_the_grid_has_everything_that_the_targets_need() -> None:
    cases = {(tuple(case.size), case.who == grids.RAGGED) for case in grids.GRIDS["cpu"] if case.dtype == "float32"}
    assert cases >= {(size, False) for size in (*targets.SPEEDUPS, grids.ONE)} | {(grids.LONG, True)}


def test_the_cuda_grid_has_everything_that_its_targets_need() -> None:
    forms = {records.PACKED: grids.RAGGED, records.FULL: "all", records.STACK: records.STACK}
    cases = {(tuple(case.size), case.dtype, case.who) for case in grids.GRIDS["cuda"]}
    assert cases >= {(case.size, case.dtype, forms[case.lstm]) for case in targets.CUDA}


def test_the_scaling_grid_gives_every_line_points() -> None:
    kinds = {(case.size, p) for case in grids.GRIDS["scaling"] for p in case.ps or (0.5,)}
    for axis in "TBIH":
        assert len({getattr(size, axis) for size, _ in kinds if curves_along(size, axis)}) >= 5
    assert {(grids.CENTRE, p) for p in (0.3, 0.5, 0.9)} <= kinds


def curves_along(size: Size, axis: str) -> bool:
    return size._replace(**{axis: 0}) == grids.CENTRE._replace(**{axis: 0})
