"""MC dropout: masks kept in eval, and what n passes say."""

import math
import re

import pytest
import torch
from torch import nn

import rnndrop_cuda
from rnndrop_cuda import LSTM, LayerMasks, mc_predict
from tests.problems import relative_error

T, B, I, H, K = 5, 3, 4, 6, 3
DROPOUTS = [
    {"input_dropout": 0.5}, {"hidden_dropout": 0.5}, {"candidate_dropout": 0.5}, {"weight_dropout": 0.5},
    {"cell_dropout": 0.5}, {"hidden_zoneout": 0.5}, {"cell_zoneout": 0.5}, {"dropout": 0.5, "num_layers": 2},
]  # fmt: skip


class Classifier(nn.Module):
    """An LSTM with dropout inside, and one outside that must stay off; notes the modes that it was called in."""

    def __init__(self, classes=K, **options):
        super().__init__()
        self.lstm = LSTM(I, H, dtype=torch.float64, **options)
        self.outside = nn.Dropout(0.5)
        self.head = nn.Linear(H, classes, dtype=torch.float64)
        self.norm = nn.BatchNorm1d(classes, dtype=torch.float64)
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, self.lstm.training, self.outside.training, self.lstm.mc_dropout))
        logits = self.norm(self.head(self.outside(self.lstm(x)[0][-1])))
        return logits.softmax(-1) if logits.shape[1] > 1 else logits.sigmoid()


class Canned(nn.Module):
    """Returns given outputs in turn, and has a layer with dropout so that mc_predict accepts it."""

    def __init__(self, *outputs):
        super().__init__()
        self.lstm = LSTM(I, H, input_dropout=0.5)
        self.outputs = list(outputs)

    def forward(self, x):
        return self.outputs.pop(0)


def xs():
    return torch.randn(T, B, I, dtype=torch.float64)


# ---------------------------------------------------------------- mc_dropout=True


@pytest.mark.parametrize("options", DROPOUTS)
def test_mc_dropout_keeps_every_dropout_in_eval(options):
    torch.manual_seed(0)  # two draws of so few units may be equal
    layer, x = LSTM(I, H, mc_dropout=True, dtype=torch.float64, **options).eval(), xs()
    y, _, masks = layer(x, return_masks=True)
    assert masks != [LayerMasks()] * len(masks)
    assert not torch.equal(layer(x)[0], y)
    torch.manual_seed(5)
    in_eval = layer(x)[0]
    torch.manual_seed(5)
    assert torch.equal(layer.train()(x)[0], in_eval)
    layer.mc_dropout = False
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])


# ---------------------------------------------------------------- mc_predict


@pytest.mark.parametrize("options", DROPOUTS)
@pytest.mark.parametrize("classes", [K, 1])
def test_samples_are_those_of_the_layer_and_summarised_by_hand(options, classes):
    torch.manual_seed(0)
    model, x, n = Classifier(classes, **options), xs(), 7
    got = mc_predict(model, x, n, torch.Generator().manual_seed(3))
    assert got.samples.shape == (n, B, classes)

    generator = torch.Generator().manual_seed(3)
    model.eval()
    expected = []
    with torch.no_grad():
        for _ in range(n):
            masks = model.lstm.draw_masks(T, B, generator)
            logits = model.norm(model.head(model.lstm(x, masks=masks)[0][-1]))
            expected.append(logits.softmax(-1) if classes > 1 else logits.sigmoid())
    expected = torch.stack(expected)
    assert torch.equal(got.samples, expected)

    for b in range(B):
        passes = [[float(p) for p in expected[s, b]] for s in range(n)]
        mean = [sum(column) / n for column in zip(*passes, strict=True)]
        std = [
            math.sqrt(sum((p - m) ** 2 for p in column) / n)
            for column, m in zip(zip(*passes, strict=True), mean, strict=True)
        ]

        def entropy(p):
            p = p if len(p) > 1 else [p[0], 1 - p[0]]
            return -sum(q * math.log(q) for q in p)

        assert got.mean[b].tolist() == pytest.approx(mean, rel=1e-9)
        assert got.std[b].tolist() == pytest.approx(std, rel=1e-9)
        assert float(got.predictive_entropy[b]) == pytest.approx(entropy(mean), rel=1e-9)
        information = entropy(mean) - sum(map(entropy, passes)) / n
        assert float(got.mutual_information[b]) == pytest.approx(information, rel=1e-6, abs=1e-12)
        assert information > 1e-9  # so that what is compared is no rounding


def test_ends_of_uncertainty():
    """Sure; each pass sure of another class: all of it the model's; each pass undecided: all of it the data's."""
    one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    got = mc_predict(Canned(one, two), None, 2)
    log2 = math.log(2)
    assert got.predictive_entropy.tolist() == pytest.approx([0, log2, log2])
    assert got.mutual_information.tolist() == pytest.approx([0, log2, 0], abs=1e-7)
    assert got.mean.tolist() == [[1, 0], [0.5, 0.5], [0.5, 0.5]]
    assert got.std.tolist() == [[0, 0], [0.5, 0.5], [0, 0]]
    binary = mc_predict(Canned(one[:, :1], two[:, :1]), None, 2)
    assert torch.equal(binary.predictive_entropy, got.predictive_entropy)
    assert torch.equal(binary.mutual_information, got.mutual_information)
    assert binary.mean.shape == binary.std.shape == (3, 1)


def test_reproducible_with_a_generator_and_with_the_seed():
    model, x = Classifier(hidden_dropout=0.5), xs()
    before = torch.get_rng_state()
    a, b, c = (mc_predict(model, x, 3, torch.Generator().manual_seed(seed)).samples for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    torch.manual_seed(6)
    first = mc_predict(model, x, 3).samples
    torch.manual_seed(6)
    assert torch.equal(mc_predict(model, x, 3).samples, first)
    assert not torch.equal(first[0], first[1])


def test_many_passes_agree_with_training_in_the_mean():
    """The mean over passes of a linear read-out is that of the same layer in training."""
    torch.manual_seed(0)
    layer = LSTM(I, H, candidate_dropout=0.5, dtype=torch.float64)
    model = nn.Sequential(layer, Last(), nn.Sigmoid())
    x = xs()
    n = 2000
    got = mc_predict(model, x, n)
    with torch.no_grad():
        in_training = torch.stack([layer(x)[0][-1, :, :1].sigmoid() for _ in range(n)])
    error = (got.mean - in_training.mean(0)).abs()
    assert (error <= 5 * got.std * (2 / n) ** 0.5).all()
    assert relative_error(got.std, in_training.std(0)) < 0.15


class Last(nn.Module):
    def forward(self, output):
        return output[0][-1, :, :1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mc_dropout", [True, False])
def test_modes_while_it_runs_and_after(training, mc_dropout):
    model = Classifier(hidden_dropout=0.5, mc_dropout=mc_dropout).train(training)
    model.head.train(not training)
    before = [m.training for m in model.modules()]
    running = model.norm.running_mean.clone()
    got = mc_predict(model, xs(), 2)
    assert model.modes == [(False, False, False, True)] * 2
    assert [m.training for m in model.modules()] == before
    assert model.lstm.mc_dropout is mc_dropout
    assert torch.equal(model.norm.running_mean, running)
    assert not got.mean.requires_grad
    assert not model.lstm._forward_pre_hooks


def test_modes_after_an_exception():
    model = Classifier(hidden_dropout=0.5)
    model.head.eval()
    before = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="input.size"):
        mc_predict(model, torch.zeros(T, B, I + 1, dtype=torch.float64), 2)
    assert len(model.modes) == 1
    assert [m.training for m in model.modules()] == before
    assert model.lstm.mc_dropout is False
    assert not model.lstm._forward_pre_hooks


def test_half_precision_is_summarised_in_single():
    got = mc_predict(Canned(*[torch.tensor([[0.3, 0.7]], dtype=torch.bfloat16)] * 3), None, 3)
    assert got.samples.dtype == torch.bfloat16
    assert got.mean.dtype == got.mutual_information.dtype == torch.float32
    assert got.std.abs().max() < 1e-6


def test_mutual_information_of_passes_that_agree_is_not_below_zero():
    """Without care a tenth of these round to less."""
    same = torch.randn(1000, 5).softmax(-1)
    information = mc_predict(Canned(same, same, same), None, 3).mutual_information
    assert (information >= 0).all()
    assert information.max() < 1e-6


def test_a_subclass_that_takes_nn_lstms_arguments_alone():
    class Mine(LSTM):
        def forward(self, x, hx=None):
            return super().forward(x, hx)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = Mine(5, 6, hidden_dropout=0.5)

        def forward(self, x):
            return self.lstm(x)[0][-1].softmax(-1)

    assert mc_predict(Net(), torch.randn(7, 4, 5), 3).std.max() > 0


def test_is_public():
    assert {"mc_predict", "MCPrediction"} <= set(rnndrop_cuda.__all__)


# ---------------------------------------------------------------- errors


def test_dropout_between_layers_of_a_single_layer_is_none():
    with pytest.warns(UserWarning, match="dropout option"):
        layer = LSTM(I, H, dropout=0.5)
    with pytest.raises(ValueError, match="got 1 LSTM without"):
        mc_predict(layer, None, 1)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ((torch.ones(2, 2), None), TypeError, "probabilities [B, K], or [B, 1] of the positive class, got tuple"),
        (torch.ones(2), ValueError, "got shape [2] of torch.float32"),
        (torch.ones(2, 0), ValueError, "got shape [2, 0] of torch.float32"),
        (torch.ones(2, 1, dtype=torch.int64), ValueError, "got shape [2, 1] of torch.int64"),
        (torch.tensor([[-0.1, 1.1]]), ValueError, "got values outside [0, 1] (logits want a softmax or a sigmoid"),
        (torch.tensor([[float("nan")]]), ValueError, "got values outside [0, 1]"),
        (torch.tensor([[0.9, 0.9]]), ValueError, "got rows that do not add up to 1"),
    ],
)
def test_model_that_returns_no_probabilities(output, error, message):
    model = Canned(output).train()
    with pytest.raises(error, match=re.escape(message)):
        mc_predict(model, None, 1)
    assert model.training and model.lstm.training


@pytest.mark.parametrize(
    ("model", "n", "generator", "error", "message"),
    [
        (None, 1, None, TypeError, "model: expected an nn.Module, got NoneType"),
        (Canned(), 0, None, ValueError, "n: expected at least one pass, got 0"),
        (Canned(), True, None, TypeError, "n: expected an int, got bool"),
        (Canned(), 2.0, None, TypeError, "n: expected an int, got float"),
        (Canned(), 1, 7, TypeError, "generator: expected a torch.Generator, got int"),
        (nn.LSTM(I, H), 1, None, ValueError, "model: expected an rnndrop_cuda.LSTM with dropout in it, got 0 LSTM"),
        (nn.Sequential(LSTM(I, H), LSTM(I, H, 3)), 1, None, ValueError, "with dropout in it, got 2 LSTM without"),
        (LSTM(I, H), 1, None, ValueError, "model: expected an rnndrop_cuda.LSTM with dropout in it, got 1 LSTM"),
    ],
)
def test_bad_argument(model, n, generator, error, message):
    with pytest.raises(error, match=re.escape(message)):
        mc_predict(model, None, n, generator)
