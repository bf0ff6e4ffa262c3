"""The command bench.steps: the state is carried, a wrong contender is refused, ONNX Runtime is right where it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import onnx_lstm, records, steps
from bench.correctness import relative_error
from bench.records import INFERENCE, LSTM_CELL, MODULE, NN_LSTM, ONNX_RUNTIME, PACKED_MODULE, Size
from bench.verification import VerificationError
from tests.bench.samples import needs_kernels

STEP, SEQUENCE = Size(1, 2, 4, 5), Size(3, 2, 4, 5)


@needs_kernels
def test_who_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "onnx_runtime_version", lambda: "left out, onnx is not installed")
    assert list(steps.layers(STEP, 1)[0]) == [NN_LSTM, MODULE, PACKED_MODULE, LSTM_CELL]
    assert list(steps.layers(SEQUENCE, 1)[0]) == [NN_LSTM, MODULE, PACKED_MODULE]


def test_steps_carry_the_state_and_sequences_do_not() -> None:
    torch.manual_seed(0)
    lstm, x, hx = nn.LSTM(4, 5), torch.randn(1, 2, 4), (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    with torch.no_grad():
        whole, _ = lstm(x.expand(3, 2, 4), hx)
        carrying = steps.Carrying(lambda hx: lstm(x, hx), hx, carries=True)
        assert torch.allclose(torch.cat([carrying()[0] for _ in range(3)]), whole, atol=1e-6)
        starting_anew = steps.Carrying(lambda hx: lstm(x, hx), hx, carries=False)
        assert torch.equal(starting_anew()[0], starting_anew()[0])


@needs_kernels
@pytest.mark.parametrize("name", [MODULE, PACKED_MODULE, LSTM_CELL])
def test_a_step_that_loses_its_state_is_found(name: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        found, hx = steps.layers(STEP, 1)
        steps.verify(STEP, found, hx)
        layer, first = found[name], steps.first_state(name, hx)
        with pytest.raises(VerificationError, match=rf"{name} \(T=1 B=2 I=4 H=5\) is wrong and was not timed"):
            steps.verify(STEP, {**found, name: lambda _: layer(first)}, hx)


def test_a_wrong_contender_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = steps.layers

    def one_wrong(of_size: Size, threads: int) -> object:
        found, hx = layers(of_size, threads)
        return {**found, "wrong": lambda hx: (found[NN_LSTM](hx)[0] + 1, hx)}, hx

    monkeypatch.setattr(steps, "usable", lambda *_: (torch.device("cpu"), ["cpu"]))
    monkeypatch.setattr(steps, "layers", one_wrong)
    monkeypatch.setattr(steps, "cpu_milliseconds", lambda *_: pytest.fail("a wrong contender was timed"))
    assert steps.main(["--size", "1,2,4,5", "--threads", "1", "--out", str(tmp_path / "s.csv")]) == 1
    assert "wrong (T=1 B=2 I=4 H=5) is wrong" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@needs_kernels
def test_steps_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "s.csv"
    argv = ["--size", "1,2,4,5", "--size", "3,2,4,5", "--threads", "1", "--repeats", "2", "--out", str(out)]
    assert steps.main(argv) == 0
    facts, timings = records.read(out)
    assert facts[ONNX_RUNTIME]
    onnx_runtime = [ONNX_RUNTIME] if facts[ONNX_RUNTIME][0].isdigit() else []
    expected = [(1, name) for name in (NN_LSTM, MODULE, PACKED_MODULE, LSTM_CELL, *onnx_runtime)]
    expected += [(3, name) for name in (NN_LSTM, MODULE, PACKED_MODULE, *onnx_runtime)]
    assert [(t.T, t.contender) for t in timings] == expected
    for t in timings:
        assert (t.B, t.I, t.H, t.dtype, t.threads, t.phase, t.repeats) == (2, 4, 5, "float32", 1, INFERENCE, 2)
        assert 0 < t.min_ms <= t.q1_ms <= t.median_ms <= t.q3_ms <= t.max_ms < math.inf
    assert "1 thread, milliseconds" in capsys.readouterr().out


def test_gates_in_onnx_order() -> None:
    i, f, g, o = (torch.full((2, 3), float(k)) for k in range(4))
    assert torch.equal(onnx_lstm.in_onnx_order(torch.cat([i, f, g, o])), torch.cat([i, o, f, g]))


def test_onnx_runtime_computes_what_nn_lstm_does() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    lstm, x = nn.LSTM(4, 5), torch.randn(3, 2, 4)
    hx = torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    y, (h_n, c_n) = onnx_lstm.layer(onnx_lstm.session(lstm, 1), x)((hx[0].numpy(), hx[1].numpy()))
    with torch.no_grad():
        wanted, (h, c) = lstm(x, hx)
    for result, right in ((y, wanted), (h_n, h), (c_n, c)):
        assert relative_error(torch.as_tensor(result).flatten(), right.flatten().double()) < 1e-6
