"""A study's run: the same one again gives the same figures, and what the one on whole reviews trains, written out."""

import dataclasses

import pytest
import torch
from language_models import save_language_model
from torch import nn

from rnndrop_cuda.presets import SemeniutaLSTM
from rnndrop_cuda.seminar.language_model.pretrained import load_pretrained
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.studies import STUDIES
from rnndrop_cuda.seminar.training import experiment
from rnndrop_cuda.seminar.training.batches import batches_of
from rnndrop_cuda.seminar.training.experiment import Experiment
from rnndrop_cuda.seminar.training.start import fingerprint

CPU = torch.device("cpu")
TINY = {"vocab_size": 20, "n_hidden": 4, "batch_size": 16, "epochs": 2, "n_emb": 6}


def without_seconds(run):
    return [{**epoch, "seconds": 0} for epoch in run.epochs]


def test_the_same_experiment_gives_the_same_figures(npz):
    what = Experiment(data=str(npz), unverified_data=True, maxlen=8, variable_length=True, layer="GalLSTM:0.5", **TINY)
    first, again = (experiment.train_and_score(what, what.load(), CPU) for _ in range(2))
    assert without_seconds(first) == without_seconds(again)


def test_reviews_held_out_are_scored_and_the_test_reviews_left_alone(npz):
    what = Experiment(data=str(npz), unverified_data=True, validation=16, **TINY)
    reviews = what.load()
    run = experiment.train_and_score(what, reviews, CPU)
    assert {*run.epochs[0]} == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}
    assert run.test_accuracy == run.epochs[-1]["val_accuracy"]
    assert run.data["train reviews"] == 32
    others = dataclasses.replace(reviews, X_test=reviews.X_test[:1], y_test=reviews.y_test[:1])
    assert without_seconds(run) == without_seconds(experiment.train_and_score(what, others, CPU))
    fewer = dataclasses.replace(what, validation=None)
    on_the_rest = experiment.train_and_score(fewer, reviews.first(32), CPU)
    assert [epoch["train_loss"] for epoch in on_the_rest.epochs] == [epoch["train_loss"] for epoch in run.epochs]
    with pytest.raises(ValueError, match="validation: expected fewer than the 48 reviews to train on, got 48"):
        experiment.train_and_score(dataclasses.replace(what, validation=48), reviews, CPU)


def test_a_language_model_is_unfrozen_layer_by_layer(npz, tmp_path):
    """After so many epochs what is still frozen is the language model's, in bfloat16 as in float32."""
    folder = save_language_model(tmp_path / "language-model")
    found = load_pretrained(folder)
    base = Experiment(
        data=str(npz), unverified_data=True, maxlen=8, layer="GalLSTM:0.2", pretrained=str(folder),
        gradual_unfreezing=True, pooling="concat", autocast=True, optimizer="Adam", **TINY,
    )  # fmt: skip
    reviews = base.load()
    models = []
    real = experiment.Forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "Forward", lambda model, *rest: models.append(model) or real(model, *rest))
        for epochs in (1, 2, 3):
            run = experiment.train_and_score(dataclasses.replace(base, epochs=epochs), reviews, CPU)
            assert run.data["language model sha256"] == fingerprint(str(folder))
    assert [torch.equal(model.rec_layer.weight_hh_l0, found.lstm["weight_hh_l0"]) for model in models] == [
        True, False, False,
    ]  # fmt: skip
    kept = [torch.equal(model.word_embeddings.weight[4:17], found.embedding[4:17]) for model in models]
    assert kept == [True, True, False]


@pytest.fixture
def full_reviews(npz, tmp_path):
    """The study's experiment, on the npz of tests and vectors of some of its words."""
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(
        "".join(f"#{k} " + " ".join(str(k * j % 7 / 7) for j in range(1, 7)) + "\n" for k in range(1, 14))
    )
    study = STUDIES["full-reviews"]
    changes = {"data": str(npz), "unverified_data": True, "contractions": "keep", "vectors": str(vectors), "maxlen": 9}
    return Experiment(**{**study.base, **study.variants["SemeniutaLSTM 0.3"], **TINY, **changes})


def test_full_reviews_are_trained_as_written_out(full_reviews):
    reviews = full_reviews.load()
    run = experiment.train_and_score(full_reviews, reviews, CPU)

    matrix = experiment.load_vectors(full_reviews.vectors, reviews.words).matrix
    torch.manual_seed(0)
    order = torch.Generator().manual_seed(0)
    train_batches = batches_of(reviews.X_train, reviews.y_train, 16, CPU, order)
    model = RNNClassifier(
        6,
        4,
        len(reviews.words),
        1,
        16,
        rec_layer=lambda *sizes, dropout: SemeniutaLSTM(*sizes, dropout=dropout, forget_bias=1.0),
        embedding=lambda *_: nn.Sequential(
            nn.Embedding.from_pretrained(matrix.clone(), freeze=False, padding_idx=0), nn.Dropout(0.3)
        ),
        dropout=0.3,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=2 * len(train_batches) + 1)
    for epoch in run.epochs:
        model.train()
        loss_sum = 0.0
        for ids, labels, lengths in train_batches:
            loss = nn.functional.binary_cross_entropy(model(ids.T, lengths)[:, 0], labels.float())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(labels)
        assert epoch["train_loss"] == pytest.approx(loss_sum / len(reviews.y_train), rel=1e-6)
    model.eval()
    test_loss = 0.0
    for ids, labels, lengths in batches_of(reviews.X_test, reviews.y_test, 100, CPU):
        p = model(ids.T, lengths)[:, 0]
        test_loss += nn.functional.binary_cross_entropy(p, labels.float(), reduction="sum").item()
    assert run.epochs[-1]["test_loss"] == pytest.approx(test_loss / len(reviews.y_test), rel=1e-6)
