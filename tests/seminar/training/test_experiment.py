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
def self_trained(npz):
    """Two teachers, 12 labels and 36 reviews without, all of which are trained on."""
    return Experiment(
        data=str(npz), unverified_data=True, maxlen=8, variable_length=True, layer="GalLSTM:0.5", labelled=12, passes=2,
        teachers=2, teaching=(("batch_size", 4), ("learning_rate", 0.01)), confidence=(0.5,), **TINY,
    )  # fmt: skip


@pytest.fixture
def school(monkeypatch):
    """What is predicted, what is taught with which confidence, and the classifiers, in the order of their making."""
    said, taught, models = [], [], []
    predicted, label, forward = experiment.predicted, experiment.Parts.label_the_others, experiment.Forward

    def label_the_others(parts, probabilities, confidence):
        taught.append((probabilities, confidence))
        label(parts, probabilities, confidence)

    monkeypatch.setattr(experiment, "predicted", lambda *args: said.append(predicted(*args)) or said[-1])
    monkeypatch.setattr(experiment.Parts, "label_the_others", label_the_others)
    monkeypatch.setattr(experiment, "Forward", lambda *args: models.append(forward(*args)) or models[-1])
    return said, taught, models


def test_a_student_learns_the_mean_of_what_its_teachers_say(self_trained, school):
    said, taught, models = school
    reviews = self_trained.load()
    run = experiment.train_and_score(self_trained, reviews, CPU)
    assert [len(p) for p in said] == [36, 36] and not torch.equal(*said), "each teacher has a seed of its own"
    assert [confidence for _, confidence in taught] == [0.5] and torch.equal(taught[0][0], (said[0] + said[1]) / 2)
    assert len(models) == 3 and run.data["train reviews"] == 12
    assert without_seconds(run) == without_seconds(experiment.train_and_score(self_trained, reviews, CPU))


def test_in_a_second_round_the_student_of_the_first_teaches(self_trained, school):
    said, taught, models = school
    reviews = self_trained.load()
    experiment.train_and_score(self_trained, reviews, CPU)
    of_one_round = models[-1].state_dict()
    experiment.train_and_score(dataclasses.replace(self_trained, confidence=(0.5, 0.6)), reviews, CPU)
    assert len(models) == 3 + 4, "two teachers and a student; the same, and another student"
    for key, weight in models[-2].state_dict().items():
        assert torch.equal(weight, of_one_round[key]), key
    assert torch.equal(taught[-1][0], said[-1]) and taught[-1][1] == 0.6


def test_no_label_is_read_but_those_that_are_given(self_trained):
    """The others may be anything."""
    reviews = self_trained.load()
    drawn = torch.randperm(48, generator=torch.Generator().manual_seed(self_trained.seed)).numpy()
    y = reviews.y_train.copy()
    y[drawn[12:]] = 1 - y[drawn[12:]]
    others = dataclasses.replace(reviews, y_train=y)
    of_both = [experiment.train_and_score(self_trained, each, CPU) for each in (reviews, others)]
    assert without_seconds(of_both[0]) == without_seconds(of_both[1])
    y[drawn[0]] = 1 - y[drawn[0]]
    assert without_seconds(experiment.train_and_score(self_trained, others, CPU)) != without_seconds(of_both[0])


def test_a_student_starts_anew(self_trained, monkeypatch):
    """What its teachers were trained with has no part in it but through what they say."""
    reviews = self_trained.load()
    monkeypatch.setattr(experiment, "predicted", lambda model, X, device: torch.full((len(X),), 0.3))
    other = dataclasses.replace(self_trained, teachers=1, teaching=(("epochs", 1), ("layer", "SemeniutaLSTM:0.1")))
    of_both = [experiment.train_and_score(each, reviews, CPU) for each in (self_trained, other)]
    assert without_seconds(of_both[0]) == without_seconds(of_both[1])
    unsure = experiment.train_and_score(dataclasses.replace(self_trained, confidence=(0.8,)), reviews, CPU)
    alone = experiment.train_and_score(dataclasses.replace(self_trained, teachers=0), reviews, CPU)
    assert without_seconds(unsure) == without_seconds(alone) != without_seconds(of_both[0])


def test_teachers_need_reviews_without_labels(self_trained):
    with pytest.raises(ValueError, match="teachers: expected reviews without labels for them to predict, got none"):
        dataclasses.replace(self_trained, labelled=None).check()
    for wrong in ((), (0.9, 1.1), (0.4,)):
        with pytest.raises(ValueError, match="confidence: expected probabilities in "):
            dataclasses.replace(self_trained, confidence=wrong).check()


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
