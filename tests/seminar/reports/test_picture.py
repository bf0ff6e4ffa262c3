"""The picture's page in a browser."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from one_review import MAXLEN, READ, REST, TEXT, WORDS, page_data, save, with_words

from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.analysis.trace import QUANTITIES, word_effects
from rnndrop_cuda.seminar.commands import visualize
from rnndrop_cuda.seminar.training import checkpoint

MINUS = "\N{MINUS SIGN}"


class Opened:
    """The page in a window of a width, with all that went wrong in it and all that it asked for."""

    def __init__(self, browser, shown: Path, width: int) -> None:
        self.data = page_data(shown)
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto((shown / "review.html").as_uri())

    def says(self) -> str:
        return self.page.locator("#readout").inner_text()

    def cell(self, t: int, row: int) -> tuple[float, float]:
        """The centre of a cell in the window, scrolled to where it can be pointed at."""
        canvas = self.page.locator("#cells")
        canvas.scroll_into_view_if_needed()
        at = self.page.evaluate(f"[centre({t}), ({row} + 0.5) * rowHeight]")
        box = canvas.bounding_box()
        return box["x"] + at[0], box["y"] + at[1]

    def colour(self, t: int, row: int) -> list[int]:
        """Of a cell's corner, where no sign stands."""
        at = f"GUTTER + {t} * columnWidth + 2, {row} * rowHeight + 2"
        return self.page.evaluate(f"[...byId('cells').getContext('2d').getImageData({at}, 1, 1).data].slice(0, 3)")


@pytest.fixture(scope="module")
def shown(browser, write_npz, tmp_path_factory) -> Path:
    """The folder of the page, of a checkpoint in it, and of the data of that."""
    out = tmp_path_factory.mktemp("shown")
    write_npz(out / "reviews.npz")
    folder = save(with_words(out / "reviews.npz"), out / "checkpoint")
    assert visualize.main(["--checkpoint", str(folder), "--out", str(out), "--text", TEXT]) == 0
    return out


@pytest.fixture(params=[1200, 375], ids=["wide", "phone"])
def opened(request, browser, shown) -> Iterator[Opened]:
    opened = Opened(browser, shown, request.param)
    yield opened
    opened.page.close()


def test_the_page_is_dark_where_the_system_is(browser, shown):
    page = browser.new_page(color_scheme="dark")
    page.goto((shown / "review.html").as_uri())
    of_body = "(({ backgroundColor, color }) => [backgroundColor, color])(getComputedStyle(document.body))"
    assert page.evaluate(of_body) == ["rgb(22, 22, 22)", "rgb(221, 221, 221)"]
    strokes = "[...document.querySelectorAll('#along svg polyline')].map(line => getComputedStyle(line).stroke)"
    assert "rgb(221, 221, 221)" in page.evaluate(strokes), "the probability, which was black"
    assert page.locator("#along svg").get_by_text("P(positive)").count() == 1
    page.close()


def test_the_page_loads_and_shows_the_text(opened):
    assert opened.page.locator(".word").all_inner_texts() == READ
    shown = opened.page.locator("#text").inner_text()
    assert shown == TEXT[: len(shown)] and shown.endswith("The"), "as it was written, markup and all"
    opened.page.get_by_text("which the model does not read").click()
    assert opened.page.locator("#rest").inner_text() == REST
    unknown = opened.page.locator(".word.unknown").all_inner_texts()
    assert unknown == [word for word in READ if word.lower() not in WORDS]
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.wrong == []
    assert len(opened.requests) == 1 or opened.requests[1:] == ["data:,"], "it loads nothing"


def test_a_long_review_scrolls_in_its_own_frame(browser, npz, tmp_path):
    folder = save(with_words(npz), tmp_path / "checkpoint", maxlen=None)
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", TEXT * 20]) == 0
    opened = Opened(browser, tmp_path, 375)
    for quantity in QUANTITIES:
        opened.page.select_option("#quantity", quantity)
        opened.page.select_option("#units", "all")
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.page.evaluate("byId('along').parentElement.scrollWidth > 10 * innerWidth")
    opened.page.locator(".word").nth(300).hover()
    column = opened.page.locator("#column").bounding_box()
    assert 0 < column["x"] < 375, "what is pointed at is in sight in the other picture, too"
    assert opened.wrong == []
    opened.page.close()


def test_pointing_at_a_word_tells_its_values(opened):
    data = opened.data
    for t in (0, 7):
        opened.page.locator(".word").nth(t).hover()
        says = opened.says()
        assert says.startswith(f"“{READ[t]}”, word {t + 1} of {len(READ)}: ")
        before, after = re.search(r"output (\S+) → (\S+), ", says).groups()
        assert (float(before), float(after)) == pytest.approx(data["probabilities"][t : t + 2], abs=6e-4)
        influence = re.search(r"logit (\S+);", says)[1].replace(MINUS, "-")
        assert float(influence) == pytest.approx(data["influence"][t], abs=6e-4)
        assert float(re.search(r"moved ([\d.]+);", says)[1]) == pytest.approx(data["moved"][t], abs=6e-4)
        assert f"± {data['band']['sd'][t + 1]:.3f}"[:5] in says
    opened.page.locator(".word").nth(6).hover()
    assert "(unknown to the model)" in opened.says()


def test_words_have_signs_beside_their_colours(opened):
    influence = np.array(opened.data["influence"])
    signs = opened.page.eval_on_selector_all(".word", "spans => spans.map(span => span.dataset.sign ?? '')")
    strong = np.abs(influence) >= 0.1 * np.abs(influence).max()
    expected = np.where(influence > 0, "+", MINUS)
    assert signs == list(np.where(strong, expected, ""))
    assert {"+", MINUS} <= set(signs)
    colours = "spans => spans.map(span => span.style.backgroundColor)"
    by_output = opened.page.eval_on_selector_all(".word", colours)
    opened.page.get_by_label("the hidden state").check()
    assert opened.page.eval_on_selector_all(".word", colours) != by_output
    assert opened.page.eval_on_selector_all(".word", "spans => spans.filter(span => 'sign' in span.dataset)") == []


@pytest.mark.parametrize("quantity", ["h", "c", "o"])
def test_pointing_at_a_cell_tells_its_value(opened, quantity):
    opened.page.select_option("#quantity", quantity)
    states, units = np.array(opened.data["states"][quantity]), opened.data["units"]
    for t, row in ((1, 0), (4, 15)):
        opened.page.mouse.move(*opened.cell(t, row))
        value = re.search(rf"Unit {units[row]}: \D+ ([+{MINUS}]?[\d.]+)\.$", opened.says())[1]
        assert float(value.replace(MINUS, "-")) == pytest.approx(states[t, units[row]], abs=6e-4)
        assert f"word {t + 1} of" in opened.says()


def test_cells_can_be_told_apart_without_colour(opened):
    """Grey levels: zero is the lightest; blue is darker than orange of the same size."""
    states, units = np.array(opened.data["states"]["h"]), opened.data["units"][:16]
    grey = {
        states[t, unit]: np.dot(opened.colour(t, row), [0.299, 0.587, 0.114])
        for t in range(len(READ))
        for row, unit in enumerate(units)
    }
    for side in (1, -1):
        values = sorted((value for value in grey if value * side >= 0), key=abs)
        levels = [grey[value] for value in values]
        assert all(a >= b - 1.5 for a, b in itertools.pairwise(levels)), "the larger, the darker"
        assert levels[-1] < levels[0] - 50
    most, least = max(grey), min(grey)
    assert abs(most) > 0.8 and abs(least) > 0.8
    assert grey[least] < grey[most] - 40


def test_a_click_shows_what_opens_the_unit(opened, shown):
    model, words, settings = checkpoint.load_checkpoint(shown / "checkpoint")
    effects = word_effects(model, load_reviews(settings.data, 20, MAXLEN, sha256=None).X_test)
    opened.page.select_option("#quantity", "i")
    opened.page.mouse.click(*opened.cell(2, 3))
    unit = opened.data["units"][3]
    assert opened.page.locator("#unit").input_value() == str(unit)
    for side, table, title in zip(effects.top("i", unit, 6), ("#raise", "#lower"), ("open", "close"), strict=True):
        rows = opened.page.locator(f"{table} tr").all_inner_texts()
        assert [row.split()[0] for row in rows] == [words[effects.ids[w]] for w in side] or rows == ["no word"]
        assert opened.page.locator(f"{table} caption").inner_text() == f"{title} its input gate i"


def test_arrow_keys_go_from_word_to_word_and_from_cell_to_cell(opened):
    opened.page.locator("#text").focus()
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    assert "word 3 of 11" in opened.says()
    opened.page.locator("#cells").focus()
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowLeft")
    assert "word 2 of 11" in opened.says()
    assert f"Unit {opened.data['units'][1]}: " in opened.says()


@pytest.mark.parametrize("width, column", [(320, 80), (1280, 120)])
def test_a_short_review_uses_the_page(browser, npz, tmp_path, width, column):
    folder = save(with_words(npz), tmp_path / "checkpoint", maxlen=None)
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", " ".join(WORDS[:3])]) == 0
    opened = Opened(browser, tmp_path, width)
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.page.evaluate("columnWidth") == pytest.approx(column, rel=0.1)
    opened.page.close()
