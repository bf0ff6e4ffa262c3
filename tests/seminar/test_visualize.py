"""`rnndrop visualize`: its figures against plain loops, what it refuses, and its page in a browser."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnndrop_cuda import LSTM, cli
from rnndrop_cuda.seminar import load_reviews
from rnndrop_cuda.seminar.analysis.trace import MIN_COUNT, QUANTITIES, fused, read, trace, word_effects
from rnndrop_cuda.seminar.commands.compare import LAYERS
from rnndrop_cuda.seminar.data.reviews import WORD_INDEX, find_words, held_out_texts, tokenize
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.reports import picture as visualize
from rnndrop_cuda.seminar.settings import TrainSettings
from rnndrop_cuda.seminar.training import checkpoint

# Ranks 1 to 16: the ids 4 to 19 of a vocabulary of 20.
WORDS = ["film", "good", "bad", "script", "alert", "a", "the", "wonderful", "awful", "it's", "café", "in", "of"]
WORDS += ["incomprehensibilities", "was", "not"]
VOCABULARY = ["<pad>", "<start>", "<unknown>", "<unused>", *WORDS]
TEXT = "A <script>alert('it's bad')</script> &amp; Wonderful CAFÉ, incomprehensibilities!\n"
REST = " film was <script>alert(2)</script> read on."
TEXT += "The" + REST
READ = ["A", "script", "alert", "'it's", "bad'", "script", "amp", "Wonderful", "CAFÉ", "incomprehensibilities", "The"]
MAXLEN = 12
MINUS = "\N{MINUS SIGN}"


def make_model(layer: str, dropout: float | None) -> RNNClassifier:
    torch.manual_seed(0)
    model = RNNClassifier(6, 5, 20, 1, 4, rec_layer=LAYERS[layer], dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that every gate moves
    return model


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("maxlen", [9, None])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_outputs_are_the_classifiers_own_of_every_prefix(layer, maxlen):
    model = make_model(layer, None if layer == "nn.LSTM" else 0.5)
    ids = [5, 2, 19, 7, 7, 11]
    traced = trace(model, ids, maxlen, samples=2)
    row = torch.tensor([0] * ((maxlen or 7) - 7) + [1, *ids])
    with torch.no_grad():
        expected = [model.eval()(row[: len(row) - k].unsqueeze(1)).item() for k in range(6, -1, -1)]
    np.testing.assert_allclose(traced.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(traced.probabilities, 1 / (1 + np.exp(-traced.logits)))
    assert (traced.band is None) == (layer == "nn.LSTM")


def test_influence_and_contributions_add_up():
    traced = trace(make_model("GalLSTM", 0.5), [5, 2, 19, 7, 7, 11], 9)
    assert traced.influence.sum() == pytest.approx(traced.logits[-1] - traced.logits[0], abs=1e-12)
    assert np.abs(traced.influence).min() > 0
    np.testing.assert_allclose(traced.states["contribution"].sum(1), traced.influence, atol=1e-6)
    weights = np.abs(traced.states["contribution"]).sum(0)
    assert sorted(traced.units) == list(range(5))
    assert list(weights[traced.units]) == sorted(weights, reverse=True)


def test_the_states_are_those_of_the_layer():
    model, ids = make_model("GalLSTM", 0.5).eval(), [5, 2, 19, 7, 7, 11]
    traced = trace(model, ids, 9)
    x = model.word_embeddings(torch.tensor([[0, 0, 1, *ids]]).T)
    _, _, (states,) = model.rec_layer(x, return_states=True)
    for name in states._fields:
        np.testing.assert_array_equal(traced.states[name], getattr(states, name)[3:, 0].detach().numpy(), name)
    h = states.h[2:, 0].double().detach().numpy()
    np.testing.assert_allclose(traced.moved, [np.sqrt(((h[t + 1] - h[t]) ** 2).sum()) for t in range(6)])


@pytest.mark.parametrize("layer", ["RNNLayer", "FastRNNLayer", "MyLSTM", "GalLSTM", "SemeniutaLSTM"])
def test_the_band_is_of_samples_with_one_set_of_masks_each(layer):
    model, ids = make_model(layer, 0.5), [5, 2, 19, 7]
    band = trace(model, ids, 9, samples=7, seed=3).band
    ours, generator = fused(model.rec_layer).eval(), torch.Generator().manual_seed(3)
    x = model.word_embeddings(torch.tensor([[0] * 4 + [1, *ids]]).T)
    expected = []
    with torch.no_grad():
        for _ in range(7):
            y, _ = ours(x, masks=ours.draw_masks(9, 1, generator))
            expected.append(torch.sigmoid(model.output(y[4:, 0]))[:, 0].double().numpy())
    np.testing.assert_allclose(band.samples, expected, rtol=1e-6)
    np.testing.assert_allclose(band.mean, np.mean(expected, 0), rtol=1e-6)
    np.testing.assert_allclose(band.sd, np.std(expected, 0), rtol=1e-4)
    assert band.sd.min() > 0


def test_a_deeper_stack_shows_its_top_layer():
    torch.manual_seed(0)
    model = RNNClassifier(6, 5, 20, 1, 4, rec_layer=lambda E, H: nn.LSTM(E, H, num_layers=2, dropout=0.5))
    traced = trace(model, [5, 7], None, samples=5)
    with torch.no_grad():
        out, _ = model.eval().rec_layer(model.word_embeddings(torch.tensor([[1, 5, 7]]).T))
    np.testing.assert_allclose(traced.states["h"], out[1:, 0].numpy(), rtol=1e-5)
    assert traced.band.sd.min() > 0, "dropout between the layers"


@pytest.mark.parametrize("make", [nn.LSTM, LSTM])
def test_a_layer_without_an_output_word_by_word_is_refused(make):
    with pytest.raises(ValueError, match="one direction only, got a bidirectional"):
        fused(make(3, 4, bidirectional=True))
    with pytest.raises(TypeError, match="must be an LSTM of torch or of this package, got GRU"):
        fused(nn.GRU(3, 4))


@pytest.mark.parametrize("ragged", [False, True])
def test_the_effects_of_words_are_averages_over_their_occurrences(ragged):
    model = make_model("GalLSTM", 0.5).eval()
    rng = np.random.default_rng(0)
    rows = [np.array([1, *rng.integers(2, 9, size=n)]) for n in [*range(12), 3, 30]]
    rows = [np.where(row == 3, 9, row) for row in rows]
    rows[8][1:5] = 19  # once fewer than are asked for
    padded = [np.concatenate([np.zeros(40 - len(row), dtype=np.int64), row]) for row in rows]
    effects = word_effects(model, rows if ragged else np.stack(padded))

    values = defaultdict(list)
    for row in rows if ragged else padded:
        with torch.no_grad():
            _, _, (states,) = model.rec_layer(model.word_embeddings(torch.from_numpy(row)[:, None]), return_states=True)
        of = {name: getattr(states, name)[:, 0].double().numpy() for name in states._fields}
        for t in range(1, len(row)):
            if row[t] >= 4:
                change = {name: of[name][t] - of[name][t - 1] for name in ("h", "c")}
                change["contribution"] = change["h"] * model.output.weight[0].double().detach().numpy()
                for name in QUANTITIES:
                    values[name, int(row[t])].append(change[name] if name in change else of[name][t])
    counts = {word: len(found) for (name, word), found in values.items() if name == "h"}
    assert min(counts.values()) < MIN_COUNT < max(counts.values())
    assert list(effects.ids) == sorted(word for word, count in counts.items() if count >= MIN_COUNT)
    assert list(effects.counts) == [counts[word] for word in effects.ids]
    for name in QUANTITIES:
        of_all = np.concatenate([values[name, word] for word in counts]).mean(0)
        offset = of_all if name in ("i", "f", "g", "o") else 0
        expected = [np.mean(values[name, word], axis=0) - offset for word in effects.ids]
        np.testing.assert_allclose(effects.means[name], expected, atol=1e-6, err_msg=name)

    raises, lowers = effects.top("h", 2, 2)
    order = np.argsort(effects.means["h"][:, 2])
    assert raises == [w for w in order[::-1][:2] if effects.means["h"][w, 2] > 0]
    assert lowers == [w for w in order[:2] if effects.means["h"][w, 2] < 0]
    assert raises and lowers and not set(raises) & set(lowers)


# ---------------------------------------------------------------- texts


LETTERS = st.characters(blacklist_characters="Σ", blacklist_categories=["Cs"])  # Σ: see below
PIECES = st.sampled_from(["don't", "it\u2019s", "'tis", "İt's", "he'd've", "rock 'n' roll", "“so—called”", "n't", "'"])


@pytest.mark.parametrize("contractions", ["keep", "split"])
@given(text=st.lists(st.one_of(st.text(LETTERS), PIECES)).map(" ".join))
def test_a_text_is_cut_where_the_tokeniser_cuts_it(contractions, text):
    words = tokenize(text, contractions)
    vocabulary = [*VOCABULARY[:4], *dict.fromkeys(words)]
    if not words:
        with pytest.raises(ValueError, match="a word at least|ranks instead of words"):
            read(text, vocabulary, None, contractions)
        return
    reading = read(text, vocabulary, None, contractions)
    assert [vocabulary[i] for i in reading.ids] == words
    together = "".join(itertools.chain(*zip(reading.before, reading.words, strict=True)))
    assert together + reading.rest == text


def test_a_reading_keeps_what_was_written():
    reading = read(TEXT, VOCABULARY, MAXLEN)
    assert reading.words == READ
    assert [VOCABULARY[i] for i in reading.ids[:3]] == ["a", "script", "alert"]
    assert reading.known == [word.lower() in WORDS for word in READ]
    assert (reading.rest, reading.words_left_out) == (REST, 8)
    assert read("ΟΔΟΣ film", VOCABULARY, None).known == [False, True], "a final sigma does no harm"


@pytest.mark.parametrize(
    "text, words, before, rest",
    [
        ("Don't “STOP”—it\u2019s", ["Do", "n't", "STOP", "it", "\u2019s"], ["", "", " “", "”—", ""], ""),
        ("İt's 'ok' ΟΔΟΣ's!", ["İt", "'s", "ok", "ΟΔΟΣ", "'s"], ["", "", " '", "' ", ""], "!"),
    ],
)
def test_split_contractions_stand_where_they_were_written(text, words, before, rest):
    reading = read(text, [*VOCABULARY[:4], "do", "ok"], None, "split")
    found = find_words(text, "split")
    assert [text[start:end] for start, end, _ in found] == words
    assert [word for _, _, word in found] == tokenize(text, "split")
    assert (reading.words, reading.before, reading.rest) == (words, before, rest)


def test_held_out_texts_are_those_of_the_test_rows():
    reviews = load_reviews("rotten-tomatoes", 5000, 32)
    texts = held_out_texts("rotten-tomatoes")
    assert len(texts) == len(reviews.y_test) == 1706
    for text, row in list(zip(texts, reviews.X_test, strict=True))[::8]:
        if (row > 2).any():
            assert read(text, reviews.words, 32).ids == [i for i in row if i > 1]


# ---------------------------------------------------------------- the command


def with_words(npz: Path) -> Path:
    npz.with_name(WORD_INDEX).write_text(json.dumps({word: rank for rank, word in enumerate(WORDS, start=1)}))
    return npz


@pytest.fixture
def data(npz: Path) -> Path:
    """The npz of tests, with words for its ranks."""
    return with_words(npz)


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    return save(data, tmp_path / "checkpoint")


def save(data: Path, folder: Path, layer: str = "GalLSTM:0.5", **options) -> Path:
    sizes = {"n_emb": 6, "n_hidden": 20, "vocab_size": 20, "maxlen": MAXLEN}
    settings = TrainSettings(data=str(data), unverified_data=True, layer=layer, **{**sizes, **options})
    model = settings.build()
    torch.manual_seed(1)
    tensors = {checkpoint.MODEL + name: 3 * torch.randn_like(t) for name, t in model.state_dict().items()}
    vocabulary = load_reviews(str(data), settings.vocab_size, sha256=None).words
    checkpoint.save(folder, checkpoint.Checkpoint(settings, vocabulary, tensors, {}))
    return folder


def page_data(out: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', (out / "review.html").read_text())[1])


def test_the_whole_command(folder, tmp_path, capsys):
    """In a process of its own."""
    command = [sys.executable, "-m", "rnndrop_cuda", "visualize", "--checkpoint", folder, "--out", tmp_path / "a" / "b"]
    run = subprocess.run([*command, "--text", TEXT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert re.match(r"(posi|nega)tive, probability 0\.\d+; with dropout 0\.\d+ ± 0\.\d+\nwritten: ", run.stdout)
    out = tmp_path / "a" / "b"
    assert {path.name for path in out.iterdir()} == {"review.html", "review.png"}
    assert (out / "review.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "review.html").read_text()
    assert page.count("&lt;script&gt;") == 1 and page.count("&lt;<span") == 1
    assert "<script>alert" not in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "loads nothing"
    model, _, settings = checkpoint.load_checkpoint(folder)
    traced = trace(model, read(TEXT, VOCABULARY, MAXLEN).ids, settings.maxlen)
    found = page_data(out)
    assert found["words"] == READ
    np.testing.assert_allclose(found["probabilities"], traced.probabilities, atol=6e-5)
    np.testing.assert_allclose(found["band"]["sd"], traced.band.sd, atol=6e-5)
    assert found["states"].keys() == set(QUANTITIES)
    for name, state in found["states"].items():
        np.testing.assert_allclose(state, traced.states[name], atol=6e-4)


def test_a_review_of_the_test_part(folder, data, tmp_path):
    reviews = load_reviews(str(data), 20, MAXLEN, sha256=None)
    n = int((reviews.X_test > 3).sum(1).argmax())
    assert visualize.main(["--checkpoint", str(folder), "--review", str(n), "--out", str(tmp_path)]) == 0
    assert page_data(tmp_path)["words"] == reviews.words_of(i for i in reviews.X_test[n] if i != 1)
    label = "positive" if reviews.y_test[n] else "negative"
    assert f"Its author meant it to be {label}." in (tmp_path / "review.html").read_text()


def test_a_model_without_dropout_or_padding(data, tmp_path, capsys):
    folder = save(data, tmp_path / "checkpoint", "nn.LSTM", maxlen=None)
    argv = ["--checkpoint", str(folder), "--out", str(tmp_path), "--text", TEXT * 40, "--top-reviews", "0"]
    assert visualize.main(argv) == 0
    assert "no dropout inside: no band" in capsys.readouterr().out
    found = page_data(tmp_path)
    assert len(found["words"]) == 40 * (len(READ) + 8)
    assert found["band"] is None and found["top"] is None
    assert "no dropout inside its recurrence" in (tmp_path / "review.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", ""], "--text: the text must have a word at least, got none"),
        (["--text", " <>!? \n"], "--text: the text must have a word at least, got none"),
        (["--text", "Zyzzyva qwerty"], "--text: the text must have a word that the model knows, got none in the 2"),
        (["--text", "film \udcff"], "--text: 'utf-8' codec can't encode"),
        (["--review", "32"], "--review must be from 0 to 31 for "),
        (["--review", "-1"], "--review: must be a whole number of at least 0, got '-1'"),
        (["--review", "1", "--text", "film"], "--text: not allowed with argument --review"),
        (["--samples", "0"], "--samples: must be a whole number of at least 1, got '0'"),
        (["--checkpoint", "absent"], "no checkpoint at absent: there is no such folder; `rnndrop train` makes one"),
        (["--text", "film " * 3001], "--text: "),
    ],
)
def test_wrong_input_is_one_line(folder, tmp_path, capsys, options, message):
    if len(options[-1]) > 3001:
        folder = save(tmp_path / "reviews.npz", tmp_path / "ragged", maxlen=None)
        message = "the review must have at most 3000 words that the model reads, got 3001"
    try:
        status = visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path / "out"), *options])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert status == 2
    *usage, last = captured.err.splitlines()
    assert not usage or usage[0].startswith("usage:")
    assert last.startswith("rnndrop visualize: ") and message in last
    assert not (tmp_path / "out" / "review.html").exists()


def test_a_review_without_a_word_is_one_line(folder, data, tmp_path, capsys):
    reviews = load_reviews(str(data), 20, MAXLEN, sha256=None)
    (n,) = np.flatnonzero((reviews.X_test > 1).sum(1) == 0)
    assert visualize.main(["--checkpoint", str(folder), "--review", str(n), "--out", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err == f"rnndrop visualize: --review {n}: the review must have a word at least, got none\n"
    )


def test_other_data_than_the_models_is_one_line(folder, data, tmp_path, capsys):
    data.with_name(WORD_INDEX).unlink()
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", "a film"]) == 2
    assert "is no longer what" in capsys.readouterr().err
    data.unlink()
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), "--text", "a film"]) == 2
    assert "path of an npz file" in capsys.readouterr().err
    options = ["--text", "a film", "--top-reviews", "0"]
    assert visualize.main(["--checkpoint", str(folder), "--out", str(tmp_path), *options]) == 0, "the text is enough"


def test_a_damaged_checkpoint_and_a_folder_in_the_way_are_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    argv = ["--checkpoint", str(folder), "--text", "a film"]
    assert visualize.main([*argv, "--out", str(tmp_path / "file")]) == 2
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert visualize.main([*argv, "--out", str(tmp_path)]) == 2
    in_the_way, damaged = capsys.readouterr().err.splitlines()
    assert "out must be a folder that can be written" in in_the_way
    assert "is damaged" in damaged


def test_the_missing_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "rnndrop_cuda.seminar.reports.picture")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert cli.main(["visualize"]) == 2
    assert capsys.readouterr().err == "rnndrop visualize: jinja2 is missing: pip install rnndrop_cuda[demo]\n"


# ---------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # CI is root
        yield launched
        launched.close()


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


def test_a_long_review_scrolls_in_its_own_frame(browser, data, tmp_path):
    folder = save(data, tmp_path / "checkpoint", maxlen=None)
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
