"""Who is timed together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import rnndrop_cuda
from bench import contenders, gemms, lineups, problems, records, rivals, stopwatch, verification
from bench.problems import Problem
from bench.records import Size
from rnndrop_cuda import LayerMasks, functional
from tests.bench.samples import CPU, OURS, SMALL


def test_every_backend_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = functional.lstm_layer
    monkeypatch.setattr(functional, "lstm_layer", lambda *a, backend, **k: asked.append(backend) or real(*a, **k))
    for contender in lineups.all_layers(
        Problem(SMALL, torch.float32, CPU), ["cpu", "python"], problems.dropouts([0.5], [0.3])
    ):
        contender.forward()
    assert asked == ["cpu"] * 6 + ["python"] * 2


class FakeEngines:
    """rnndrop_cuda's two names for engines, of which only some can run."""

    def __init__(self, usable: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.usable, self.current, self.log = usable, "auto", []
        monkeypatch.setattr(rnndrop_cuda, "cuda_engine", self.cuda_engine, raising=False)
        monkeypatch.setattr(rnndrop_cuda, "explain_engine", self.explain_engine, raising=False)
        real = functional.lstm_layer

        def lstm_layer(*args: object, backend: str, **options: object) -> object:
            self.log.append((self.current, backend))
            return real(*args, **options, backend="python")

        monkeypatch.setattr(functional, "lstm_layer", lstm_layer)

    @contextlib.contextmanager
    def cuda_engine(self, name: str) -> Iterator[None]:
        self.current = name
        yield
        self.current = "auto"

    def explain_engine(self, T: int, B: int, I: int, H: int, dtype: torch.dtype = torch.float32) -> str:
        run = self.current if self.current in self.usable else "stepwise"
        return f"forward   {run}: a reason\nbackward  {run}: another"


def test_engines_are_timed_by_name_and_the_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeEngines(("stepwise", "grid"), monkeypatch)
    problem = Problem(SMALL, torch.float32, CPU)
    kinds = problems.dropouts([0.5], [0.3])
    found = lineups.by_engine(problem, [kinds[0], kinds[-1]])
    assert [(c.name, c.backend, c.dropout.name) for c in found] == [
        ("rnndrop", f"cuda {engine}", kind) for engine in ("timed", "stepwise", "grid") for kind in ("none", "both")
    ]
    assert problem.left_out == [
        f"engine {engine}: forward   stepwise: a reason | backward  stepwise: another"
        for engine in ("block", "cluster", "multicast")
    ]
    verification.verify(problem, found)
    monkeypatch.setattr(stopwatch, "SHORTEST_MEASUREMENT_MS", 0.0)
    stopwatch.measure(problem, found, repeats=1)
    assert set(fake.log) == {("auto", "cuda"), ("stepwise", "cuda"), ("grid", "cuda")}


def test_plans_are_timed_for_one_contender_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEngines(("stepwise",), monkeypatch)
    for contender in lineups.by_engine(Problem(SMALL, torch.float32, CPU), problems.dropouts([0.5], [0.3])[:1]):
        with contender.running():
            assert torch.backends.cudnn.benchmark == (contender.backend == "cuda timed")
        assert not torch.backends.cudnn.benchmark


def test_what_cuda_is_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeEngines(("stepwise",), monkeypatch)
    monkeypatch.setattr(rivals, "RIVALS", {})
    kinds = problems.dropouts([0.5], [0.3])
    found = lineups.cuda_layers(Problem(SMALL, torch.float32, CPU), ["python"], kinds)
    assert [c.name for c in found if c.dropout.name == "none"] == [
        "nn.LSTM", "nn.LSTMCell loop", "rnndrop", "rnndrop", "LSTM module",
    ]  # fmt: skip
    ragged = Problem(SMALL, torch.float32, CPU, ragged=True)
    *_, loop = found = lineups.cuda_ragged_layers(ragged, ["python"], kinds)
    assert (loop.name, loop.sequences) == ("nn.LSTMCell loop", "padded")
    verification.verify(ragged, found)


def test_both_dropouts_of_the_module_are_timed_on_cuda_only() -> None:
    kinds = problems.dropouts([0.5], [0.3])
    problem = Problem(SMALL, torch.float32, CPU)
    on_cpu = lineups.ours(problem, ["python"], kinds, ["full"])
    problem.device = torch.device("cuda")  # whose tensors nobody makes
    on_cuda = lineups.ours(problem, ["python"], kinds, ["full"])
    assert [c.dropout.name for c in on_cpu] == list(lineups.MAIN_KINDS)
    assert [c.dropout.name for c in on_cuda] == list(lineups.CUDA_KINDS)


def test_a_stack_is_compared_with_the_reference_dropout_and_all() -> None:
    problem = Problem(Size(T=5, B=3, I=4, H=6), torch.float32, CPU, stack=True)
    kinds = problems.dropouts([0.5], [0.3])
    found = lineups.stack_layers(problem, OURS, kinds)
    found += [
        contenders.ModuleContender(c.name, c.backend, kinds[-1], c.layer, problem, c.sequences, module=c.module)
        for c in found[2:3]
    ]
    verification.verify(problem, found)
    assert {c.sequences for c in found} == {records.STACK}
    assert [c.name for c in found[:3]] == ["nn.LSTM", "nn.LSTMCell loop", "LSTM module"]
    assert gemms.floors(problem) == []

    def without_mask_h_of_the_last(problem: Problem, masks: list[LayerMasks]) -> tuple[Tensor, Tensor, Tensor]:
        return found[-1].layer(problem, [*masks[:-1], masks[-1]._replace(h=None)])

    wrong = contenders.LayerContender("wrong", "", kinds[-1], without_mask_h_of_the_last, problem, records.STACK)
    with pytest.raises(verification.VerificationError, match="wrong 2 layers, bidirectional, dropout both .* is off"):
        verification.verify(problem, [wrong])


RAGGED_FORMS = ["packed", "padded", "packed", "lengths=", "padded"]


def test_ragged_contenders_agree_with_the_reference_up_to_the_end_of_each_sequence() -> None:
    problem = Problem(Size(T=9, B=4, I=5, H=6), torch.float32, CPU, ragged=True)
    ragged = lineups.ragged_layers(problem, OURS, problems.dropouts([0.5], [0.3]))
    assert [c.sequences for c in ragged if c.dropout.name == "none"] == RAGGED_FORMS
    assert {c.dropout.name for c in ragged if c.name == records.MODULE} == set(lineups.MAIN_KINDS)
    verification.verify(problem, ragged)
    past_the_end = torch.arange(9).unsqueeze(1) >= problem.lengths
    assert past_the_end.any()
    for contender in ragged:
        y, _, _ = contender.forward()
        assert bool(y[past_the_end].any()) == (contender.sequences == "padded")
