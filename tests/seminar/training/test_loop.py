"""The loop: averages over examples, four histories, that it learns, and that it may start in an epoch's middle."""

import math

import numpy as np
import pytest
import torch
from ragged_rows import V, some_rows
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rnndrop_cuda.presets import GalLSTM
from rnndrop_cuda.seminar.layers import FastRNNLayer
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.batches import Batches, LengthBatches
from rnndrop_cuda.seminar.training.loop import (
    Progress,
    clip_gradients,
    evaluate,
    fit,
    predicted,
    train,
    train_epoch,
)


@pytest.fixture
def reviews() -> tuple[torch.Tensor, torch.Tensor]:
    """200 reviews of 6 words out of 10; good ones hold word 3, bad ones word 4."""
    y = torch.arange(200) % 2
    X = torch.randint(5, 10, (200, 6))
    X[:, 2] = 3 + y
    return X, y


@pytest.fixture
def model() -> RNNClassifier:
    return RNNClassifier(8, 8, 10, 1, 32, rec_layer=FastRNNLayer, dropout=0.1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("batch_size", [1, 64, 200])
def test_evaluation_averages_over_examples(reviews, model, reduction, batch_size):
    """200 is no multiple of 64: an average over batches would weigh the last batch's examples more."""
    X, y = reviews
    score = evaluate(Batches(X, y, batch_size), model, nn.BCELoss(reduction=reduction), "cpu")
    with torch.no_grad():
        probabilities = model.eval()(X.T)[:, 0]
    assert score.loss == pytest.approx(nn.BCELoss()(probabilities, y.float()).item(), rel=1e-5)
    assert score.accuracy == pytest.approx(((probabilities > 0.5) == y).double().mean().item())


def test_evaluation_changes_nothing_and_has_no_dropout(reviews, model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    scores = {evaluate(Batches(*reviews, 32), model, nn.BCELoss(reduction="sum"), "cpu") for _ in range(2)}
    assert len(scores) == 1
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_train_learns_and_returns_the_four_histories(reviews, model, capsys):
    loader = DataLoader(TensorDataset(*reviews), batch_size=32, shuffle=True)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    history = train(loader, loader, model, nn.BCELoss(reduction="sum"), optimizer, "cpu", 6)
    train_loss, train_accuracy, test_loss, test_accuracy = history
    assert [len(values) for values in history] == [6] * 4
    assert test_accuracy[-1] > 0.95
    assert train_accuracy[-1] > train_accuracy[0]
    assert test_loss[-1] < test_loss[0]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[-1] == (
        f"epoch 6/6: train loss {train_loss[-1]:.4f} accuracy {train_accuracy[-1]:.4f}, "
        f"test loss {test_loss[-1]:.4f} accuracy {test_accuracy[-1]:.4f}"
    )


def test_train_epoch_has_dropout_on(reviews):
    model = RNNClassifier(8, 8, 10, 1, 32, rec_layer=FastRNNLayer, dropout=0.5)  # 0.1 may well drop nothing of 16
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses = {
        train_epoch(Batches(*reviews, 200), model, nn.BCELoss(reduction="sum"), optimizer, "cpu").loss for _ in range(3)
    }
    assert len(losses) == 3


def test_wrong_arguments_are_named(reviews, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = Batches(*reviews, 32)
    with pytest.raises(ValueError, match="num_epochs: expected at least 0, got -1"):
        train(loader, loader, model, nn.BCELoss(), optimizer, "cpu", -1)
    with pytest.raises(ValueError, match="at least one example"):
        train([], loader, model, nn.BCELoss(), optimizer, "cpu", 1)
    with pytest.raises(ValueError, match='reduction of "sum" or "mean", got \'none\''):
        evaluate(loader, model, nn.BCELoss(reduction="none"), "cpu")


def test_clipping_sparse_gradients_equals_torchs_of_dense_ones():
    ids, gradient = torch.tensor([3, 1, 3]), torch.randn(3, 4)
    norms = {}
    for sparse in (False, True):
        embedding, other = nn.Embedding(5, 4, sparse=sparse), nn.Parameter(torch.ones(2))
        ((embedding(ids) * gradient).sum() + 3 * other.sum()).backward()
        parameters = [embedding.weight, other]
        if sparse:
            clip_gradients(parameters, 0.5)
        else:
            nn.utils.clip_grad_norm_(parameters, 0.5)
        norms[sparse] = [parameter.grad.to_dense() for parameter in parameters]
    for found, expected in zip(norms[True], norms[False], strict=True):
        torch.testing.assert_close(found, expected)
    assert math.hypot(*(g.norm() for g in norms[True])) == pytest.approx(0.5, rel=1e-4)
    clip_gradients([other], 100.0)  # shorter ones stay
    assert torch.equal(other.grad, norms[True][1])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_loss_and_accuracy_are_averages_over_reviews(reduction):
    """13 reviews in batches of 4: the last batch has one, which an average over batches would count four times."""
    torch.manual_seed(0)
    model = RNNClassifier(6, 8, V, 1, 4, rec_layer=GalLSTM, dropout=0.5)
    rows = some_rows(range(1, 14))
    y = torch.arange(13) % 2
    score = evaluate(LengthBatches(rows, y, 4), model, nn.BCELoss(reduction=reduction), "cpu")
    with torch.no_grad():
        alone = torch.cat([model(torch.from_numpy(row)[:, None])[0] for row in rows])
    assert score.loss == pytest.approx(nn.BCELoss()(alone, y.float()).item(), rel=1e-5)
    assert score.accuracy == pytest.approx(((alone > 0.5) == y).double().mean().item())


def test_it_learns_what_stands_at_a_reviews_end_wherever_that_is():
    """The last word decides: a classifier that read the padding's end of these lengths would learn little."""
    torch.manual_seed(0)
    y = torch.arange(400) % 2
    rows = some_rows(np.random.default_rng(4).integers(2, 25, size=400))
    for row, label in zip(rows, y.tolist(), strict=True):
        row[row < 3] = 3
        row[-1] = 1 + label
    batches = LengthBatches(rows, y, 32, torch.Generator().manual_seed(0))
    model = RNNClassifier(8, 16, V, 1, 32, rec_layer=GalLSTM, dropout=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = train(batches, batches, model, nn.BCELoss(), optimizer, "cpu", 3)
    assert history.test_accuracy[-1] > 0.95


def fitted(batches, epochs, **options):
    """The epochs of a run from the beginning, and its model."""
    torch.manual_seed(0)
    model = RNNClassifier(8, 8, 10, 1, 32, rec_layer=FastRNNLayer, dropout=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lossfun = nn.BCELoss(reduction="sum")
    return list(fit(model, lossfun, optimizer, "cpu", batches, {"val": batches}, epochs, **options)), model


def test_an_epoch_is_told_with_its_scores_and_seconds(reviews):
    batches = Batches(*reviews, 32)
    epochs, model = fitted(batches, 2)
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert epochs[1].scores["val"] == evaluate(batches, model, nn.BCELoss(reduction="sum"), "cpu")
    assert list(epochs[0].row()) == ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"]
    assert epochs[0].row()["val_loss"] == epochs[0].scores["val"].loss
    assert epochs[0].seconds > 0


def test_what_is_told_within_an_epoch_is_what_it_may_start_from(reviews):
    """200 reviews are 7 batches of 32; told after every 3, but not at the epoch's end."""
    batches, told = Batches(*reviews, 32), []
    whole, _ = fitted(batches, 2, every=3, within=told.append)
    assert [(progress.epochs, progress.batches) for progress in told] == [(0, 3), (0, 6), (1, 3), (1, 6)]
    assert [progress.sums.examples for progress in told] == [96, 192, 96, 192]
    unbroken, _ = fitted(batches, 2)
    for epoch, expected in zip(whole, unbroken, strict=True):
        assert epoch.scores["val"] == expected.scores["val"]
        assert epoch.scores["train"].loss == pytest.approx(expected.scores["train"].loss)

    fed = []

    def feed(part, of_part):
        for batch in of_part:
            fed.append((part, len(batch[1])))
            yield batch

    (epoch,), _ = fitted(batches, 2, start=told[3], feed=feed)
    assert epoch.number == 2
    assert fed == [("train", 8), *[("val", 32)] * 6, ("val", 8)], "what was done before is skipped, and is not fed"
    assert fitted(batches, 2, start=Progress(epochs=2))[0] == []


def test_an_output_that_is_no_number_is_told(reviews, model):
    with torch.no_grad():
        model.output.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="no number any more: try a smaller learning rate"):
        evaluate(Batches(*reviews, 32), model, nn.BCELoss(reduction="sum"), "cpu")


@pytest.mark.parametrize("ragged", [False, True])
def test_predictions_are_in_the_order_of_the_rows(ragged):
    """More than are computed at once, of which those of similar length are computed together."""
    model = RNNClassifier(8, 8, V, 1, 32, rec_layer=GalLSTM, dropout=0.5)
    rows = some_rows(np.random.default_rng(4).integers(1, 12, size=150) if ragged else [7] * 150)
    found = predicted(model, rows if ragged else np.stack(rows), "cpu")
    with torch.no_grad():
        alone = [float(model.eval()(torch.from_numpy(row)[:, None])) for row in rows]
    torch.testing.assert_close(found, torch.tensor(alone), atol=1e-5, rtol=0)
    assert len({*alone}) > 100
