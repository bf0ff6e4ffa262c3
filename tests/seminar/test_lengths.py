"""Reviews of their own lengths: ragged rows, batches of like lengths, a classifier that does not see the padding."""

import functools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from rnndrop_cuda.lstm import GalLSTM, SemeniutaLSTM
from rnndrop_cuda.seminar.data.reviews import load_reviews
from rnndrop_cuda.seminar.layers import FastRNNLayer, MyLSTM, RNNLayer
from rnndrop_cuda.seminar.model import RNNClassifier
from rnndrop_cuda.seminar.training.loop import LengthBatches, evaluate, train

SENTENCES = "rotten-tomatoes"
V = 40  # ids


@pytest.fixture(scope="module")
def sentences():
    return load_reviews(SENTENCES, maxlen=None)


def some_rows(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, V, size=n) for n in lengths]


def lengths_of(rows):
    return [len(row) for row in rows]


# ---------------------------------------------------------------- ragged rows


def test_ragged_reviews_are_the_matrix_without_its_padding(sentences):
    matrix = load_reviews(SENTENCES, maxlen=12)
    cropped = load_reviews(SENTENCES, maxlen=12, ragged=True)
    assert matrix.words == cropped.words == sentences.words
    whole_of = {"X_train": sentences.X_train, "X_test": sentences.X_test}
    for part, whole in whole_of.items():
        assert isinstance(whole, list)
        assert {len(row) > 12 for row in whole} == {True, False}, "some are cropped and some are not"
        for row, short, padded in zip(whole, getattr(cropped, part), getattr(matrix, part), strict=True):
            assert row.dtype == np.int64
            assert row[0] == 1
            np.testing.assert_array_equal(short, row[:12])
            np.testing.assert_array_equal(padded, [0] * (12 - len(short)) + short.tolist())
    np.testing.assert_array_equal(sentences.y_train, matrix.y_train)
    np.testing.assert_array_equal(sentences.y_test, matrix.y_test)


def test_ragged_reviews_of_an_npz(npz):
    matrix = load_reviews(str(npz), 20, 8, sha256=None)
    cropped = load_reviews(str(npz), 20, 8, sha256=None, ragged=True)
    whole = load_reviews(str(npz), 20, None, sha256=None)
    assert max(lengths_of(whole.X_train)) > 8
    assert min(lengths_of(whole.X_train)) == 1, "the empty review is its start alone"
    for row, short, padded in zip(whole.X_train, cropped.X_train, matrix.X_train, strict=True):
        np.testing.assert_array_equal(short, row[:8])
        np.testing.assert_array_equal(padded, [0] * (8 - len(short)) + short.tolist())


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("n", [1, 64, 333])
@pytest.mark.parametrize("shuffled", [True, False])
def test_every_review_is_met_once_with_its_label_and_length(n, batch_size, shuffled):
    rows = some_rows(np.random.default_rng(1).integers(1, 30, size=n))
    batches = LengthBatches(rows, torch.arange(n), batch_size, torch.Generator() if shuffled else None)
    for _ in range(2):
        met = []
        sizes = []
        for ids, numbers, lengths in batches:
            assert ids.shape == (len(numbers), lengths.max())
            sizes.append(len(numbers))
            met += numbers.tolist()
            for row, number, length in zip(ids, numbers, lengths, strict=True):
                assert row[:length].tolist() == rows[number].tolist()
                assert not row[length:].any()
        assert sorted(met) == list(range(n))
        assert len(sizes) == len(batches) == -(-n // batch_size)
        assert sum(size < batch_size for size in sizes) <= 1, "one batch alone may be smaller"


def test_len_holds_over_several_pools(monkeypatch):
    monkeypatch.setattr(LengthBatches, "POOL", 3)
    for n in range(1, 30):
        batches = LengthBatches(some_rows([1] * n), torch.arange(n), 4, torch.Generator())
        assert len(list(batches)) == len(batches)
        assert Counter(torch.cat([y for _, y, _ in batches]).tolist()) == dict.fromkeys(range(n), 1)


def padding_share(batches):
    """Of the ids of an epoch, the share that is padding."""
    cells = sum(ids.numel() for ids, _, _ in batches)
    return 1 - sum(int(lengths.sum()) for *_, lengths in batches) / cells


def test_little_is_padded(sentences, monkeypatch):
    """On the sentences' real lengths; batches in random order are those of pools of one batch."""
    y = torch.from_numpy(sentences.y_train)
    by_length = padding_share(LengthBatches(sentences.X_train, y, 64, torch.Generator().manual_seed(0)))
    in_order = padding_share(LengthBatches(sentences.X_train, y, 64))
    monkeypatch.setattr(LengthBatches, "POOL", 1)
    at_random = padding_share(LengthBatches(sentences.X_train, y, 64, torch.Generator().manual_seed(0)))
    assert at_random > 0.4
    assert by_length < 0.05
    assert in_order < 0.02


def test_the_generator_decides_the_order_and_each_epoch_has_its_own():
    rows = some_rows(np.random.default_rng(2).integers(1, 30, size=200))

    def epochs(seed):
        batches = LengthBatches(rows, torch.arange(200), 16, torch.Generator().manual_seed(seed))
        return [[numbers.tolist() for _, numbers, _ in batches] for _ in range(2)]

    first, second = epochs(0)
    assert epochs(0) == [first, second]
    assert first != second
    assert epochs(1)[0] != first
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}, "batches of other reviews"
    state = torch.get_rng_state()
    epochs(0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_without_a_generator_they_are_sorted():
    lengths = np.random.default_rng(3).integers(1, 30, size=100)
    batches = LengthBatches(some_rows(lengths), torch.arange(100), 16)
    assert torch.cat([lengths for *_, lengths in batches]).tolist() == sorted(lengths.tolist())
    assert torch.equal(torch.cat([y for _, y, _ in batches]), torch.cat([y for _, y, _ in batches]))


def test_wrong_rows_are_named():
    with pytest.raises(ValueError, match="rows must have at least one id each, row 1 has none"):
        LengthBatches(some_rows([3, 0, 2]), torch.zeros(3), 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        LengthBatches(some_rows([3]), torch.zeros(1), 0)


# ---------------------------------------------------------------- the classifier


LAYERS = {
    "nn.LSTM": nn.LSTM,
    "two layers of nn.LSTM": functools.partial(nn.LSTM, num_layers=2),
    "GalLSTM": functools.partial(GalLSTM, dropout=0.5),
    "SemeniutaLSTM": functools.partial(SemeniutaLSTM, dropout=0.5),
    "two layers of GalLSTM": functools.partial(GalLSTM, num_layers=2),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_padded_review_gives_what_it_gives_alone(layer):
    torch.manual_seed(0)
    model = RNNClassifier(6, 8, V, 1, 5, rec_layer=layer).double().eval()
    rows = some_rows([9, 1, 4, 9, 17])
    ((ids, order, lengths),) = LengthBatches(rows, torch.arange(5), 5)
    together = model(ids.T, lengths)
    alone = torch.cat([model(torch.from_numpy(rows[i])[:, None]) for i in order])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert together.std() > 0, "the reviews differ"
    assert (model(ids.T) - alone).abs().max() > 1e-3, "without lengths the padding is seen"

    weights = list(model.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(together.log().sum(), weights), torch.autograd.grad(alone.log().sum(), weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [RNNLayer, FastRNNLayer, MyLSTM])
def test_a_layer_that_knows_no_lengths_is_refused(layer):
    model = RNNClassifier(6, 8, V, 1, 2, rec_layer=layer)
    ids = torch.ones(3, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=f"lengths: expected none with a {layer.__name__}"):
        model(ids, torch.tensor([3, 2]))


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
