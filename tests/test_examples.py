"""The examples run, and do what they say."""

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(monkeypatch, name, package=None):
    """An example as a module."""
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install {package}")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_lightning(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    example = load(monkeypatch, "lightning_module", "lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning would like more workers
        _, before, after = example.main()
    assert after < before - 0.1


def test_hugging_face(monkeypatch, tmp_path):
    """The new head has nn.LSTM's first weights, not what lay in memory; a head that was saved has the saved ones."""
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    example = load(monkeypatch, "hugging_face_head", "transformers")
    bound = 1 / 16**0.5
    for seed in range(3):
        torch.manual_seed(seed)
        trained, loaded = example.main(tmp_path / str(seed))
        for weight in trained.lstm.parameters():
            assert weight.isfinite().all() and bound / 2 < weight.abs().max() <= bound + 0.01
        expected = trained.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_private_training(monkeypatch):
    example = load(monkeypatch, "private_training")
    before, after = example.main()
    assert after < before - 0.1


def test_gradients_of_samples_are_those_of_each_sample_alone(monkeypatch):
    example = load(monkeypatch, "private_training")
    model, x, labels = example.Classifier().eval(), torch.randn(5, 8, example.FEATURES), torch.rand(5)
    samples = example.gradients_of_samples(model, x, labels)
    for k in range(5):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x[k : k + 1]), labels[k : k + 1])
        for (name, _), expected in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            torch.testing.assert_close(samples[name][k], expected)


def test_private_gradients_are_cut_before_the_mean(monkeypatch):
    example = load(monkeypatch, "private_training")
    model = nn.Linear(2, 1, bias=False)
    samples = {"weight": torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])}
    example.set_private_gradients(model, samples, max_norm=1.0, noise=0.0)
    torch.testing.assert_close(model.weight.grad, torch.tensor([[0.45, 0.6]]))
    drawn = torch.stack([_noisy(example, model, samples) for _ in range(2000)])
    torch.testing.assert_close(drawn.std(0), torch.full((1, 2), 0.25), rtol=0.1, atol=0)


def _noisy(example, model, samples):
    example.set_private_gradients(model, samples, max_norm=1.0, noise=0.5)
    return model.weight.grad
