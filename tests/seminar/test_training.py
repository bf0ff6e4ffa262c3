"""The classifier and its training: averages over examples, four histories, and that it learns."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rnndrop_cuda.seminar.layers import FastRNNLayer
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.loop import Batches, evaluate, train, train_epoch


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


def test_the_model_is_what_the_seminar_defines():
    plain = RNNClassifier(5, 7, 11, 2, 3)
    assert isinstance(plain.rec_layer, nn.LSTM)
    ids = torch.randint(0, 11, (4, 3))
    out, _ = plain.rec_layer(plain.word_embeddings(ids))
    expected = torch.sigmoid(out[-1] @ plain.output.weight.T + plain.output.bias)
    torch.testing.assert_close(plain(ids), expected)
    assert RNNClassifier(5, 7, 11, 1, 3, FastRNNLayer, dropout=0.25).rec_layer.dropout == 0.25
    sparse = RNNClassifier(5, 7, 11, 1, 3, embedding=lambda n, d: nn.Embedding(n, d, sparse=True))
    assert sparse.word_embeddings.sparse


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


def test_batches_hold_every_example_once_in_a_new_order_each_time():
    X, y = torch.arange(20).reshape(10, 2), torch.arange(10)
    in_order = list(Batches(X, y, 4))
    assert [len(labels) for _, labels in in_order] == [4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in in_order]), y)
    shuffled = Batches(X, y, 4, torch.Generator().manual_seed(0))
    orders = [torch.cat([labels for _, labels in shuffled]) for _ in range(2)]
    assert not torch.equal(orders[0], orders[1])
    for order in orders:
        assert torch.equal(order.sort().values, y)
    for ids, labels in shuffled:
        assert torch.equal(ids, X[labels])
    assert len(shuffled) == 3
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Batches(X, y, 0)


def test_wrong_arguments_are_named(reviews, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = Batches(*reviews, 32)
    with pytest.raises(ValueError, match="num_epochs must not be negative, got -1"):
        train(loader, loader, model, nn.BCELoss(), optimizer, "cpu", -1)
    with pytest.raises(ValueError, match="at least one example"):
        train([], loader, model, nn.BCELoss(), optimizer, "cpu", 1)
    with pytest.raises(ValueError, match='reduction of "sum" or "mean", got \'none\''):
        evaluate(loader, model, nn.BCELoss(reduction="none"), "cpu")
