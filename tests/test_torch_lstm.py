"""TorchLSTM, for code that asks whether a module is an nn.LSTM; beside it LSTM, which torch.compile takes whole."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from rnndrop_cuda import LSTM, GalLSTM, TorchLSTM, mc_predict, to_torch
from tests.modules import B, H, I, T, assert_bit_for_bit


class TorchGalLSTM(GalLSTM, nn.LSTM):
    """As the docs say that a preset becomes one."""


FORMS = {"bidirectional": True, "num_layers": 2, "dropout": 0.3, "proj_size": 2, "bias": False, "batch_first": True}


@pytest.mark.parametrize("options", [{}, FORMS, {"hidden_dropout": 0.5, "learn_initial_state": True}])
def test_is_an_nn_lstm_and_computes_what_lstm_does(options):
    torch.manual_seed(0)
    plain = LSTM(I, H, **options)
    torch.manual_seed(0)
    layer = TorchLSTM(I, H, **options)
    assert isinstance(layer, nn.LSTM) and isinstance(layer, LSTM) and not isinstance(plain, nn.LSTM)
    assert repr(layer) == repr(plain).replace("LSTM", "TorchLSTM")
    for x in (torch.randn(B, B, I), pack_sequence([torch.randn(n, I) for n in (3, T, 1)], enforce_sorted=False)):
        for other in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.manual_seed(1)
            expected = plain(x)
            torch.manual_seed(1)
            assert_bit_for_bit(other(x), expected)


def test_is_taken_for_our_layer_too():
    theirs = nn.LSTM(I, H)
    layer = TorchLSTM.from_torch(theirs, hidden_dropout=0.5)
    assert type(layer) is TorchLSTM and layer.hidden_dropout == 0.5
    assert type(to_torch(layer)) is type(layer.to_torch()) is nn.LSTM
    again = LSTM.from_torch(layer)
    assert torch.equal(again.weight_hh_l0, theirs.weight_hh_l0)
    model = nn.Sequential(layer, LastSigmoid())
    assert mc_predict(model, torch.randn(T, B, I), n=3).std.any()


class LastSigmoid(nn.Module):
    def forward(self, result):
        return result[1][0][-1].mean(-1, keepdim=True).sigmoid()


def test_a_preset_becomes_one():
    layer = TorchGalLSTM(I, H, 2, dropout=0.5)
    assert isinstance(layer, nn.LSTM) and layer.input_dropout == layer.hidden_dropout == layer.dropout == 0.5
    assert layer(torch.randn(T, B, I))[0].shape == (T, B, H)


@pytest.mark.parametrize(("make", "whole"), [(LSTM, True), (GalLSTM, True), (nn.LSTM, False), (TorchLSTM, False)])
def test_the_price_is_a_break_in_the_graph(make, whole):
    """Where nn.LSTM has one; the compiled results, and the gradients, are right all the same."""
    torch._dynamo.reset()
    layer = make(I, H)
    x = torch.randn(T, B, I)

    def step(x):
        return layer(x * 2)[0] + 1

    if whole:
        compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    else:
        with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
            torch.compile(step, backend="aot_eager", fullgraph=True)(x)
        compiled = torch.compile(step, backend="aot_eager")
    expected, actual = step(x), compiled(x)
    assert torch.allclose(actual, expected, atol=1e-6)
    weights = list(layer.parameters())
    of_both = (torch.autograd.grad(y.sum(), weights) for y in (actual, expected))
    for a, e in zip(*of_both, strict=True):
        assert torch.allclose(a, e, atol=1e-5)


@pytest.mark.parametrize("make", [LSTM, TorchLSTM])
def test_weights_that_a_checkpoint_lacks_are_initialised(make, tmp_path):
    """By transformers 5 as an nn.LSTM's where the layer is one, else by the layer itself."""
    transformers = pytest.importorskip("transformers")

    class Head(transformers.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.lstm = make(config.hidden_size, 16, hidden_dropout=0.25, forget_bias=1.0)
            self.post_init()

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(tmp_path / "encoder")
    model = Head.from_pretrained(tmp_path / "encoder")
    for weight in (model.lstm.weight_ih_l0, model.lstm.weight_hh_l0):
        bound = 16**-0.5 if make is LSTM else (6 / sum(weight.shape)) ** 0.5  # nn.LSTM's own, or Xavier's
        assert 0.5 * bound < weight.abs().max() <= bound
    assert (model.lstm.bias_ih_l0[16:32] == (1.0 if make is LSTM else 0.0)).all()
    model.save_pretrained(tmp_path / "model")
    loaded = Head.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_weights_that_were_written_stay():
    layer, expected = LSTM(I, H), nn.LSTM(I, H).state_dict()
    layer.load_state_dict(expected)
    layer._is_hf_initialized = True
    assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())
