"""bench.language_model: the layers compute the same without dropout, and its table is made of its results."""

import json

import pytest
import torch

pytest.importorskip("safetensors")

from bench import language_model
from bench.tables import fill
from rnndrop_cuda.seminar.language_model.model import LanguageModel


def test_in_eval_every_layer_is_the_same_model() -> None:
    models = language_model.models_of(language_model.settings_of(8, 8, 2), 50)
    ids = torch.randint(0, 50, (5, 3))
    with torch.no_grad():
        losses = {name: model.eval()(ids, ids)[0] for name, model in models.items()}
    assert all(isinstance(model, LanguageModel) for model in models.values())
    for name in models.keys() - {language_model.HEAD}:
        torch.testing.assert_close(losses[name], losses[language_model.NN_LSTM], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(losses[language_model.HEAD], losses[language_model.NN_LSTM])


def test_the_wrapper_drops_weights_in_training_only() -> None:
    layer = language_model.WeightDrop(4, 4)
    x = torch.randn(6, 2, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(layer.eval()(x)[0], layer.lstm(x)[0])


def test_its_results_fill_its_table(tmp_path, capsys) -> None:
    out = tmp_path / "language-model.json"
    options = ["--size", "8", "--reviews", "8", "--repeats", "2", "--epochs", "1", "--out", str(out)]
    assert language_model.main(options) == 0
    capsys.readouterr()
    found = json.loads(out.read_text())
    table = fill("<!-- table:language-model beside -->\n<!-- /table:language-model beside -->\n", tmp_path)
    assert table.count("\n| ") >= len(found["perplexity"])
    assert all(name in table for name in found["perplexity"])
    assert "| perplexity |" in table
    assert language_model.main([*options[:-4], "--epochs", "0", "--out", str(out)]) == 0
    table = fill("<!-- table:language-model beside -->\n<!-- /table:language-model beside -->\n", tmp_path)
    assert all(name in table for name in found["perplexity"])
    assert "erplexity" not in table
    assert language_model.main(["--reviews", "999999"]) == 2
    assert "bench.language_model: reviews: expected at most" in capsys.readouterr().err
