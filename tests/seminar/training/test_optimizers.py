"""Which weights are trained at which rate, step by step, from the first one or from one in the middle of a run."""

import pytest
import torch

from rnndrop_cuda.seminar.settings import FineTuningSettings
from rnndrop_cuda.seminar.training.optimizers import cycle, make_optimizer

SIZES = {"n_emb": 3, "n_hidden": 4, "vocab_size": 9}
STEPS = 12


def made(**changes):
    settings = FineTuningSettings(**{**SIZES, "layer": "GalLSTM:0.5", "learning_rate": 0.1, **changes})
    model = settings.build()
    return model, make_optimizer(settings, model)


def step(model, optimizer):
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()


def rates(optimizer):
    return [(group["lr"], group.get("betas")) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_lower_layers_take_smaller_steps(name):
    model, optimizer = made(optimizer=name, layer_decay=0.5, num_layers=2)
    name_of = {weight: name for name, weight in model.named_parameters()}
    rate_of = {name_of[weight]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert rate_of.keys() == {*name_of.values()}
    for name, rate in rate_of.items():
        depth = 0 if name.startswith("output") else 1 if name.endswith("_l1") else 2 if name.endswith("_l0") else 3
        assert rate == pytest.approx(0.1 * 0.5**depth), name


def test_the_rates_rise_and_fall():
    model, optimizer = made(optimizer="Adam", layer_decay=0.5)
    cycle(optimizer, STEPS)
    seen = [rates(optimizer)]
    for _ in range(STEPS):
        step(model, optimizer)
        seen.append(rates(optimizer))
    for group, highest in enumerate((0.1, 0.05, 0.025)):
        of_group = [at[group][0] for at in seen]
        top = of_group.index(max(of_group))
        assert of_group[:top] == sorted(of_group[:top]) and of_group[top:] == sorted(of_group[top:], reverse=True)
        assert 0.8 * highest < of_group[top] <= highest
        assert of_group[0] < 0.05 * highest and of_group[-1] < 0.001 * highest


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
@pytest.mark.parametrize("done", [0, 1, 2, 7, STEPS - 1, STEPS])
@pytest.mark.filterwarnings("error")
def test_a_cycle_is_taken_up_anywhere(name, done):
    (model, whole), (again, resumed) = (made(optimizer=name, layer_decay=0.5) for _ in range(2))
    cycle(whole, STEPS)
    for _ in range(done):
        step(model, whole)
    cycle(resumed, STEPS, done)
    assert rates(resumed) == rates(whole)
    for _ in range(STEPS - done):
        step(model, whole)
        step(again, resumed)
        assert rates(resumed) == rates(whole)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"optimizer": "SGD"}, "optimizer: expected one of RMSprop, Adam, got SGD"),
        ({"loss_reduction": "none"}, "loss_reduction: expected one of sum, mean, got none"),
        ({"layer_decay": 0.0}, r"layer_decay: expected a number in \(0, 1\], got 0.0"),
        ({"layer_decay": 1.5}, r"layer_decay: expected a number in \(0, 1\], got 1.5"),
        ({"layer_decay": float("nan")}, r"layer_decay: expected a number in \(0, 1\], got nan"),
    ],
)
def test_settings_that_are_none_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        FineTuningSettings(**changes).check()
