"""The cases for compute-sanitizer."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench import lineups, small_case
from rnndrop_cuda import functional
from tests.bench.samples import needs_kernels


@needs_kernels
def test_small_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(functional, "KERNEL_DTYPES", (torch.float32,))
    assert small_case.main(["--device", "cpu"]) == 0
    assert "torch.float32: largest relative error" in capsys.readouterr().out
    real = functional.lstm_layer
    monkeypatch.setattr(functional, "lstm_layer", lambda *a, mask_g, **k: real(*a, mask_g=None, **k))
    assert small_case.main(["--device", "cpu"]) == 1


def test_small_cases_reach_every_engine_in_every_dtype_with_and_without_lengths_and_reverse() -> None:
    seen = {
        (engine, case.dtype, case.tf32, case.H, case.options.get("lengths") is not None, case.options["reverse"])
        for case, engine in zip(small_case.cases(), itertools.cycle(lineups.ENGINES), strict=False)
    }
    assert len(seen) == len(lineups.ENGINES) * (len(functional.KERNEL_DTYPES) + 1) * 2 * 2 * 2


def test_small_cases_of_an_engine_are_of_cuda(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        small_case.main(["--device", "cpu", "--engine", "grid"])
    assert "argument --engine: expected --device cuda" in capsys.readouterr().err
