"""torch.onnx.export of the layer, by both exporters, in ONNX Runtime: ONNX's LSTM node, and nothing it cannot do."""

import io
import warnings

import pytest
import torch
from torch import nn

import rnndrop_cuda.onnx
from rnndrop_cuda import LSTM, GalLSTM, LayerMasks
from tests.modules import B, H, I, T

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra bench")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

EXPORTERS = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
FORMS = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"bidirectional": True, "batch_first": True},
    {"num_layers": 3, "bidirectional": True, "learn_initial_state": True},
]


class Wrapped(nn.Module):
    """A model around the layer; TorchScript's exporter gives keywords by position, which the layer does not take."""

    def __init__(self, lstm, **options):
        super().__init__()
        self.lstm, self.options = lstm, options

    def forward(self, x, h_0=None, c_0=None, lengths=None):
        hx = None if h_0 is None else (h_0, c_0)
        y, (h_n, c_n), *others = self.lstm(x, hx, lengths=lengths, **self.options)
        return y, h_n, c_n, *others


def export(model, arguments, dynamo, **options):
    """The file's bytes."""
    model.eval()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript's exporter is deprecated, and what it finds in itself
        if dynamo:
            program = torch.onnx.export(model, arguments, verbose=False, dynamo=True, **options)
            return program.model_proto.SerializeToString()
        torch.onnx.export(model, arguments, file, dynamo=False, **options)
    return file.getvalue()


def run(exported, *arguments):
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    given = {of.name: value.numpy() for of, value in zip(session.get_inputs(), arguments, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, given)]


def nodes(exported):
    return [node.op_type for node in onnx.load_from_string(exported).graph.node]


def assert_equal(model, exported, *arguments):
    """ONNX Runtime's outputs, of the tensors among the arguments, and the model's."""
    with torch.no_grad():
        expected = model(*arguments)
    outputs = run(exported, *(a for a in arguments if a is not None))
    for actual, wanted in zip(outputs, expected, strict=True):
        assert actual.shape == wanted.shape
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5)


def layer(**options):
    lstm = LSTM(I, H, **options)
    for state in (lstm.h_0, lstm.c_0) if lstm.learn_initial_state else ():
        nn.init.normal_(state)
    return lstm


@EXPORTERS
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_eval_is_an_lstm_node_for_each_layer_and_direction(dynamo, form):
    lstm = layer(**form, input_dropout=0.5, hidden_dropout=0.5, candidate_dropout=0.5, weight_dropout=0.5)
    model, x = Wrapped(lstm), torch.randn(T, B, I)
    exported = export(model, (x,), dynamo)
    assert nodes(exported).count("LSTM") == lstm.num_layers * (2 if lstm.bidirectional else 1)
    graph = onnx.load_from_string(exported).graph
    stored = {weights.name for weights in graph.initializer} | {""}
    assert all(set(node.input[1:4]) <= stored for node in graph.node if node.op_type == "LSTM")
    assert_equal(model, exported, x)


def test_the_layer_itself_is_exported_too():
    lstm, x = GalLSTM(I, H, dropout=0.5).eval(), torch.randn(T, B, I)
    exported = export(lstm, (x,), True)
    y, (h_n, c_n) = lstm(x)
    for actual, wanted in zip(run(exported, x), (y, h_n, c_n), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5)


@EXPORTERS
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_initial_states_and_lengths_are_inputs(dynamo, form):
    """Of a sample without a step too, whose state stays."""
    model, runs = Wrapped(layer(**form)), form.get("num_layers", 1) * (1 + form.get("bidirectional", False))
    x = torch.randn(B, T, I) if form.get("batch_first") else torch.randn(T, B, I)
    arguments = x, torch.randn(runs, B, H), torch.randn(runs, B, H), torch.tensor([T, 0, 2])
    exported = export(model, arguments, dynamo)
    assert_equal(model, exported, *arguments)
    others = torch.randn_like(x), *map(torch.randn_like, arguments[1:3]), torch.tensor([1, 4, 0])
    assert_equal(model, exported, *others)


@EXPORTERS
def test_learned_initial_states_with_lengths(dynamo):
    model = Wrapped(layer(learn_initial_state=True, bidirectional=True))
    x, lengths = torch.randn(T, B, I), torch.tensor([0, T, 3])
    exported = export(model, (x, None, None, lengths), dynamo)
    assert_equal(model, exported, x, None, None, lengths)


@EXPORTERS
def test_steps_and_batch_may_vary(dynamo):
    model, x = Wrapped(layer(num_layers=2, bidirectional=True)), torch.randn(T, B, I)
    if dynamo:
        varying = {"dynamic_shapes": {"x": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}}
    else:
        varying = {"input_names": ["x"], "dynamic_axes": {"x": {0: "T", 1: "B"}}}
    exported = export(model, (x,), dynamo, **varying)
    for steps, batch in ((T, B), (9, 4), (1, 7)):
        assert_equal(model, exported, torch.randn(steps, batch, I))


FIXED = {
    "batch": LayerMasks(x=torch.rand(I), h=torch.rand(H), w=torch.rand(4 * H, H)),
    "untied": LayerMasks(x=torch.rand(4, 1, I), h=torch.rand(4, 1, H)),
    "sample": LayerMasks(x=torch.rand(B, I)),
}


@EXPORTERS
@pytest.mark.parametrize("masks", FIXED.values(), ids=FIXED.keys())
def test_fixed_masks_are_in_the_file(dynamo, masks):
    model, x = Wrapped(layer(bidirectional=True), masks=[masks, masks]), torch.randn(T, B, I)
    exported = export(model, (x,), dynamo)
    assert nodes(exported).count("LSTM") == 2
    assert_equal(model, exported, x)


REFUSED = {
    "proj_size": (LSTM(I, H, proj_size=2), {}),
    "cell_zoneout": (LSTM(I, H, cell_zoneout=0.1), {}),
    "hidden_zoneout": (LSTM(I, H, hidden_zoneout=0.1), {}),
    "candidate_dropout": (LSTM(I, H), {"masks": [LayerMasks(g=torch.ones(H))]}),
    "cell_dropout": (LSTM(I, H), {"masks": [LayerMasks(c=torch.ones(H))]}),
    "hidden_dropout": (LSTM(I, H), {"masks": [LayerMasks(h=torch.ones(B, H))]}),
    "input_dropout": (LSTM(I, H), {"masks": [LayerMasks(x=torch.ones(4, B, I))]}),
    "return_states": (LSTM(I, H), {"return_states": True}),
    "dropout is on": (LSTM(I, H, hidden_dropout=0.5, mc_dropout=True), {}),
}


@EXPORTERS
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_node_cannot_do_is_refused_by_name(dynamo, name):
    lstm, options = REFUSED[name]
    with pytest.raises(Exception, match=f"{name}.* ONNX") as refused:
        export(Wrapped(lstm, **options), (torch.randn(T, B, I),), dynamo)
    assert ("call eval()" if name == "dropout is on" else "backend='python'") in str(refused.value)


@EXPORTERS
@pytest.mark.parametrize("name", ["proj_size", "cell_zoneout", "candidate_dropout", "cell_dropout"])
def test_step_by_step_it_is_exported_all_the_same(dynamo, name):
    """The way out that the error names."""
    lstm, options = REFUSED[name]
    stepwise = LSTM(I, H, proj_size=lstm.proj_size, cell_zoneout=lstm.cell_zoneout, backend="python")
    model, x = Wrapped(stepwise, **options), torch.randn(T, B, I)
    exported = export(model, (x,), dynamo)
    assert "LSTM" not in nodes(exported)
    assert_equal(model, exported, x)


def test_a_program_exported_before_becomes_onnx_by_decomposition():
    model, x = Wrapped(layer(bidirectional=True)).eval(), torch.randn(T, B, I)
    program = torch.export.export(model, (x,))
    table = {torch.ops.rnndrop.lstm_layer.default: rnndrop_cuda.onnx.lstm_layer}
    exported = torch.onnx.export(program.run_decompositions(table), verbose=False).model_proto.SerializeToString()
    assert nodes(exported).count("LSTM") == 2
    assert_equal(model, exported, x)
