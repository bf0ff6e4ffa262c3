"""to_torch: a model with nn.LSTM in the place of every layer, and the formats that know nn.LSTM only."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from rnndrop_cuda import LSTM, GalLSTM, RNNClassifier, SemeniutaLSTM, TorchLSTM, to_torch
from tests.modules import DROPOUT, B, H, I, T, all_equal, assert_same, flat


class Tagger(nn.Module):
    """Layers of every kind: in a list, inside one another, and one that has two places."""

    def __init__(self):
        super().__init__()
        self.below = nn.ModuleList([GalLSTM(I, H, dropout=0.5), SemeniutaLSTM(H, H, dropout=0.5)])
        self.above = nn.ModuleDict({"lstm": LSTM(H, H, 2, bidirectional=True, batch_first=True, **DROPOUT)})
        self.again = self.below[1]
        self.projected = LSTM(2 * H, H, proj_size=2, bias=False, hidden_dropout=0.5)
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        for lstm in self.below:
            x = lstm(x)[0]
        x = self.above["lstm"](self.again(x)[0])[0]
        return self.head(self.projected(x)[0])


def test_every_layer_becomes_an_nn_lstm():
    model, x = Tagger().eval(), torch.randn(T, B, I)
    plain = to_torch(model)
    assert type(plain) is Tagger
    assert sum(type(module) is nn.LSTM for module in plain.modules()) == 4
    assert not [module for module in plain.modules() if isinstance(module, LSTM)]
    assert plain.again is plain.below[1]
    assert plain.above["lstm"].dropout == DROPOUT["dropout"]
    assert list(plain.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(plain(x), model(x))


def test_the_model_itself_stays_as_it_is_and_shares_nothing():
    model = Tagger()
    before, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    drawn = torch.get_rng_state()
    plain = to_torch(model)
    assert torch.equal(torch.get_rng_state(), drawn)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all_equal(model.state_dict().values(), before.values())
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_alone_with_its_mode_and_its_dtype(training):
    layer = LSTM(I, H, 2, dtype=torch.float64, hidden_dropout=0.5).train(training)
    layer.weight_hh_l0.requires_grad_(False)
    plain, x = to_torch(layer), torch.randn(T, B, I, dtype=torch.float64)
    assert type(plain) is nn.LSTM
    assert plain.training == training
    assert [p.requires_grad for p in plain.parameters()] == [p.requires_grad for p in layer.parameters()]
    assert_same(plain.eval()(x), layer.eval()(x))


def test_tied_parameters_stay_tied():
    model = nn.ModuleDict({"a": LSTM(H, H), "b": LSTM(H, H)})
    model["b"].weight_hh_l0 = model["a"].weight_hh_l0
    plain = to_torch(model)
    assert plain["a"].weight_hh_l0 is plain["b"].weight_hh_l0
    assert plain["a"].weight_hh_l0 is not model["a"].weight_hh_l0


def test_a_parametrized_weight_becomes_its_value():
    layer = parametrizations.weight_norm(LSTM(I, H, hidden_dropout=0.5).eval(), "weight_hh_l0")
    x = torch.randn(T, B, I)
    assert_same(to_torch(layer)(x), layer(x), torch.float32)


def test_a_model_without_a_layer_is_copied():
    model = nn.Linear(3, 2)
    plain = to_torch(model)
    assert plain is not model
    assert torch.equal(plain.weight, model.weight)


class Doubled(LSTM):
    def forward(self, input, hx=None):
        y, state = super().forward(input, hx)
        return 2 * y, state


def test_what_nn_lstm_lacks_is_named_for_every_layer():
    model = nn.ModuleDict(
        {
            "fine": LSTM(I, H, hidden_dropout=0.5),
            "begins": LSTM(I, H, learn_initial_state=True),
            "stays": nn.Sequential(LSTM(I, H, cell_zoneout=0.1)),
            "draws": LSTM(I, H, hidden_dropout=0.5, mc_dropout=True),
            "differs": Doubled(I, H),
            "draws_nothing": LSTM(I, H, mc_dropout=True),
        }
    )
    with pytest.raises(ValueError, match="to_torch: nn.LSTM cannot take the place of every layer") as refused:
        to_torch(model)
    for said in (
        "begins: learn_initial_state=True, and nn.LSTM has no h_0 and c_0",
        "stays.0: cell_zoneout=0.1 acts in eval too",
        "draws: mc_dropout=True, and",
        "differs: Doubled has a forward of its own",
    ):
        assert said in str(refused.value)
    assert "fine" not in str(refused.value) and "draws_nothing" not in str(refused.value)
    with pytest.raises(ValueError, match="the model itself: hidden_zoneout=0.2"):
        to_torch(LSTM(I, H, hidden_zoneout=0.2))


@pytest.mark.parametrize("keyword", ["hidden_zoneout", "cell_zoneout"])
def test_the_method_refuses_what_the_function_refuses(keyword):
    with pytest.raises(ValueError, match=f"to_torch: .* this layer's place: {keyword}=0.2 acts in eval too"):
        LSTM(I, H, **{keyword: 0.2}).to_torch()
    with pytest.raises(ValueError, match="mc_dropout=True, and nn.LSTM has no dropout in eval"):
        GalLSTM(I, H, dropout=0.5, mc_dropout=True).to_torch()
    with pytest.raises(ValueError, match="Doubled has a forward of its own"):
        Doubled(I, H).to_torch()
    assert type(LSTM(I, H, mc_dropout=True).to_torch()) is nn.LSTM


# ---------------------------------------------------------------- what it is for


def test_the_seminars_classifier_knows_lengths_afterwards():
    model = RNNClassifier(I, H, 9, 1, B, rec_layer=GalLSTM, dropout=0.5).eval()
    words, lengths = torch.randint(9, (T, B)), torch.tensor([T, 2, 1])
    torch.testing.assert_close(to_torch(model)(words, lengths), model(words, lengths))


def test_torchscript():
    model, x = Tagger().eval(), torch.randn(T, B, I)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(to_torch(model.below[0])))
    assert_same(scripted(x), model.below[0](x), torch.float32)


def test_quantize_dynamic_finds_the_layers():
    lstm, x = LSTM(I, H, 2, bidirectional=True, **DROPOUT).eval(), torch.randn(T, B, I)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(
            to_torch(nn.ModuleList([lstm])), {nn.LSTM}, dtype=torch.qint8
        )[0]
    assert type(quantised) is torch.ao.nn.quantized.dynamic.LSTM
    for actual, expected in zip(flat(quantised(x)), flat(lstm(x)), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0.05)


# ---------------------------------------------------------------- from_torch, and a layer's own to_torch


def both_ways(lstm):
    ours = LSTM.from_torch(lstm)
    return ours, ours.to_torch()


def test_what_is_trained_and_what_is_tied_is_kept():
    lstm = nn.LSTM(I, H, num_layers=2)
    lstm.weight_hh_l0.requires_grad_(False)
    lstm.bias_hh_l1 = lstm.bias_ih_l1
    for copied in both_ways(lstm):
        assert [name for name, p in copied.named_parameters() if not p.requires_grad] == ["weight_hh_l0"]
        assert copied.bias_hh_l1 is copied.bias_ih_l1
        assert copied.bias_hh_l0 is not copied.bias_ih_l0
        assert copied.weight_ih_l0.data_ptr() != lstm.weight_ih_l0.data_ptr()
        x = torch.randn(T, B, I)
        assert_same(copied(x), lstm(x), torch.float32)


def test_a_parametrized_weight_is_copied_as_the_value_that_it_has():
    lstm = parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0")
    x = torch.randn(T, B, I)
    for copied in both_ways(lstm):
        assert_same(copied(x), lstm(x), torch.float32)
    ours = parametrizations.weight_norm(LSTM(I, H), "weight_hh_l0")
    assert_same(ours.to_torch()(x), ours(x), torch.float32)


def test_no_random_number_is_drawn():
    lstm = nn.LSTM(I, H)
    before = torch.get_rng_state()
    both_ways(lstm)
    assert torch.equal(torch.get_rng_state(), before)


class TorchGalLSTM(GalLSTM, nn.LSTM):
    pass


class DoubledTorch(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(input, hx)
        return 2 * output, state


def test_what_has_a_forward_of_its_own_is_not_taken_for_an_nn_lstm():
    with pytest.raises(ValueError, match=r"lstm: expected torch's own nn.LSTM, got DoubledTorch with a forward"):
        LSTM.from_torch(DoubledTorch(I, H))


def test_a_layer_of_ours_counts_as_the_nn_lstm_that_it_is_in_eval():
    preset = TorchGalLSTM(I, H, num_layers=2, dropout=0.5)
    for copied in (LSTM.from_torch(preset), GalLSTM.from_torch(preset)):
        assert copied.dropout == copied.hidden_dropout == 0
        assert torch.equal(copied.weight_hh_l1, preset.weight_hh_l1)
    with pytest.raises(ValueError, match=r"to_torch: .* cell_zoneout=0.5 acts in eval too"):
        LSTM.from_torch(TorchLSTM(I, H, cell_zoneout=0.5))


@pytest.mark.parametrize("option", [{"init": "orthogonal"}, {"forget_bias": 1.0}])
def test_copied_weights_are_not_initialised(option):
    with pytest.raises(ValueError, match=rf"{next(iter(option))}: expected none, since the weights are the nn.LSTM's"):
        LSTM.from_torch(nn.LSTM(I, H), **option)


@pytest.mark.parametrize("put_there", [LSTM, TorchLSTM])
def test_nn_lstm_is_torchs_own_where_somebody_has_put_ours_into_its_place(put_there, monkeypatch):
    torchs = nn.LSTM
    monkeypatch.setattr(nn, "LSTM", put_there)
    model = nn.Sequential(nn.LSTM(4, 5)).eval()
    x = torch.randn(3, 2, 4)
    assert type(to_torch(model)[0]) is type(model[0].to_torch()) is torchs
    torch.testing.assert_close(torch.jit.script(to_torch(model))(x)[0], model(x)[0])
    assert type(LSTM.from_torch(torchs(4, 5))) is LSTM
