"""rnndrop_cuda.keras.LSTM against keras.layers.LSTM: the same weights and the same seed, the same numbers."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tests.problems import relative_error

if importlib.util.find_spec("keras") is None:
    pytest.skip("needs the extra keras", allow_module_level=True)
os.environ["KERAS_BACKEND"] = "torch"

import keras

from rnndrop_cuda.keras import LSTM

T, B, I, H = 7, 5, 4, 6
FORMS = [
    {},
    {"recurrent_dropout": 0.4},
    {"dropout": 0.3},
    {"dropout": 0.3, "recurrent_dropout": 0.4},
    {"recurrent_dropout": 0.4, "use_bias": False},
    {"dropout": 0.3, "recurrent_dropout": 0.4, "go_backwards": True},
    {"recurrent_dropout": 0.4, "zero_output_for_mask": True},
    {"recurrent_dropout": 0.4, "unroll": True},
    {"recurrent_dropout": 1.0, "dropout": 0.3},
    {"recurrent_dropout": 0.4, "activation": "relu"},
    {"recurrent_dropout": 0.4, "recurrent_activation": "hard_sigmoid"},
]
PRESENT = {
    "no": None,
    "right": torch.arange(T) < torch.tensor([[7], [1], [3], [0], [5]]),
    "left": torch.arange(T) >= torch.tensor([[0], [6], [3], [7], [2]]),
    "holes": torch.rand(B, T, generator=torch.Generator().manual_seed(0)) < 0.5,
}


def pair(**options):
    """keras.layers.LSTM and ours, with the same weights and the same seed."""
    options = {"return_sequences": True, "return_state": True, "seed": 3, "bias_initializer": "normal"} | options
    layers = keras.layers.LSTM(H, **options), LSTM(H, **options)
    for layer in layers:
        layer.build((None, T, I))
    layers[1].set_weights(layers[0].get_weights())
    return layers


def step(layer, x, mask=None, training=True, **options):
    """Outputs, and the gradients of x and the weights."""
    x = x.detach().clone().requires_grad_()
    outputs = layer(x, mask=mask, training=training, **options)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    weights = [variable.value for variable in layer.trainable_weights]
    gradients = torch.autograd.grad(sum(output.sin().sum() for output in outputs), [x, *weights])
    return [*outputs, *gradients]


def assert_close(actual, expected, tolerance=2e-6):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        assert relative_error(a, e) < tolerance


@pytest.mark.parametrize("present", PRESENT.values(), ids=PRESENT.keys())
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_outputs_states_and_gradients_in_training(form, present):
    theirs, ours = pair(**form)
    x = torch.randn(B, T, I)
    for _ in range(2):  # masks drawn anew, and the same
        assert_close(step(ours, x, present), step(theirs, x, present))


@pytest.mark.parametrize("present", [None, PRESENT["holes"]], ids=["no mask", "holes"])
def test_nothing_is_dropped_in_inference(present):
    theirs, ours = pair(dropout=0.3, recurrent_dropout=0.4)
    x = torch.randn(B, T, I)
    assert_close(step(ours, x, present, training=False), step(theirs, x, present, training=False))


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("state", [True, False])
def test_what_is_returned(sequences, state):
    theirs, ours = pair(recurrent_dropout=0.4, return_sequences=sequences, return_state=state)
    x = torch.randn(B, T, I)
    assert_close(step(ours, x), step(theirs, x))


def test_an_initial_state():
    theirs, ours = pair(recurrent_dropout=0.4)
    x, state = torch.randn(B, T, I), [torch.randn(B, H), torch.randn(B, H)]
    assert_close(step(ours, x, initial_state=state), step(theirs, x, initial_state=state))


def test_stateful_goes_on_where_it_was():
    theirs, ours = (type(layer)(H, stateful=True, recurrent_dropout=0.4, seed=1) for layer in pair())
    x = torch.randn(B, T, I)
    for layer in (theirs, ours):
        layer.build(x.shape)
    ours.set_weights(theirs.get_weights())
    for _ in range(3):
        assert_close(step(ours, x), step(theirs, x))
    ours.reset_state()
    assert all(not state.value.any() for state in ours.states)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-6), ("mixed_bfloat16", 0.02)])
def test_other_dtypes(dtype, tolerance):
    """Of float64 Keras' matmul makes float32 on the way."""
    theirs, ours = pair(recurrent_dropout=0.4, dropout=0.3, dtype=dtype)
    x = torch.randn(B, T, I, dtype=torch.float64 if dtype == "float64" else torch.bfloat16)
    assert_close(step(ours, x), step(theirs, x), tolerance)


def model(lstm):
    return keras.Sequential(
        [
            keras.Input((None,)),
            keras.layers.Embedding(20, I, mask_zero=True),
            keras.layers.Bidirectional(lstm(H, recurrent_dropout=0.3, dropout=0.2, return_sequences=True, seed=5)),
            lstm(H, recurrent_dropout=0.3, seed=6, kernel_regularizer="l2"),
            keras.layers.Dense(1),
        ]
    )


def test_a_model_is_trained_saved_and_loaded(tmp_path):
    theirs, ours = model(keras.layers.LSTM), model(LSTM)
    ours.set_weights(theirs.get_weights())
    words, labels = torch.randint(20, (16, T)), torch.randn(16, 1)
    for of in (theirs, ours):
        of.compile("sgd", "mse")
        of.fit(words, labels, epochs=2, batch_size=4, shuffle=False, verbose=0)
    for a, e in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert abs(a - e).max() < 1e-5
    ours.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert sum(isinstance(layer, LSTM) for layer in loaded.layers) == 1
    assert isinstance(loaded.layers[1].forward_layer, LSTM)
    assert abs(loaded.predict(words, verbose=0) - ours.predict(words, verbose=0)).max() < 1e-6


def test_the_configuration_goes_both_ways():
    theirs, ours = pair(recurrent_dropout=0.4, dropout=0.3, kernel_constraint="unit_norm")
    assert ours.get_config() | {"name": ""} == theirs.get_config() | {"name": ""}
    assert LSTM.from_config(theirs.get_config()).recurrent_dropout == 0.4


def test_another_backend_is_refused():
    program = "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras\n"
    program += "keras.backend = types.SimpleNamespace(backend=lambda: 'jax')\nimport rnndrop_cuda.keras"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: rnndrop_cuda.keras needs Keras' torch backend, and Keras runs on jax" in done.stderr
