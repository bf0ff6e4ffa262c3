"""Copies of the module, and weights through files."""

import copy
import pickle

import pytest
import torch

from tests.modules import (
    ANY_BACKEND,
    all_equal,
    build,
    loss_of,
    random_x,
    training_step,
)


@ANY_BACKEND
def test_copies_have_weights_and_settings_of_their_own(backend):
    """After a step of training: wrappers that drop weights leave non-leaf tensors behind, which cannot be copied."""
    model, x = build(backend), random_x(backend)
    loss_of(model(x)).backward()
    expected = training_step(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert all_equal(training_step(other, x), expected)
        with torch.no_grad():
            other.weight_hh_l0.zero_()
        assert all_equal(training_step(model, x), expected)


def through_torch(state, path):
    torch.save(state, path)
    return torch.load(path, weights_only=True)


def through_safetensors(state, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, path)
    return safetensors.load_file(path)


@ANY_BACKEND
@pytest.mark.parametrize("save_and_load", [through_torch, through_safetensors])
def test_weights_go_through_files(backend, save_and_load, tmp_path):
    model, other, x = build(backend), build(backend), random_x(backend)
    expected = training_step(model, x)
    assert not torch.equal(training_step(other, x)[0], expected[0])
    other.load_state_dict(save_and_load(model.state_dict(), tmp_path / "weights"))
    assert all_equal(training_step(other, x), expected)
