"""What a caller can get wrong: each a Python exception that names the argument, what was expected and what came."""

import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import rnndrop_cuda
from rnndrop_cuda import LSTM, LayerMasks, ops
from rnndrop_cuda.functional import lstm_layer
from tests.modules import B, H, I, T
from tests.wrong_arguments import BAD, good_arguments, wrong

BACKENDS = [
    pytest.param("cpu", marks=pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")),
    "python",
]


@pytest.mark.parametrize("with_lengths", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "change", "error", "message"), BAD)
def test_bad_argument(name, change, error, message, backend, with_lengths):
    """Without lengths the op checks first, and Python finds the words: the caller sees one error, not two."""
    arguments = {"backend": backend} | wrong(name, change)
    if not with_lengths and name != "lengths":
        arguments["lengths"] = None
    with pytest.raises(error, match=rf"{name}: .*{re.escape(message)}") as raised:
        lstm_layer(**arguments)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__


@pytest.mark.parametrize("backend", BACKENDS)
def test_good_arguments_pass(backend):
    """So that the errors above are of what was changed."""
    lstm_layer(**good_arguments(), backend=backend)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf"), Decimal("NaN"), "0.5", None, True])
@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "candidate_dropout"])
def test_bad_probability(name, p):
    with pytest.raises(ValueError, match=re.escape(f"{name}: expected a probability, a number in [0, 1], got {p!r}")):
        rnndrop_cuda.LSTM(4, 6, **{name: p})


@pytest.mark.parametrize("p", [np.float32(0.5), np.int64(1), Fraction(1, 2), Decimal("0.5")])
@pytest.mark.parametrize("name", ["dropout", "input_dropout", "hidden_zoneout"])
def test_probability_of_any_type_of_number(name, p):
    layer = LSTM(I, H, 2, **{name: p})
    layer(torch.zeros(T, B, I))
    layer.eval()(torch.zeros(T, B, I))


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), torch.tensor(0.5)])
@pytest.mark.parametrize("name", ["dropout", "candidate_dropout", "cell_zoneout"])
def test_bad_probability_that_is_set_later(name, p):
    layer = LSTM(I, H, 2)
    setattr(layer, name, p)
    with pytest.raises(ValueError, match=re.escape(f"{name}: expected a probability, a number in [0, 1], got {p!r}")):
        layer(torch.zeros(T, B, I))


@pytest.mark.parametrize("name", ["mask_scope", "candidate_mask", "gate_masks"])
def test_bad_name_that_is_set_later(name):
    layer = LSTM(I, H, candidate_dropout=0.5)
    layer(torch.zeros(T, B, I))
    setattr(layer, name, "smaple")
    with pytest.raises(ValueError, match=f"{name}: expected one of .*, got 'smaple'"):
        layer(torch.zeros(T, B, I))


def test_bad_zoneout_that_is_set_later_acts_in_eval_too():
    layer = LSTM(I, H).eval()
    layer.hidden_zoneout = 1.5
    with pytest.raises(ValueError, match="hidden_zoneout: expected a probability"):
        layer(torch.zeros(T, B, I))


@pytest.mark.parametrize("layer", [rnndrop_cuda.GalLSTM, rnndrop_cuda.SemeniutaLSTM])
@pytest.mark.parametrize("p", [-1, float("nan")])
def test_bad_probability_of_the_presets(layer, p):
    with pytest.raises(ValueError, match="dropout: expected a probability"):
        layer(4, 6, dropout=p)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((4.0, 6), {}), TypeError, "input_size should be of type int, got: float"),
        (((4, "6"), {}), TypeError, "hidden_size should be of type int, got: str"),
        (((4, 0), {}), ValueError, "hidden_size must be greater than zero"),
        (((-1, 6), {}), ValueError, "input_size must be greater than zero"),
        (((4, 6, 0), {}), ValueError, "num_layers must be greater than zero"),
        (((4, 6), {"dropout": 1.5}), ValueError, "dropout should be a number in range [0, 1]"),
        (((4, 6), {"bias": 1}), TypeError, "bias should be of type bool, got: int"),
        (((4, 6), {"proj_size": 6}), ValueError, "proj_size has to be smaller than hidden_size"),
        (((4, 6), {"proj_size": -1}), ValueError, "proj_size should be a positive integer or zero"),
        (((4, 6), {"mask_scope": "all"}), ValueError, "mask_scope: expected one of 'batch', 'sample', got 'all'"),
        (((4, 6), {"candidate_mask": "x"}), ValueError, "candidate_mask: expected one of 'step', 'sequence', got 'x'"),
        (((4, 6), {"backend": "gpu"}), ValueError, "backend: expected one of 'auto', 'cuda', 'cpu', 'python'"),
    ],
)
def test_bad_constructor_argument(arguments, error, message):
    args, kwargs = arguments
    with pytest.raises(error, match=re.escape(message)):
        rnndrop_cuda.LSTM(*args, **kwargs)


@pytest.mark.parametrize(
    ("x", "hx", "error", "message"),
    [
        ("text", None, TypeError, "input: expected a Tensor or a PackedSequence, got str"),
        (torch.zeros(3), None, ValueError, "LSTM: Expected input to be 2D or 3D, got 1D instead"),
        (torch.zeros(5, 3, 7), None, RuntimeError,
         "input.size(-1) must be equal to input_size. Expected 4, got 7"),
        (torch.zeros(0, 3, 4), None, RuntimeError, "Expected sequence length to be larger than 0 in RNN"),
        (torch.zeros(5, 3, 4, dtype=torch.float64), None, ValueError,
         "RNN input dtype (torch.float64) does not match weight dtype (torch.float32)"),
        (torch.zeros(5, 3, 4), torch.zeros(1, 3, 6), TypeError, "hx: expected a pair of tensors (h_0, c_0), got T"),
        (torch.zeros(5, 3, 4), (torch.zeros(1, 2, 6), torch.zeros(1, 3, 6)), RuntimeError,
         "Expected hidden[0] size (1, 3, 6), got [1, 2, 6]"),
        (torch.zeros(5, 3, 4), (torch.zeros(1, 3, 6), torch.zeros(1, 3, 5)), RuntimeError,
         "Expected hidden[1] size (1, 3, 6), got [1, 3, 5]"),
        (torch.zeros(5, 3, 4), (torch.zeros(3, 6), torch.zeros(1, 3, 6)), RuntimeError,
         "For batched 3-D input, hx and cx should also be 3-D but got (2-D, 3-D) tensors"),
        (torch.zeros(5, 4), (torch.zeros(1, 1, 6), torch.zeros(1, 6)), RuntimeError,
         "For unbatched 2-D input, hx and cx should also be 2-D but got (3-D, 2-D) tensors"),
        (pack_sequence([torch.zeros(5, 4)] * 3), (torch.zeros(1, 2, 6), torch.zeros(1, 3, 6)), RuntimeError,
         "Expected hidden[0] size (1, 3, 6), got [1, 2, 6]"),
    ],
)  # fmt: skip
def test_bad_forward_argument(x, hx, error, message):
    with pytest.raises(error, match=re.escape(message)):
        rnndrop_cuda.LSTM(4, 6)(x, hx)


def test_another_dtype_is_refused_and_not_cast():
    layer, x = rnndrop_cuda.LSTM(4, 6), torch.zeros(5, 3, 4)
    state = torch.zeros(1, 3, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="h_0: expected dtype torch.float32 like x, got torch.float64"):
        layer(x, (state, state))
    mask = torch.ones(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="mask_x: expected dtype torch.float32 like x, got torch.float64"):
        layer(x, masks=[rnndrop_cuda.LayerMasks(x=mask)])


def test_wrong_number_of_masks():
    with pytest.raises(ValueError, match="masks: expected one LayerMasks a layer and direction, that is 1, got 0"):
        rnndrop_cuda.LSTM(4, 6)(torch.zeros(5, 3, 4), masks=[])


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([5, 3], RuntimeError, "lengths: expected shape [3], got [2]"),
        (5, RuntimeError, "lengths: expected shape [3], got []"),
        (torch.tensor([[5, 3, 1]]), RuntimeError, "lengths: expected shape [3], got [1, 3]"),
        ([5, 3, 6], ValueError, "lengths: expected values in [0, 5], got 6"),
        (torch.tensor([5, -1, 1]), ValueError, "lengths: expected values in [0, 5], got -1"),
        ([5.0, 3, 1], TypeError, "lengths: expected integers, got torch.float32"),
        (torch.tensor([True, True, True]), TypeError, "lengths: expected integers, got torch.bool"),
        ("abc", TypeError, "lengths: expected a tensor or a list of integers, got 'abc'"),
        ([5, None, 3], TypeError, "lengths: expected a tensor or a list of integers, got [5, None, 3]"),
        ([[5, 3], [1]], TypeError, "lengths: expected a tensor or a list of integers, got [[5, 3], [1]]"),
    ],
)
def test_bad_lengths(lengths, error, message):
    with pytest.raises(error, match=re.escape(message)):
        rnndrop_cuda.LSTM(4, 6)(torch.zeros(5, 3, 4), lengths=lengths)


def test_lengths_beside_a_packed_sequence():
    with pytest.raises(ValueError, match="lengths: expected none with a PackedSequence"):
        rnndrop_cuda.LSTM(4, 6)(pack_sequence([torch.zeros(5, 4)]), lengths=[5])


def test_from_torch_of_something_else():
    with pytest.raises(TypeError, match=r"lstm: expected an nn\.LSTM, got GRU"):
        rnndrop_cuda.LSTM.from_torch(torch.nn.GRU(4, 6))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_dropout": 1.5}, ValueError, "weight_dropout: expected a probability, a number in [0, 1], got 1.5"),
        ({"weight_dropout": None}, ValueError, "weight_dropout: expected a probability"),
        ({"init": "xavier"}, ValueError, "init: expected one of 'default', 'orthogonal', 'normal', 'uniform', got"),
        ({"init": None}, ValueError, "init: expected one of"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias: expected a finite number or None, got nan"),
        ({"forget_bias": "1"}, ValueError, "forget_bias: expected a finite number or None, got '1'"),
        ({"forget_bias": True}, ValueError, "forget_bias: expected a finite number or None, got True"),
        ({"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias: expected None with bias=False, got 1.0"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state: expected a bool, got int"),
        ({"mc_dropout": "yes"}, TypeError, "mc_dropout: expected a bool, got str"),
    ],
)
def test_bad_option(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(I, H, **options)


W_MASK, Y_MASK = torch.ones(4 * H, H), torch.ones(T, B, H)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (LayerMasks(), TypeError, "masks: expected a list of LayerMasks, got LayerMasks"),
        (5, TypeError, "masks: expected a list of LayerMasks, got int"),
        ([LayerMasks(), None], TypeError, "masks[1]: expected a LayerMasks, got NoneType"),
        ([LayerMasks(), (None, None, None)], TypeError, "masks[1]: expected a LayerMasks, got tuple"),
        ([LayerMasks(h=0.5), LayerMasks()], TypeError, "masks[0].h: expected a Tensor or None, got float"),
        ([LayerMasks(w=torch.ones(H)), LayerMasks()], RuntimeError, "masks[0].w: expected shape [24, 6], got [6]"),
        ([LayerMasks(y=torch.ones(H)), LayerMasks()], RuntimeError, "masks[0].y: expected shape [5, 3, 6], got [6]"),
        ([LayerMasks(), LayerMasks(w=W_MASK.double())], ValueError, "masks[1].w: expected dtype torch.float32 like"),
        ([LayerMasks(y=Y_MASK.double()), LayerMasks()], ValueError, "masks[0].y: expected dtype torch.float32 like"),
        ([LayerMasks(w=W_MASK.to("meta")), LayerMasks()], RuntimeError, "masks[0].w: expected a tensor on cpu, got"),
        ([LayerMasks(), LayerMasks(y=torch.ones(T, B, H))], ValueError, "masks[1].y: expected None, since there is no"),
        ([LayerMasks(x=torch.ones(B, 2)), LayerMasks()], RuntimeError, "mask_x: expected shape [4] or [3, 4]"),
    ],
)
def test_bad_masks(masks, error, message):
    with pytest.raises(error, match=re.escape(message)):
        LSTM(I, H, 2)(torch.zeros(T, B, I), masks=masks)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2.5, 2), TypeError, "T: expected a whole number, got float"),
        ((2.0, 2), TypeError, "T: expected a whole number, got float"),
        ((2, None), TypeError, "B: expected a whole number, got NoneType"),
        ((2, -1), ValueError, "B: expected at least 0, got -1"),
        ((2, 2, 7), TypeError, "generator: expected a torch.Generator, got int"),
    ],
)
def test_masks_are_drawn_for_whole_numbers(arguments, error, message, dropout):
    layer = LSTM(I, H, input_dropout=dropout)
    layer.draw_masks(2, 2)  # a plan for 2 is one for 2.0
    with pytest.raises(error, match=re.escape(message)):
        layer.draw_masks(*arguments)
    assert len(layer.draw_masks(np.int64(2), np.int32(2))) == 1


@pytest.mark.parametrize("training", [True, False])
def test_bad_generator(training):
    with pytest.raises(TypeError, match="generator: expected a torch.Generator, got int"):
        LSTM(I, H).train(training)(torch.zeros(T, B, I), generator=7)
