"""What code written for nn.LSTM does besides a forward, and how a call goes where nn.LSTM has a rule of its own."""

import warnings

import pytest
import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pack_sequence

from rnndrop_cuda import LSTM, GalLSTM, TorchLSTM, to_torch
from tests.modules import B, H, I, T, assert_bit_for_bit, assert_same, flat

CLASSES = pytest.mark.parametrize("make", [LSTM, TorchLSTM])


@CLASSES
def test_names_that_nn_lstm_has_not_are_left_to_subclasses(make):
    class Mine(make):
        def __init__(self):
            super().__init__(I, H, init="orthogonal", forget_bias=1.0)
            self.h_0 = nn.Parameter(torch.full((1, 1, H), 2.0))
            self.register_buffer("c_0", torch.ones(1, 1, H))

        def init(self):
            return "called"

    layer = Mine()
    assert layer.init() == "called"
    assert {"h_0", "c_0"} < set(layer.state_dict())
    state = layer.state_dict()
    del state["h_0"]
    with pytest.raises(RuntimeError, match="Missing key.*h_0"):
        layer.load_state_dict(state)
    assert "init='orthogonal'" in repr(layer)
    assert not hasattr(make(I, H), "h_0")
    plain = make(I, H, init="normal")
    assert plain.init == "normal"
    plain.init = nn.init.xavier_uniform_
    plain.reset_parameters()


class Generated(nn.Module):
    """A layer that runs with other weights than its parameters, in each of the ways that code for nn.LSTM has."""

    def __init__(self, way, layer):
        super().__init__()
        self.way, self.layer = way, layer
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.base = [weight.detach().clone() for weight in layer._flat_weights]
        if way == "deleted":
            for name in layer._flat_weights_names:
                delattr(layer, name)

    def forward(self, x):
        layer, kept = self.layer, list(self.layer._flat_weights)
        weights = [self.scale * weight for weight in self.base]
        if self.way == "item":
            layer._flat_weights[1] = weights[1]
        else:
            layer._flat_weights = weights
        result = layer(x)
        layer._flat_weights = kept
        return result


@CLASSES
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("way", ["list", "item", "deleted", "after a load"])
def test_weights_that_code_puts_into_nn_lstms_list_count(make, way, compiled):
    torch._dynamo.reset()
    theirs, ours = nn.LSTM(I, H, 2), make(I, H, 2, hidden_dropout=0.5).eval()
    ours.load_state_dict(theirs.state_dict())
    if way == "after a load":
        for layer in (theirs, ours):
            layer.load_state_dict({name: p.clone() for name, p in layer.state_dict().items()}, assign=True)
            layer(torch.randn(T, B, I))
    theirs, ours = Generated(way, theirs), Generated(way, ours)
    x = torch.randn(T, B, I)
    expected = theirs(x)
    actual = (torch.compile(ours, backend="eager") if compiled else ours)(x)
    assert_same(actual, expected, torch.float32)
    gradients = [torch.autograd.grad(y[0].sum(), of.scale)[0] for y, of in ((actual, ours), (expected, theirs))]
    torch.testing.assert_close(*gradients)
    ours.layer.train()
    assert not torch.equal(ours(x)[0], actual[0])


@CLASSES
def test_a_parametrized_weight_is_asked_for_once(make):
    class Counted(nn.Module):
        calls = 0

        def forward(self, weight):
            self.calls += 1
            return weight

    layer, counted = make(I, H), Counted()
    parametrize.register_parametrization(layer, "weight_hh_l0", counted)
    counted.calls = 0
    layer(torch.randn(T, B, I))
    assert counted.calls == 1
    counted.register_forward_hook(lambda *_: counted.no_such_attribute)
    with pytest.raises(AttributeError):
        layer(torch.randn(T, B, I))


@CLASSES
@pytest.mark.parametrize("batch_first", [True, False])
def test_helpers_are_nn_lstms(make, batch_first):
    options = {"proj_size": 2, "bidirectional": True, "batch_first": batch_first}
    theirs, ours = nn.LSTM(I, H, **options), make(I, H, **options)
    x = torch.randn(T, B, I)
    assert ours.get_expected_hidden_size(x, None) == theirs.get_expected_hidden_size(x, None)
    assert ours.get_expected_cell_size(x, None) == theirs.get_expected_cell_size(x, None)
    hx = torch.zeros(theirs.get_expected_hidden_size(x, None)), torch.zeros(theirs.get_expected_cell_size(x, None))
    ours.check_forward_args(x, hx, None)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size"):
        ours.check_forward_args(x, (hx[0], hx[0]), None)
    order = torch.randperm(hx[0].shape[1])
    assert_bit_for_bit(ours.permute_hidden(hx, order), theirs.permute_hidden(hx, order))


@pytest.mark.parametrize("make", [LSTM, TorchLSTM, GalLSTM])
def test_symbolic_trace_has_the_layer_as_a_leaf(make):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ModuleDict({"lstm": make(I, H, 2)})

        def forward(self, x, lengths):
            y, (h, _) = self.inner["lstm"](x * 2, lengths=lengths)
            y, state = self.inner["lstm"](x + 1, None)
            return y.sum() + h.sum() + state[1].sum()

    model, x, lengths = Model(), torch.randn(T, B, I), torch.tensor([T, 1, 2])
    traced = fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["inner.lstm"] * 2
    assert torch.equal(traced(x, lengths), model(x, lengths))
    with pytest.raises(TypeError, match="input: expected a Tensor or a PackedSequence, got list"):
        model.inner["lstm"]([x])


@CLASSES
def test_symbolic_trace_of_a_state_that_goes_in_beside_a_constant(make):
    """A decoder's first input, say, while its state comes from the encoder."""

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = make(I, H)
            self.register_buffer("start", torch.ones(1, B, I))

        def forward(self, h, c):
            return self.lstm(self.start, (h, c))[0]

    model, h, c = Decoder(), torch.randn(1, B, H), torch.randn(1, B, H)
    assert torch.equal(fx.symbolic_trace(model)(h, c), model(h, c))


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"num_layers": 2}, {"bidirectional": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_changed_in_place_before_the_backward(dtype, options):
    """Where nn.LSTM allows it: but for float32 without projections, where both raise."""
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, dtype=dtype, **options)
    ours, x = LSTM.from_torch(theirs), torch.randn(T, B, I, dtype=dtype)
    results = []
    for layer in (theirs, ours):
        y, (h_n, _) = layer(x)
        loss = y.mul_(2).sum() + h_n.sum()
        try:
            results.append(torch.autograd.grad(loss, list(layer.parameters())))
        except RuntimeError:
            results.append(None)
    if results[0] is None:
        assert dtype == torch.float32 and "proj_size" not in options
    else:
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        for e, a in zip(*results, strict=True):
            assert torch.allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_sequence_under_cpu_autocast_keeps_its_dtype(dtype):
    """nn.LSTM multiplies in bfloat16 all the same, which explains the tolerance; ours does not."""
    theirs = nn.LSTM(I, H, 2, bidirectional=True)
    ours = LSTM.from_torch(theirs, hidden_dropout=0.5).eval()
    packed = pack_sequence([torch.randn(n, I, dtype=dtype) for n in (5, 3, 1)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y, state), (y_, state_) = theirs(packed), ours(packed)
        # Not beside nn.LSTM's, which oneDNN refuses on a processor without AVX-512.
        assert ours(torch.randn(T, B, I))[0].dtype == torch.bfloat16
    assert y_.data.dtype == y.data.dtype == dtype
    for actual, expected in ((y_.data, y.data), *zip(state_, state, strict=True)):
        assert actual.dtype == expected.dtype
        assert torch.allclose(actual, expected, atol=5e-3 if dtype == torch.float32 else 2e-2)


HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize("autocast", HALVES, ids=str)
@pytest.mark.parametrize("of_input", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("of_weights", [torch.float64, torch.float32, *HALVES], ids=str)
def test_dtypes_under_cpu_autocast_are_nn_lstms(of_weights, of_input, autocast, proj_size, packed):
    """Autocast leaves float64 alone; a c_n with a projection, packed and 16-bit inputs have rules of their own."""
    if (of_weights is torch.float64) != (of_input is torch.float64):
        pytest.skip("float64 and autocast's own dtypes do not mix, in nn.LSTM's either")
    theirs = nn.LSTM(I, H, proj_size=proj_size, dtype=of_weights)
    ours = LSTM.from_torch(theirs)
    sequences = [torch.randn(n, I, dtype=torch.float64).to(of_input) for n in (5, 3 if packed else 5)]
    x = pack_sequence(sequences) if packed else torch.stack(sequences, 1)
    with torch.autocast("cpu", dtype=autocast):
        actual = flat(ours(x))
        try:
            expected = flat(theirs(x))
        except RuntimeError as error:
            if "primitive descriptor" not in str(error):
                raise
            pytest.skip("oneDNN has no LSTM in 16 bits for this processor")
    assert [value.dtype for value in actual] == [value.dtype for value in expected]
    for a, e in zip(actual, expected, strict=True):
        assert torch.allclose(a.double(), e.double(), atol=1e-12 if of_input is torch.float64 else 2e-2)


@pytest.mark.parametrize("options", [{}, {"backend": "python"}, {"hidden_zoneout": 0.1}], ids=str)
def test_a_call_with_weights_of_another_dtype(options):
    layer = LSTM(I, H, **options).eval()
    x = torch.randn(T, B, I, dtype=torch.float64)
    weights = {name: weight.detach().double() for name, weight in layer.named_parameters()}
    found = torch.func.functional_call(layer, weights, (x,))
    with pytest.raises((ValueError, RuntimeError), match="dtype"):
        torch.func.functional_call(layer, weights, (x.float(),))
    assert_bit_for_bit(found, layer.double()(x))


@pytest.mark.parametrize("wrong", [torch.complex64, torch.int64], ids=str)
@pytest.mark.parametrize("proj_size", [0, 2])
def test_what_autocast_does_not_cast_is_refused_under_it_too(proj_size, wrong):
    for make in (nn.LSTM, LSTM):
        layer = make(I, H, proj_size=proj_size)
        x = torch.randn(T, B, I)
        hx = (torch.zeros(1, B, proj_size or H), torch.zeros(1, B, H))
        with torch.autocast("cpu", torch.bfloat16):
            if make is LSTM:  # oneDNN has no LSTM in 16 bits for every processor
                layer(x, hx)
            with pytest.raises((ValueError, RuntimeError, TypeError)):
                layer(x.to(wrong))
            with pytest.raises((ValueError, RuntimeError, TypeError)):
                layer(x, tuple(state.to(wrong) for state in hx))


def test_compiled_autograd_over_an_eager_forward():
    gradients = []
    with torch._dynamo.config.patch(compiled_autograd=True):
        for make in (nn.LSTM, LSTM):
            torch.manual_seed(0)
            layer = make(I, H, bidirectional=True, dtype=torch.float64)
            loss = layer(torch.ones(T, B, I, dtype=torch.float64))[0].square().sum()
            torch.compile(lambda loss: loss.backward(), backend="eager")(loss)
            gradients.append([parameter.grad for parameter in layer.parameters()])
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("device", "shape", "hx_device"),
    [("cpu", (0, B, I), None), ("cpu", (0, I), None), ("meta", (T, B, I), None), ("cpu", (T, B, I), "meta")],
)
def test_messages_are_nn_lstms(device, shape, hx_device):
    messages = []
    for make in (nn.LSTM, LSTM):
        hx = None if hx_device is None else (torch.zeros(1, B, H, device=hx_device),) * 2
        with pytest.raises(RuntimeError) as raised:
            make(I, H, device=device)(torch.randn(shape), hx)
        messages.append(str(raised.value))
    assert messages[1] == messages[0]


@CLASSES
def test_script_and_quantisation_name_to_torch(make):
    model = nn.Sequential(make(I, H))
    with pytest.raises(RuntimeError, match=r"torch.jit.script does not support .*rnndrop_cuda.to_torch\(model\)"):
        torch.jit.script(model)
    quantise = torch.ao.quantization.quantize_dynamic
    with pytest.warns(UserWarning, match=r"stays in floating point.*rnndrop_cuda.to_torch\(model\)"):
        quantised = quantise(model, {nn.LSTM}, dtype=torch.qint8)
    assert_same(quantised(x := torch.randn(T, B, I)), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "quantized" in type(quantise(to_torch(model), {nn.LSTM}, dtype=torch.qint8)[0]).__module__
    torch.jit.script(to_torch(model))
