"""What a caller can get wrong: each a Python exception that names the argument, what was expected and what came."""

import re

import pytest
import torch
from problems import CONSTANTS, INPUTS, random_problem
from torch.nn.utils.rnn import pack_sequence

import rnndrop_cuda
from rnndrop_cuda import ops
from rnndrop_cuda.functional import lstm_layer, usable_backends

T, B, I, H = 5, 3, 4, 6
BACKENDS = [
    pytest.param("cpu", marks=pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")),
    "python",
]


def good_arguments():
    problem = random_problem(T, B, I, H, masks="both", lengths=True)
    return problem.inputs | problem.options


def wrong(name, change):
    arguments = good_arguments()
    arguments[name] = change(arguments[name]) if callable(change) else change
    return arguments


# argument, what is done to it, the error, and what its message must say
BAD = [
    ("x", "text", TypeError, "expected a Tensor, got str"),
    ("x", None, TypeError, "expected a Tensor, got NoneType"),
    ("c_0", [1.0], TypeError, "expected a Tensor, got list"),
    ("mask_x", 0.5, TypeError, "expected a Tensor, got float"),
    ("x", lambda x: x[0], RuntimeError, "expected shape [T, B, I], got [3, 4]"),
    ("x", lambda x: x[:0], RuntimeError, "expected a sequence of at least one step, got shape [0, 3, 4]"),
    ("x", lambda x: x.int(), ValueError, "expected a floating-point dtype, got torch.int32"),
    ("h_0", lambda h: h[:2], RuntimeError, "expected shape [3, 6], got [2, 6]"),
    ("h_0", lambda h: h[None], RuntimeError, "expected shape [3, 6], got [1, 3, 6]"),
    ("c_0", lambda c: c[:, :5], RuntimeError, "expected shape [3, 6], got [3, 5]"),
    ("c_0", lambda c: c.float(), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("W_ih", lambda w: w.T, RuntimeError, "expected shape [24, 4], got [4, 24]"),
    ("W_ih", lambda w: w.half(), ValueError, "expected dtype torch.float64 like x, got torch.float16"),
    ("W_hh", lambda w: w[:23], RuntimeError, "expected shape [4H, H] with H >= 1, got [23, 6]"),
    ("W_hh", lambda w: w[0], RuntimeError, "expected shape [4H, H] with H >= 1, got [6]"),
    ("W_hh", lambda w: w[:0, :0], RuntimeError, "expected shape [4H, H] with H >= 1, got [0, 0]"),
    ("W_hh", lambda w: w.to("meta"), RuntimeError, "expected a tensor on cpu like x, got meta"),
    ("W_hh", lambda w: w.to_sparse(), RuntimeError, "expected a strided tensor, got layout torch.sparse_coo"),
    ("W_hr", "text", TypeError, "expected a Tensor, got str"),
    ("W_hr", torch.zeros(6, 5).double(), RuntimeError, "expected shape [6, 6], got [6, 5]"),
    ("W_hr", torch.zeros(6, 6), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("b_ih", lambda b: b[:6], RuntimeError, "expected shape [24], got [6]"),
    ("b_hh", lambda b: b[None], RuntimeError, "expected shape [24], got [1, 24]"),
    ("mask_x", lambda m: m[:3], RuntimeError, "expected shape [4] or [3, 4] or [4, 1, 4] or [4, 3, 4], got [3]"),
    ("mask_x", lambda m: m.expand(T, B, I), RuntimeError, "[4] or [3, 4] or [4, 1, 4] or [4, 3, 4], got [5, 3, 4]"),
    ("mask_h", lambda m: m[:1], RuntimeError, "expected shape [6] or [3, 6] or [4, 1, 6] or [4, 3, 6], got [1, 6]"),
    ("mask_h", lambda m: m.bool(), ValueError, "expected dtype torch.float64 like x, got torch.bool"),
    ("mask_g", lambda m: m[:4], RuntimeError, "expected shape [6] or [3, 6] or [5, 3, 6], got [4, 3, 6]"),
    ("mask_c", torch.ones(5, 3, 6).double(), RuntimeError, "expected shape [6] or [3, 6], got [5, 3, 6]"),
    ("zone_c", torch.ones(3, 5).double(), RuntimeError, "expected shape [6] or [3, 6] or [5, 3, 6], got [3, 5]"),
    ("zone_h", torch.ones(6), ValueError, "expected dtype torch.float64 like x, got torch.float32"),
    ("zone_h", 0.1, TypeError, "expected a Tensor, got float"),
    ("mask_g", lambda m: m.to("meta"), RuntimeError, "expected a tensor on cpu like x, got meta"),
    ("lengths", lambda n: n[:2], RuntimeError, "expected shape [3], got [2]"),
    ("lengths", lambda n: n.int(), ValueError, "expected dtype torch.int64, got torch.int32"),
    ("lengths", lambda n: n + 5, ValueError, "expected values in [0, 5], got 10"),
    ("lengths", lambda n: n - 1, ValueError, "expected values in [0, 5], got -1"),
    ("backend", "fastest", ValueError, "expected one of auto, cuda, cpu, python, got 'fastest'"),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "change", "error", "message"), BAD)
def test_bad_argument(name, change, error, message, backend):
    arguments = {"backend": backend} | wrong(name, change)
    with pytest.raises(error, match=rf"{name}: .*{re.escape(message)}"):
        lstm_layer(**arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_good_arguments_pass(backend):
    """So that the errors above are of what was changed."""
    lstm_layer(**good_arguments(), backend=backend)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
@pytest.mark.parametrize("name", ["mask_x", "mask_h", "mask_g"])
def test_mask_that_requires_a_gradient(name):
    with pytest.raises(ValueError, match=f"{name}: the fused kernels give masks no gradient"):
        lstm_layer(**wrong(name, lambda m: m.requires_grad_()))
    mask = torch.full((6,), 2.0, dtype=torch.float64, requires_grad=True)
    y, _, _ = lstm_layer(**good_arguments() | {"mask_g": mask, "backend": "python"})
    y.sum().backward()
    assert mask.grad.any()


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_op_called_directly_checks_by_itself():
    """A graph made by torch.compile or export, or a hand-written call, does not come through functional.

    With a meta tensor among its arguments the op is the dispatcher's meta kernel, which computes nothing.
    """
    arguments = good_arguments()
    order = [*INPUTS, "W_hr", *CONSTANTS]
    for name, change, _, message in BAD:
        if name == "backend" or not callable(change) or "values in" in message or "got meta" in message:
            continue
        bad = wrong(name, change)
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
            torch.ops.rnndrop.lstm_layer(*(bad.get(k) for k in order), False, True)
    torch.ops.rnndrop.lstm_layer(*(arguments.get(k) for k in order), False, True)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_op_is_safe_where_lengths_are_out_of_range():
    """As on CUDA: taken as the nearest of 0 and T."""
    arguments = good_arguments()
    order = [*INPUTS, "W_hr", *CONSTANTS[:-1]]
    inputs = [arguments.get(k) for k in order]
    outside = torch.ops.rnndrop.lstm_layer(*inputs, torch.tensor([-7, 2, 99]), False, True)
    inside = torch.ops.rnndrop.lstm_layer(*inputs, torch.tensor([0, 2, T]), False, True)
    assert all(torch.equal(a, b) for a, b in zip(outside, inside, strict=True))


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_the_backward_op_checks_by_itself():
    arguments = good_arguments()
    arguments["W_hr"] = torch.randn(H, H, dtype=torch.float64)
    inputs = [arguments.get(k) for k in (*INPUTS, "W_hr", *CONSTANTS)]
    y, h_n, c_n, gates, c, h_full = torch.ops.rnndrop.lstm_layer(*inputs, False, True)
    good = {"dy": y, "dh_n": h_n, "dc_n": c_n, "y": y, "gates": gates, "c": c, "h_full": h_full}

    def call(dy, dh_n, dc_n, y, gates, c, h_full):
        return torch.ops.rnndrop.lstm_layer_backward(*inputs, False, y, gates, c, h_full, dy, dh_n, dc_n, True, True)

    call(**good)
    for name, tensor in good.items():
        for bad in (tensor[1:], tensor.half(), tensor[..., None]):
            with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
                call(**good | {name: bad})


def test_backend_that_cannot_run_says_why():
    reasons = usable_backends()
    assert reasons["python"] == ""
    for backend, why in reasons.items():
        if why:
            with pytest.raises(RuntimeError, match=re.escape(f"backend='{backend}' cannot run here: {why}")):
                lstm_layer(**good_arguments(), backend=backend)


@pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason="no CPU kernels")
def test_dtype_without_a_kernel():
    arguments = {
        k: v.to(torch.complex64) if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in good_arguments().items()
    }
    with pytest.raises(ValueError, match=r"backend='cpu' has no kernel for dtype torch\.complex64"):
        lstm_layer(**arguments, backend="cpu")
    y, _, _ = lstm_layer(**arguments)  # auto takes the Python path
    assert y.dtype == torch.complex64


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True])
@pytest.mark.parametrize("name", ["input_dropout", "hidden_dropout", "candidate_dropout"])
def test_bad_probability(name, p):
    with pytest.raises(ValueError, match=re.escape(f"{name}: expected a probability, a number in [0, 1], got {p!r}")):
        rnndrop_cuda.LSTM(4, 6, **{name: p})


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
        (torch.zeros(0, 3, 4), None, RuntimeError, "x: expected a sequence of at least one step"),
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
        (torch.tensor([[5, 3, 1]]), RuntimeError, "lengths: expected shape [3], got [1, 3]"),
        ([5, 3, 6], ValueError, "lengths: expected values in [0, 5], got 6"),
        (torch.tensor([5, -1, 1]), ValueError, "lengths: expected values in [0, 5], got -1"),
        ([5.0, 3, 1], TypeError, "lengths: expected integers, got torch.float32"),
        (torch.tensor([True, True, True]), TypeError, "lengths: expected integers, got torch.bool"),
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
