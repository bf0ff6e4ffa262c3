"""Random LSTMs and calls of them: layers, directions, projections, packing, lengths and every kind of mask.

Each is compared with the stack written out on the reference in float64: outputs and all gradients.
"""

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnndrop_cuda import LSTM, ops, reference
from tests.problems import relative_error

BACKENDS = ["python", *(["cpu"] if ops.HAS_CPU_KERNELS else [])]
DROPOUTS = (
    "dropout", "input_dropout", "hidden_dropout", "candidate_dropout", "weight_dropout", "cell_dropout",
    "hidden_zoneout", "cell_zoneout",
)  # fmt: skip


@st.composite
def cases(draw):
    """An LSTM in float64, its input [T, B, I], an hx or None, lengths or None, and how the call is made."""
    H, num_layers = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    proj_size = draw(st.integers(0, H - 1))
    options = {
        "num_layers": num_layers,
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "proj_size": proj_size,
        "mask_scope": draw(st.sampled_from(["batch", "sample"])),
        "candidate_mask": draw(st.sampled_from(["step", "sequence"])),
        "gate_masks": draw(st.sampled_from(["tied", "untied"])),
        "learn_initial_state": draw(st.booleans()),
        "backend": draw(st.sampled_from(BACKENDS)),
        **{name: draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])) for name in DROPOUTS},
    }
    if num_layers == 1:
        options["dropout"] = 0.0  # warned of
    seed = draw(st.integers(0, 2**31))
    T, B, I = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kind = draw(st.sampled_from(["padded", "lengths", "packed", "unbatched"]))
    lengths = [draw(st.integers(kind == "packed", T)) for _ in range(B)] if kind in ("lengths", "packed") else None
    if kind == "packed":
        lengths[draw(st.integers(0, B - 1))] = T
    return I, H, options, seed, (T, 1 if kind == "unbatched" else B), kind, lengths, draw(st.booleans())


def stack_on_the_reference(lstm, x, hx, lengths, masks):
    """x [T, B, I] to y, h_n, c_n; the modules' parameters by their names."""
    B = x.shape[1]
    parameters = dict(lstm.named_parameters())
    directions = 2 if lstm.bidirectional else 1
    if hx is None:
        P = lstm.proj_size or lstm.hidden_size
        shape = (lstm.num_layers * directions, B)
        hx = (x.new_zeros(*shape, P), x.new_zeros(*shape, lstm.hidden_size))
        if lstm.learn_initial_state:
            hx = tuple(parameters[name].expand(-1, B, -1) for name in ("h_0", "c_0"))
    h_n, c_n = [], []
    for layer in range(lstm.num_layers):
        outputs = []
        for suffix in ("", "_reverse")[:directions]:
            k = len(h_n)
            m = masks[k]

            def parameter(name, suffix=f"l{layer}{suffix}"):
                return parameters.get(f"{name}_{suffix}")

            W_hh = parameter("weight_hh")
            y, h, c = reference.lstm_layer(
                x, hx[0][k], hx[1][k], parameter("weight_ih"), W_hh if m.w is None else m.w * W_hh,
                parameter("bias_ih"), parameter("bias_hh"), W_hr=parameter("weight_hr"),
                mask_x=m.x, mask_h=m.h, mask_g=m.g, mask_c=m.c, zone_c=m.z_c, zone_h=m.z_h,
                lengths=None if lengths is None else torch.tensor(lengths), reverse=suffix == "_reverse",
            )  # fmt: skip
            outputs.append(y if m.y is None else m.y * y)
            h_n.append(h)
            c_n.append(c)
        x = torch.cat(outputs, dim=-1)
    return x, torch.stack(h_n), torch.stack(c_n)


def call(lstm, x, hx, lengths, kind, **keywords):
    """The LSTM called as ``kind`` says on x [T, B, I]; its outputs of the forms [T, B, ...] and [layers, B, ...]."""
    if kind == "unbatched":
        hx = None if hx is None else tuple(state.squeeze(1) for state in hx)
        y, (h_n, c_n), *rest = lstm(x.squeeze(1), hx, **keywords)
        return y.unsqueeze(1), h_n.unsqueeze(1), c_n.unsqueeze(1), *rest
    if kind == "packed":
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, (h_n, c_n), *rest = lstm(packed, hx, **keywords)
        return pad_packed_sequence(y)[0], h_n, c_n, *rest
    given_lengths = {} if lengths is None else {"lengths": lengths}
    y, (h_n, c_n), *rest = lstm(x.transpose(0, 1) if lstm.batch_first else x, hx, **given_lengths, **keywords)
    return y.transpose(0, 1) if lstm.batch_first else y, h_n, c_n, *rest


def check(case):
    """Outputs, all gradients and the states of one module against the stack on the reference."""
    I, H, options, seed, (T, B), kind, lengths, with_hx = case
    event(kind)
    event(options["backend"])
    torch.manual_seed(seed)
    lstm = LSTM(I, H, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    runs = lstm.num_layers * (2 if lstm.bidirectional else 1)
    hx = None
    if with_hx:
        hx = tuple(
            torch.randn(runs, B, size, dtype=torch.float64, requires_grad=True) for size in (lstm.proj_size or H, H)
        )
    leaves = [x, *(hx or ()), *(p for name, p in lstm.named_parameters() if not (with_hx and name in ("h_0", "c_0")))]

    y, h_n, c_n, masks, states = call(lstm, x, hx, lengths, kind, return_masks=True, return_states=True)
    expected = stack_on_the_reference(lstm, x, hx, lengths, masks)
    upstream = [torch.randn_like(output) for output in expected]
    actual_gradients = torch.autograd.grad((y, h_n, c_n), leaves, upstream)
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)
    pairs = zip((y, h_n, c_n, *actual_gradients), (*expected, *expected_gradients), strict=True)
    for k, (value, wanted) in enumerate(pairs):
        assert value.shape == wanted.shape
        assert relative_error(value, wanted) < 1e-11 or (value - wanted).abs().max() < 1e-13, k

    assert len(states) == runs
    last_layer = [of_layer.h for of_layer in states[-(2 if lstm.bidirectional else 1) :]]
    h = torch.cat(last_layer, dim=-1)
    if kind == "unbatched":
        h = h.unsqueeze(1)
    elif lstm.batch_first and kind != "packed":
        h = h.transpose(0, 1)
    assert torch.equal(h, y)


RANDOM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@settings(max_examples=100, **RANDOM)
@given(cases())
def test_any_module_equals_the_stack_on_the_reference(case):
    check(case)


@pytest.mark.slow
@settings(max_examples=1000, **RANDOM)
@given(cases())
def test_any_module_of_many_equals_the_stack_on_the_reference(case):
    check(case)


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(DROPOUTS[1:]), st.sampled_from([-0.1, 1.5, float("nan"), "half", True, None]))
def test_a_wrong_probability_is_refused_by_name(case, name, value):
    I, H, options, *_ = case
    with pytest.raises(ValueError, match=f"{name}: expected a probability"):
        LSTM(I, H, **(options | {name: value}))
