"""Random calls of the layer: shapes, masks, dtypes, strides, lengths, right and wrong. None may crash the process."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnndrop_cuda import ops
from rnndrop_cuda.functional import lstm_layer
from tests.problems import CONSTANTS, INPUTS, OUTPUTS, Problem, assert_equals_reference

pytestmark = pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}")

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def strided(tensor: torch.Tensor, stride: str) -> torch.Tensor:
    """The same numbers at other places in memory."""
    if stride == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if stride == "gaps":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if stride == "offset":
        return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
    return tensor


@st.composite
def calls(draw):
    T, B, I, H = (draw(st.integers(low, high)) for low, high in ((1, 5), (0, 6), (0, 9), (1, 70)))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.5
        return strided(values.to(dtype), draw(st.sampled_from(["dense", "transposed", "gaps", "offset"])))

    def mask(*shape):
        p = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
        keep = torch.full(shape, 1 - p, dtype=torch.float64)
        values = torch.bernoulli(keep, generator=generator) / ((1 - p) or 1)
        return strided(values.to(dtype), draw(st.sampled_from(["dense", "transposed", "gaps", "offset"])))

    bias, projected = draw(st.booleans()), draw(st.booleans())
    P = draw(st.integers(1, 20)) if projected else H
    inputs = {
        "x": normal(T, B, I), "h_0": normal(B, P), "c_0": normal(B, H), "W_ih": normal(4 * H, I),
        "W_hh": normal(4 * H, P), "b_ih": normal(4 * H) if bias else None, "b_hh": normal(4 * H) if bias else None,
        "W_hr": normal(P, H) if projected else None,
    }  # fmt: skip
    options = {"reverse": draw(st.booleans())}
    shapes_of = {
        "mask_x": [(I,), (B, I), (4, 1, I), (4, B, I)], "mask_h": [(P,), (B, P), (4, 1, P), (4, B, P)],
        "mask_g": [(H,), (B, H), (T, B, H)], "mask_c": [(H,), (B, H)],
        "zone_c": [(H,), (B, H), (T, B, H)], "zone_h": [(P,), (B, P), (T, B, P)],
    }  # fmt: skip
    for name, shapes in shapes_of.items():
        shape = draw(st.sampled_from([None, *shapes]))
        options[name] = None if shape is None else mask(*shape)
    if draw(st.booleans()):
        options["lengths"] = torch.randint(0, T + 1, (B,), generator=generator)
    upstream = [normal(T, B, P), normal(B, P), normal(B, H)]
    return inputs, options, upstream


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls())
def test_any_good_call_equals_the_reference(call):
    inputs, options, upstream = call
    problem = Problem(inputs, options, dict(zip(OUTPUTS, upstream, strict=True)))
    assert_equals_reference(problem, lambda *inputs, **options: lstm_layer(*inputs, backend="cpu", **options))


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls(),
    st.sampled_from([*INPUTS, "W_hr", *CONSTANTS]),
    st.sampled_from([(), (0,), (1,), (3,), (2, 5), (1, 1, 1), (2, 3, 4), (1, 2, 3, 4)]),
    st.sampled_from([torch.float64, torch.float32, torch.int64, torch.bool, torch.complex64]),
)
def test_any_wrong_argument_is_refused_or_right(call, name, shape, dtype):
    """Any tensor in any place: an exception, or a result of the right shapes; by the function and by the op."""
    inputs, options, _ = call
    arguments = inputs | options
    arguments[name] = torch.ones(shape, dtype=dtype)
    order = [*INPUTS, "W_hr", *CONSTANTS, "reverse"]
    for layer in (
        lambda: lstm_layer(**arguments, backend="cpu"),
        lambda: torch.ops.rnndrop.lstm_layer(*(arguments.get(k) for k in order), True),
    ):
        try:
            y, h_n, *_ = layer()
        except (RuntimeError, ValueError):
            continue
        T, B, _ = arguments["x"].shape
        assert y.shape == (T, B, arguments["W_hh"].shape[1])
        assert h_n.shape == arguments["h_0"].shape
