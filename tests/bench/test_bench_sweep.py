"""The command bench.sweep: what it draws, what it refuses to time, what it makes of timings."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from bench import records, shapes, sweep, sweep_case, sweep_report
from bench.records import FORWARD_BACKWARD, INFERENCE, MODULE, NN_LSTM, Shape, SweepTiming
from bench.sweep_case import GAL, SEMENIUTA, Contender, SweepCase
from bench.sweep_report import Ratio, Setting, Statistics
from bench.verification import VerificationError
from rnndrop_cuda import LSTM
from tests.bench.samples import FACTS, PLAIN, needs_kernels, sweep_timing

EVERYTHING = Shape(T=3, B=2, I=4, H=6, layers=2, directions=2, P=3, lengths=1, batch_first=1, bias=0)


# ---------------------------------------------------------------- shapes


def test_the_same_seed_draws_the_same_shapes() -> None:
    of_seed_0 = shapes.draw(0, 40, 60.0)
    assert shapes.draw(0, 40, 60.0) == of_seed_0
    assert shapes.draw(0, 15, 60.0) == of_seed_0[:15]
    assert len(set(of_seed_0)) == 40
    assert not set(of_seed_0) & set(shapes.draw(1, 40, 60.0))
    assert of_seed_0[0] == Shape(16, 2, 128, 20, 2, 1, 0, 0, 0, 1), "committed results are of other shapes"


def test_every_kind_of_shape_is_drawn() -> None:
    drawn = shapes.draw(0, 300, 60.0)
    for name, choices in shapes.CHOICES.items():
        values = [getattr(shape, name) for shape in drawn]
        assert set(choices) <= set(values)
        assert choices[0] <= min(values) and max(values) <= choices[-1]
        assert 0.1 < sum(value not in choices for value in values) / 300 < 0.3
    assert {shape.layers for shape in drawn} == {1, 2, 3}
    assert 0.25 < sum(shape.directions == 2 for shape in drawn) / 300 < 0.42
    for rare in ("P", "lengths", "batch_first"):
        assert 0.05 < sum(getattr(shape, rare) > 0 for shape in drawn) / 300 < 0.16
    assert 0.05 < sum(not shape.bias for shape in drawn) / 300 < 0.16
    assert all(0 <= shape.P < shape.H for shape in drawn)


def test_the_bound_on_the_work_holds() -> None:
    work = [shape.gflop(FORWARD_BACKWARD) for shape in shapes.draw(3, 100, 0.5)]
    assert 0.2 < max(work) <= 0.5
    with pytest.raises(ValueError, match="max_gflop: expected at least 0.001, got nan"):
        shapes.draw(0, 1, math.nan)


def test_work_counted_by_hand() -> None:
    assert PLAIN.gflop(INFERENCE) * 1e9 == pytest.approx(2 * 6 * 20 * (4 + 5))
    assert PLAIN.gflop(FORWARD_BACKWARD) == pytest.approx(3 * PLAIN.gflop(INFERENCE))
    below, above = 4 * 6 * (4 + 3) + 3 * 6, 4 * 6 * (6 + 3) + 3 * 6
    assert EVERYTHING.gflop(INFERENCE) * 1e9 == pytest.approx(2 * (2 * 2) * 2 * (below + above))


def test_a_shape_in_words() -> None:
    assert str(PLAIN) == "T=3 B=2 I=4 H=5"
    assert str(EVERYTHING) == "T=3 B=2 I=4 H=6, 2 layers, both directions, P=3, lengths, batch_first, no bias"


# ---------------------------------------------------------------- the check


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [PLAIN, EVERYTHING], ids=str)
def test_right_contenders_pass(shape: Shape, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert sweep_case.verify(SweepCase(shape, dtype), FORWARD_BACKWARD)
    assert not sweep_case.verify(SweepCase(shape, dtype), INFERENCE)


@needs_kernels
def test_dropout_is_verified_only_where_that_is_cheap() -> None:
    assert not sweep_case.verify(SweepCase(dataclasses.replace(PLAIN, T=257), torch.float32), FORWARD_BACKWARD)
    assert sweep_case.verify(SweepCase(dataclasses.replace(PLAIN, T=256), torch.float32), FORWARD_BACKWARD)


@needs_kernels
@pytest.mark.parametrize("phase", [FORWARD_BACKWARD, INFERENCE])
@pytest.mark.parametrize("index, name", [(0, "y"), (1, "h_n"), (2, "c_n")])
def test_a_wrong_output_is_found(phase: str, index: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, forward = SweepCase(EVERYTHING, torch.float32), SweepCase.forward

    def wrong(self: SweepCase, who: Contender) -> list[torch.Tensor]:
        output = list(forward(self, who))
        output[index] = output[index] * 1.001
        return output

    monkeypatch.setattr(SweepCase, "forward", wrong)
    with pytest.raises(VerificationError, match=f"LSTM module, dropout none .*no bias, .*: {name} is off by"):
        sweep_case.verify(case, phase)


@needs_kernels
def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SweepCase.forward

    def wrong(self: SweepCase, who: Contender) -> tuple[torch.Tensor, ...]:
        y, h_n, c_n = forward(self, who)
        return y, h_n.detach() + 0 * h_n, c_n

    monkeypatch.setattr(SweepCase, "forward", wrong)
    with pytest.raises(VerificationError, match="the gradient of x is off by"):
        sweep_case.verify(SweepCase(PLAIN, torch.float32), FORWARD_BACKWARD)


@needs_kernels
@pytest.mark.parametrize("kind, name", [(GAL, "x"), (GAL, "h"), (SEMENIUTA, "g")], ids=str)
def test_a_mask_that_is_ignored_is_found(kind: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LSTM.forward

    def ignoring(self: LSTM, *args: object, **options: object) -> object:
        if self.backend == "cpu" and "masks" in options:
            options["masks"] = [of_layer._replace(**{name: None}) for of_layer in options["masks"]]
        return forward(self, *args, **options)

    monkeypatch.setattr(LSTM, "forward", ignoring)
    torch.manual_seed(1)
    with pytest.raises(VerificationError, match=f"LSTM module, dropout {kind} .*y is off by"):
        sweep_case.verify(SweepCase(PLAIN, torch.float32), FORWARD_BACKWARD)


@needs_kernels
def test_a_wrong_contender_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = SweepCase.forward
    monkeypatch.setattr(SweepCase, "forward", lambda self, who: [2 * t for t in forward(self, who)])
    monkeypatch.setattr(sweep, "measure", lambda *_: pytest.fail("a wrong contender was timed"))
    argv = ["--shapes", "1", "--max-gflop", "0.01", "--threads", "1", "--out", str(tmp_path / "s.csv")]
    assert sweep.main(argv) == 1
    assert "is wrong and was not timed: y is off by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- statistics


def test_statistics_of_known_ratios() -> None:
    assert sweep_report.statistics([0.5, *(1 + k / 10 for k in range(10))]) == (11, 0.5, 1.0, 1.4, 1)
    assert sweep_report.statistics([1.0]) == (1, 1.0, 1.0, 1.0, 0)


def test_ratios_are_of_the_same_shape_and_setting() -> None:
    ours = {"contender": MODULE, "median_ms": 4.0}
    timings = [sweep_timing()]
    timings += [sweep_timing(**ours), sweep_timing(**ours | {"median_ms": 12.0}, dropout="Gal", p=0.5)]
    for other in ({"T": 9}, {"threads": 2}, {"dtype": "bfloat16"}, {"phase": INFERENCE}, {"bias": 0}):
        timings += [sweep_timing(**other, median_ms=1.0), sweep_timing(**ours, **other)]
    found = sweep_report.ratios(timings)
    assert [ratio.value for ratio in found] == [1.5, 0.5, *[0.25] * 5]
    with pytest.raises(ValueError, match=r"T=9 .*training, float32, 1 thread: expected a timing of nn.LSTM"):
        sweep_report.ratios([*timings, sweep_timing(**ours, T=9, dtype="float32", B=77)])


def test_tables_of_known_ratios() -> None:
    setting = Setting(FORWARD_BACKWARD, "float32", 2)
    slow = sweep_timing(contender=MODULE, dropout="Gal", p=0.5, median_ms=8.0, forward_op_ms=2.0, backward_op_ms=5.0)
    found = [Ratio(setting, sweep_timing(contender=MODULE, T=t), 6.0 * r) for t, r in ((1, 0.9), (2, 1.1), (3, 1.2))]
    found.append(Ratio(setting, slow, 6.0))
    table = sweep_report.statistics_table(found).splitlines()
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]] == [
        ["training, float32, 2 threads, no dropout", "3", "0.90", "0.94", "1.10", "1", "p10 1.00"],
        ["training, float32, 2 threads, Gal", "1", "0.75", "0.75", "0.75", "1", "p10 1.20, median 1.60"],
    ]
    lines = sweep_report.slow_table(found).splitlines()[2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [line[0] for line in cells] == ["T=3 B=2 I=4 H=5", "T=1 B=2 I=4 H=5"], "the slowest come first"
    assert cells[0][3:] == ["0.75", "6", "8", "25%", "62%", "12%"]


def test_bars_are_met_from_their_value_on() -> None:
    training = Setting(FORWARD_BACKWARD, "float32", 1)
    assert sweep_report.missed(training, "none", Statistics(9, 0.9, 1.0, 1.1, 2)) == "none"
    assert (
        sweep_report.missed(training, "none", Statistics(9, 0.89, 0.99, 1.09, 2)) == "min 0.90, p10 1.00, median 1.10"
    )
    assert sweep_report.missed(training, "Gal", Statistics(9, 0.1, 1.2, 1.59, 2)) == "median 1.60"
    assert sweep_report.missed(Setting(INFERENCE, "float64", 1), "none", Statistics(9, 0.1, 0.1, 0.1, 9)) == ""


def test_every_setting_has_a_panel(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = [Setting(phase, "float32", n) for phase in (FORWARD_BACKWARD, INFERENCE) for n in (1, 2)]
    found = [Ratio(s, sweep_timing(contender=MODULE, phase=s.phase, threads=s.threads), 6.0) for s in settings[:3]]
    figure = sweep_report.draw(tmp_path / "s.png", found, {**FACTS, "shapes": "1 shape drawn"})
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert [(panel.get_title(), panel.axison) for panel in figure.axes] == [
        ("training, float32, 1 thread", True),
        ("training, float32, 2 threads", True),
        ("inference, float32, 1 thread", True),
        ("", False),
    ]
    assert all(len(panel.collections) == 1 for panel in figure.axes[:3])


# ---------------------------------------------------------------- end to end

TINY = ["--shapes", "2", "--max-gflop", "0.002", "--budget", "0.001", "--threads", "1"]


@needs_kernels
def test_sweep_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "s.csv"
    assert sweep.main([*TINY, "--out", str(out)]) == 0
    facts, timings = records.read(out, SweepTiming)
    assert facts["shapes"] == "2 shapes drawn from seed 0, up to 0.002 GFLOP in training"
    assert facts["measured"] == "8 of 8 cases"
    assert {"commit", "machine", "torch", "load at the end"} <= facts.keys()
    training = [(NN_LSTM, "none"), (MODULE, "none"), (MODULE, "Gal"), (MODULE, "Semeniuta")]
    expected = [
        (shape, phase, dtype, *who)
        for phase, contenders in ((FORWARD_BACKWARD, training), (INFERENCE, training[:2]))
        for dtype in ("float32", "bfloat16")
        for shape in shapes.draw(0, 2, 0.002)
        for who in contenders
    ]
    assert [(t.shape, t.phase, t.dtype, t.contender, t.dropout) for t in timings] == expected
    baselines = {(t.shape, t.phase, t.dtype): t.median_ms for t in timings if t.contender == NN_LSTM}
    for t in timings:
        assert t.repeats == 5 and t.calls >= 1
        assert 0 < t.min_ms <= t.q1_ms <= t.median_ms <= t.q3_ms < math.inf
        if t.contender == MODULE and t.median_ms > baselines[t.shape, t.phase, t.dtype]:
            assert t.forward_op_ms > 0
            assert (t.backward_op_ms > 0) == (t.phase == FORWARD_BACKWARD)
        else:
            assert t.forward_op_ms == t.backward_op_ms == 0
    shown = capsys.readouterr().out
    assert sweep_report.statistics_table(sweep_report.ratios(timings)) in shown
    assert sweep_report.slow_table(sweep_report.ratios(timings)) in shown
    assert out.with_suffix(".png").exists()


@needs_kernels
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.csv"
    options = [*TINY, "--phases", "inference", "--dtypes", "float32", "--out", str(out), "--continue"]
    assert sweep.main([*options, "--stop-after", "1e-9"]) == 0
    assert "--continue measures the rest" in capsys.readouterr().out
    assert sweep.main(options) == 0
    assert len(records.read(out, SweepTiming)[1]) == 4
    first = out.read_text()
    assert sweep.main(options) == 0
    assert out.read_text() == first, "nothing is measured twice"
    facts, timings = records.read(out, SweepTiming)
    records.write(out, facts, timings[2:])
    assert sweep.main(options) == 0
    facts, timings = records.read(out, SweepTiming)
    assert facts["measured"] == "2 of 2 cases"
    assert {t.shape for t in timings} == set(shapes.draw(0, 2, 0.002)), "what is missing, wherever, is measured"
    first = out.read_text()
    assert sweep.main([*options, "--seed", "1"]) == 2
    assert "has shapes 2 shapes drawn from seed 0" in capsys.readouterr().err
    assert out.read_text() == first


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--max-gflop", "0.0001"], "expected at least 0.001, got '0.0001'"),
        (["--budget", "0"], "expected a number above 0, got '0'"),
        (["--budget", "nan"], "expected a number above 0, got 'nan'"),
        (["--shapes", "0"], "expected a whole number of at least 1, got '0'"),
        (["--phases", "all"], "invalid choice: 'all'"),
        (["--show", "/nowhere.csv"], "/nowhere.csv"),
        (["--out", "."], "--out .: expected a file, this is a folder"),
    ],
)
def test_bad_options_of_the_sweep_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = sweep.main(argv)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert message in capsys.readouterr().err
