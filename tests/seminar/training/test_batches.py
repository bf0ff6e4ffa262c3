"""Batches: every review once with its label and length, in an order of the generator's, and little padding."""

from collections import Counter

import numpy as np
import pytest
import torch
from ragged_rows import some_rows

from rnndrop_cuda.seminar.data.reviews import Reviews
from rnndrop_cuda.seminar.training.batches import TEST, VALIDATION, Batches, LengthBatches, Parts


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
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        Batches(X, y, 0)


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
    with pytest.raises(ValueError, match="rows: expected at least one id each, row 1 has none"):
        LengthBatches(some_rows([3, 0, 2]), torch.zeros(3), 2)
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        LengthBatches(some_rows([3]), torch.zeros(1), 0)


@pytest.mark.parametrize("ragged", [False, True])
def test_of_the_labelled_reviews_alone_some_are_trained_on(ragged):
    """Drawn with the generator from those that are not held out; each is met so often in an epoch."""
    X = np.arange(1, 31)[:, None]  # a review is its number
    y = np.arange(30) % 2
    reviews = Reviews(list(X) if ragged else X, y, X[:3], y[:3], ["w"] * 31, "made up", {})

    def parts(seed: int) -> Parts:
        order = torch.Generator().manual_seed(seed)
        return Parts(reviews, 4, torch.device("cpu"), order, validation=10, test=True, labelled=6, passes=3)

    def numbers(batches):
        return Counter(int(number) for ids, *_ in batches for number in ids[:, 0])

    made = parts(0)
    met = numbers(made.train)
    assert len(met) == 6 and set(met.values()) == {3}
    assert max(met) <= 20, "none that is held out"
    assert numbers(made.train_in_order()) == Counter([*met])
    assert made.reviews.described()["train reviews"] == 6
    assert len(numbers(made.scored[VALIDATION])) == 10 and len(numbers(made.scored[TEST])) == 3
    for ids, labels, *_ in made.train:
        assert torch.equal(labels, (ids[:, 0] - 1) % 2)
    assert numbers(parts(0).train) == met != numbers(parts(1).train)
    with pytest.raises(ValueError, match="labelled: expected at most the 20 reviews to train on, got 21"):
        Parts(reviews, 4, torch.device("cpu"), torch.Generator(), validation=10, labelled=21)


@pytest.mark.parametrize("ragged", [False, True])
def test_the_others_are_trained_on_with_what_is_said_of_them(ragged):
    """Where it is said surely; and with nothing else: their own labels are not there any more."""
    X = np.arange(1, 31)[:, None]  # a review is its number
    reviews = Reviews(list(X) if ragged else X, np.ones(30, np.int64), X[:3], np.ones(3), ["w"] * 31, "made up", {})
    parts = Parts(
        reviews, 4, torch.device("cpu"), torch.Generator().manual_seed(0), validation=10, labelled=6, passes=3
    )
    labelled = {int(number) for ids, *_ in parts.train for number in ids[:, 0]}
    others = [int(row[0]) for row in parts.unlabelled]
    assert len(labelled) == 6 and sorted({*others} | labelled) == [*range(1, 21)], "none that is held out"
    likely = {number: (0.95, 0.05, 0.7)[k % 3] for k, number in enumerate(others)}
    parts.label_the_others(torch.tensor([likely[number] for number in others]), 0.9)
    met = [(int(i), int(y)) for ids, labels, *_ in parts.train for i, y in zip(ids[:, 0], labels, strict=True)]
    sure = [number for number in others if likely[number] != 0.7]
    assert Counter(number for number, _ in met) == {**dict.fromkeys(labelled, 3), **dict.fromkeys(sure, 1)}
    assert all(y == (number in labelled or likely[number] > 0.5) for number, y in met)
    assert {int(number) for ids, *_ in parts.train_in_order() for number in ids[:, 0]} == labelled


def test_where_all_are_labelled_there_are_no_others():
    X = np.arange(1, 5)[:, None]
    parts = Parts(Reviews(X, X[:, 0] % 2, X, X[:, 0] % 2, ["w"] * 5, "made up", {}), 2, torch.device("cpu"), None)
    assert len(parts.unlabelled) == 0
