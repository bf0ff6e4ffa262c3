"""Packed sequences and lengths: nn.LSTM's results, and those of each sample alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from rnndrop_cuda import LSTM, LayerMasks, packing
from tests.modules import BACKENDS, H, I, assert_same, device_of, flat, gradients
from tests.problems import relative_error


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("with_hx", [True, False])
def test_packed_sequence_equals_nn_lstm(with_hx, bidirectional, batch_first, backend):
    device = device_of(backend)
    options = {"num_layers": 2, "batch_first": batch_first, "bidirectional": bidirectional}
    theirs = nn.LSTM(I, H, **options, dtype=torch.float64, device=device)
    ours = LSTM.from_torch(theirs, backend=backend)
    sequences = [torch.randn(n, I, dtype=torch.float64, device=device) for n in (3, 6, 1, 6)]
    in_order = sorted(sequences, key=len, reverse=True)
    runs = 4 if bidirectional else 2
    for packed in (pack_sequence(sequences, enforce_sorted=False), pack_sequence(in_order)):
        hx = tuple(torch.randn(runs, 4, H, dtype=torch.float64, device=device) for _ in "hc") if with_hx else None
        actual, expected = ours(packed, hx), theirs(packed, hx)
        assert_same(actual, expected)
        for a, e in zip(actual[0], expected[0], strict=True):
            assert (a is None and e is None) or a.shape == e.shape
        assert actual[0].batch_sizes.equal(expected[0].batch_sizes)
        if packed.sorted_indices is not None:
            assert actual[0].sorted_indices.equal(expected[0].sorted_indices)
        for a, e in zip(gradients(ours, actual, []), gradients(theirs, expected, []), strict=True):
            assert relative_error(a, e) < 1e-12


@pytest.mark.parametrize("form", ["list", "tensor", "int32"])
def test_lengths_equal_packing(form):
    ours = LSTM(I, H, 2, bidirectional=True, dtype=torch.float64)
    x, lengths = torch.randn(6, 4, I, dtype=torch.float64), [3, 6, 1, 5]
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    expected_y, expected_state = ours(packed)
    expected_y, _ = pad_packed_sequence(expected_y)
    given = {"list": lengths, "tensor": torch.tensor(lengths), "int32": torch.tensor(lengths, dtype=torch.int32)}[form]
    assert_same(ours(x, lengths=given), (expected_y, expected_state))


def test_an_empty_list_of_lengths():
    """torch takes it for floats."""
    y, (h_n, _) = LSTM(I, H)(torch.randn(6, 0, I), lengths=[])
    assert (y.shape, h_n.shape) == ((6, 0, H), (1, 0, H))


@pytest.mark.parametrize("masks", ["sample", "batch"])
def test_lengths_equal_each_sample_alone(masks):
    """Two layers, two directions, every mask; a sample of no step at all keeps its initial state."""
    ours = LSTM(
        I, H, 2, bidirectional=True, input_dropout=0.5, hidden_dropout=0.5, candidate_dropout=0.5, mask_scope=masks,
        dtype=torch.float64,
    )  # fmt: skip
    lengths, runs = [3, 6, 0, 1], 4
    x = torch.randn(6, 4, I, dtype=torch.float64, requires_grad=True)
    hx = tuple(torch.randn(runs, 4, H, dtype=torch.float64, requires_grad=True) for _ in "hc")
    drawn = ours.draw_masks(6, 4)
    together = ours(x, hx, lengths=lengths, masks=drawn)
    leaves = [x, *hx]
    upstream = [torch.randn_like(value) for value in flat(together)]
    actual = torch.autograd.grad(flat(together), [*leaves, *ours.parameters()], upstream)

    loss = torch.zeros((), dtype=torch.float64)
    for b, n in enumerate(lengths):
        one = slice(b, b + 1)
        y, h_n, c_n = flat(together)
        assert not y[n:, b].any()
        state = (hx[0][:, one], hx[1][:, one])
        y_b = torch.zeros(0, 1, 2 * H, dtype=torch.float64)
        if n > 0:
            of_sample = [
                LayerMasks(
                    x=m.x if m.x.dim() == 1 else m.x[one],
                    h=m.h if m.h.dim() == 1 else m.h[one],
                    g=m.g[:n, one],
                )
                for m in drawn
            ]
            y_b, state = ours(x[:n, one], state, masks=of_sample)
        assert relative_error(y[:n, one], y_b) < 1e-12
        for whole, alone in ((h_n, state[0]), (c_n, state[1])):
            assert relative_error(whole[:, one], alone) < 1e-12
        loss = loss + (upstream[0][:n, one] * y_b).sum()
        loss = loss + (upstream[1][:, one] * state[0]).sum() + (upstream[2][:, one] * state[1]).sum()
    expected = torch.autograd.grad(loss, [*leaves, *ours.parameters()])
    for a, e in zip(actual, expected, strict=True):
        assert relative_error(a, e) < 1e-12


def test_the_host_waits_for_no_copy_to_a_gpu(monkeypatch):
    """A copy from memory that is not pinned would wait."""
    pinned, moved = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **options: moved.append(options) or tensor)
    values = torch.arange(3)
    assert packing.on_device(values, torch.device("cuda")) is values
    assert len(pinned) == 1 and moved == [{"non_blocking": True}]
    packing.on_device(values, torch.device("cpu"))
    assert len(pinned) == 1


def packed_in(*orders):
    """Four samples of the lengths 2, 6, 5 and 6: sorted, their order is ORDER, and BACK undoes it."""
    packed = pack_padded_sequence(torch.randn(6, 4, I), torch.tensor([2, 6, 5, 6]), enforce_sorted=False)
    order, back = (None if indices is None else torch.as_tensor(indices) for indices in orders)
    return packed._replace(sorted_indices=order, unsorted_indices=back)


ORDER, BACK = [1, 3, 2, 0], [3, 0, 2, 1]
WRONG_ORDERS = {
    "one twice": ([0, 0, 1, 2], BACK, r"sorted_indices\[0\] = 0 and unsorted_indices\[0\] = 3"),
    "one twice on the way back": (ORDER, [0, 0, 2, 1], r"sorted_indices\[3\] = 0 and unsorted_indices\[0\] = 0"),
    "of other samples": ([0, 1, 2, 3], BACK, r"sorted_indices\[0\] = 0 and unsorted_indices\[0\] = 3"),
    "one too high": ([1, 3, 2, 4], BACK, r"sorted_indices\[3\] = 4"),
    "negative": ([1, -1, 2, 0], BACK, r"sorted_indices\[1\] = -1"),
    "int32": (torch.tensor([0, 0, 1, 2], dtype=torch.int32), BACK, r"sorted_indices\[0\] = 0 and"),
    "one way alone": (ORDER, None, "unsorted_indices None"),
    "the way back alone": (None, BACK, "sorted_indices None"),
    "too few": ([1, 0, 2], [1, 0, 2], r"sorted_indices of shape \[3\] and torch\.int64"),
    "too few on the way back": (ORDER, [1, 0, 2], r"unsorted_indices of shape \[3\] and torch\.int64"),
    "a matrix": ([ORDER], BACK, r"sorted_indices of shape \[1, 4\] and torch\.int64"),
    "floats": (ORDER, [3.0, 0.0, 2.0, 1.0], r"unsorted_indices of shape \[4\] and torch\.float32"),
    "bools": ([True, True, True, False], BACK, r"sorted_indices of shape \[4\] and torch\.bool"),
}
ORDERS_EXPECTED = (
    "^input: expected sorted_indices and unsorted_indices to be permutations of its 4 samples, each the other's inverse"
)


@pytest.mark.parametrize("backend", ["auto", "python"])
@pytest.mark.parametrize("options", [{}, {"return_states": True}], ids=["plain", "with states"])
@pytest.mark.parametrize("wrong", WRONG_ORDERS)
def test_orders_that_do_not_undo_each_other_are_refused(wrong, options, backend):
    *orders, got = WRONG_ORDERS[wrong]
    with pytest.raises(ValueError, match=f"{ORDERS_EXPECTED}, got {got}"):
        LSTM(I, H, backend=backend)(packed_in(*orders), **options)


def test_orders_of_32_bits_are_taken_by_every_way():
    """nn.LSTM takes them, though PackedSequence promises 64."""
    theirs = nn.LSTM(I, H, dtype=torch.float64)
    ours, hx = LSTM.from_torch(theirs), tuple(torch.randn(1, 4, H, dtype=torch.float64) for _ in "hc")
    packed = packed_in(torch.tensor(ORDER, dtype=torch.int32), torch.tensor(BACK, dtype=torch.int32))
    packed = packed._replace(data=packed.data.double())
    for options in ({}, {"return_states": True}):
        assert_same(ours(packed, hx, **options)[:2], theirs(packed, hx))


def test_orders_on_a_device_are_not_read():
    """Values there are none on the meta device: to read one raises, as on CUDA it would wait."""

    def run(packed):
        data, order, back = (t.to("meta") for t in (packed.data, packed.sorted_indices, packed.unsorted_indices))
        return LSTM(I, H, device="meta")(packed._replace(data=data, sorted_indices=order, unsorted_indices=back))

    assert run(packed_in([0, 0, 1, 2], BACK))[0].data.shape == (19, H)
    with pytest.raises(ValueError, match=ORDERS_EXPECTED):
        run(packed_in([0, 0, 1], BACK))


def test_nothing_is_made_on_a_default_device_that_is_not_the_inputs():
    """Such as that of ``torch.set_default_device("cuda")``."""
    layer = LSTM(5, 6)
    x = torch.randn(3, 2, 5)
    longest_first = pack_sequence([x[:, 0], x[:2, 1]])
    in_another_order = pack_sequence([x[:2, 1], x[:, 0]], enforce_sorted=False)
    cases = (
        lambda: layer(longest_first),
        lambda: layer(in_another_order),
        lambda: layer(x, lengths=[2, 3]),
    )
    for call in cases:
        expected = call()
        with torch.device("meta"):
            found = call()
        torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("proj_size", [0, 3])
@pytest.mark.parametrize("lengths", [[3, 6, 1, 6], [6, 6, 3, 1], [1, 3, 6, 0]], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "both ways"])
def test_padding_may_be_anything(lengths, proj_size, reverse, backend):
    """nn.LSTM does not read it where sequences are packed."""
    layer = LSTM(5, 8, proj_size=proj_size, bidirectional=reverse, dtype=torch.float64, backend=backend)
    x = torch.randn(6, 4, 5, dtype=torch.float64, device=device_of(backend))
    layer.to(x.device)

    def gradients(padding):
        filled = x.clone()
        for b, n in enumerate(lengths):
            filled[n:, b] = padding
        filled.requires_grad_()
        y, state = layer(filled, lengths=lengths)
        return torch.autograd.grad((y**2).sum() + state[1].sum(), [filled, *layer.parameters()])

    for found, expected in zip(gradients(float("nan")), gradients(0.0), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
