"""A study's conclusions, from figures made up for them."""

import pytest
from matplotlib.figure import Figure

from rnndrop_cuda.seminar.reports import study as study_report
from rnndrop_cuda.seminar.training.experiment import StudyRun


def run(test: float, train: float = 0.9, best: float | None = None) -> StudyRun:
    epoch = {"train_loss": 0.5, "train_accuracy": train, "test_loss": 0.5, "seconds": 1.0}
    epochs = [{**epoch, "test_accuracy": test if best is None else best}, {**epoch, "test_accuracy": test}]
    return StudyRun({"seed": 0}, {"test reviews": 100}, epochs, train)


def results(**runs: list[StudyRun]) -> study_report.Results:
    return study_report.Results("made-up", "?", {}, ("other",), runs)


BASE = [run(0.70), run(0.71), run(0.69)]


def test_a_clear_difference_is_told_from_noise():
    better = study_report.findings(results(base=BASE, other=[run(0.80), run(0.81), run(0.79)]))
    assert "better than base: other; none is clearly worse" in better[2]
    assert "best test accuracy +10.0 points (standard error 0.8)" in better[1]
    worse = study_report.findings(results(base=BASE, other=[run(0.60), run(0.61), run(0.59)]))
    assert "none is clearly better than base; worse: other" in worse[2]
    same = study_report.findings(results(base=BASE, other=[run(0.70), run(0.72), run(0.69)]))
    assert "none is clearly better than base; none is clearly worse" in same[2]
    assert "+0.3 points (standard error 1.1, within the noise)" in same[1]
    single = study_report.findings(results(base=BASE[:1], other=[run(0.9)]))
    assert "one seed" in single[1] and not any("In short" in sentence for sentence in single)


def test_figures_near_chance_get_no_verdict():
    (only,) = study_report.findings(results(base=[run(0.52), run(0.54)], other=[run(0.56), run(0.55)]))
    assert only.startswith("No variant gets beyond 55.5 % on the test reviews, where a coin gets 50 %")


def test_names_with_commas_are_quoted():
    found = study_report.findings(results(**{"base": BASE, "a, b": [run(0.8), run(0.81)]}))
    assert found[1].startswith('"a, b": ') and 'better than base: "a, b";' in found[2]


def test_each_variant_is_compared_with_its_own(tmp_path):
    few, many = [run(0.60), run(0.61), run(0.59)], [run(0.80), run(0.81), run(0.79)]
    runs = {"base": BASE, "other": few, "base, more": many, "other, more": few}
    compared = study_report.Results("made-up", "?", {}, (), runs, {"other, more": "base, more"})
    told = study_report.findings(compared)
    assert told[1].startswith("other: best test accuracy -10.0 points")
    assert told[2].startswith('"base, more": best test accuracy +10.0 points'), "with the first"
    assert told[3].startswith('"other, more" against "base, more": best test accuracy -20.0 points')
    assert told[4] == 'In short, by the best test accuracy: better than base: "base, more"; worse: other.'
    assert told[5].endswith('none is clearly better than "base, more"; worse: "other, more".')
    study_report.write(compared, tmp_path)
    assert study_report.findings(study_report.read(tmp_path / "study.json")) == told


@pytest.mark.parametrize(
    "other, gap_halved, raised",
    [
        ([run(0.72, 0.80)] * 3, True, True),
        ([run(0.70, 0.79)] * 3, True, False),
        ([run(0.72, 0.85)] * 3, False, True),
        ([run(0.60, 0.90)] * 3, False, False),
    ],
)
def test_the_promise_follows_the_figures(other, gap_halved, raised):
    """The baseline's gap is 20 points, and its best accuracy plus a standard error 70.58 %."""
    gap, best = study_report.promise(results(base=BASE, other=other), "other").split(". Best ")
    assert ("as expected" in gap, "as expected" in best) == (gap_halved, raised)
    assert ("not below half" in gap, "not reached" in best) == (not gap_halved, not raised)
    assert "70.58 %" in best


def test_accuracy_is_drawn_against_the_words_read():
    axes = Figure().subplots()
    runs = results(base=[run(0.70)] * 3, more=[run(0.80, best=0.85)] * 3, own=[run(0.90)] * 3)
    study_report._plot_by_length(axes, runs, {"base": 50, "more": 200, "own": None})
    drawn = {container.get_label(): container.lines[0].get_xydata().round(6).tolist() for container in axes.containers}
    assert drawn == {"best epoch": [[50, 0.70], [200, 0.85]], "last epoch": [[50, 0.70], [200, 0.80]]}
    across = {line.get_label(): line.get_ydata() for line in axes.get_lines() if line.get_label().startswith("own")}
    assert across == {"own: best epoch": [0.9, 0.9], "own: last epoch": [0.9, 0.9]}
