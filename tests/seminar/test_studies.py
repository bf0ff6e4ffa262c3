"""The studies' plans: sizes, seeds, and what is changed of each variant."""

import json
from pathlib import Path

import pytest
from language_models import save_language_model

from rnndrop_cuda.seminar.studies import STUDIES, planned


@pytest.mark.parametrize("name", STUDIES)
def test_sizes(name, tmp_path):
    study = STUDIES[name]
    language_model = str(save_language_model(tmp_path, contractions="split")) if name == "pretraining" else None

    def reviews(preset, **given):
        plan = planned(study, preset, given, pretrained=language_model)
        return {experiment.reviews for experiments in plan.values() for experiment in experiments}

    assert reviews("default") == {study.base.get("reviews")}
    assert reviews("default", reviews=500, data="mine.npz") == {500}
    assert reviews("default", data="mine.npz") == {None}, "all of one's own"
    assert reviews("paper") == {None}, "all"


def test_quick_lengths_are_those_of_sentences():
    plan = planned(STUDIES["length"], "quick")
    lengths = [(e.maxlen, e.variable_length) for e, *_ in plan.values()]
    assert lengths == [(5, False), (20, False), (40, False), (60, True)]
    (first, *_), *_ = planned(STUDIES["dropout"], "quick").values()
    assert (first.maxlen, first.variable_length) == (32, False)


def test_the_first_variant_is_always_there_and_seeds_can_be_chosen():
    plan = planned(STUDIES["dropout"], only=["Gal 0.5"], seeds=2)
    assert {variant: [e.seed for e in of_seeds] for variant, of_seeds in plan.items()} == {
        "nn.LSTM": [0, 1],
        "Gal 0.5": [0, 1],
    }
    assert len(planned(STUDIES["full-reviews"])["SemeniutaLSTM 0.3"]) == 1
    with pytest.raises(ValueError, match="only: expected some of 'nn.LSTM', .*, got 'Gal 7'"):
        planned(STUDIES["dropout"], only=["Gal 7"])


def test_full_reviews_are_those_of_the_committed_result():
    """bench/results/variable_length.json, which a program of its own trained before this was a study."""
    experiment = planned(STUDIES["full-reviews"], "paper")["SemeniutaLSTM 0.3"][0]
    file = Path(__file__).parents[2] / "bench" / "results" / "variable_length.json"
    settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    for name in ("data", "vectors", "maxlen", "embedding_dropout", "n_hidden", "batch_size", "learning_rate", "clip"):
        assert getattr(experiment, name) == settings[name], name
    assert (experiment.epochs, experiment.seed) == (settings["epochs"], settings["seed"])
    assert experiment.layer == f"{settings['layer']}:{settings['dropout']}"
    assert experiment.freeze_vectors is settings["freeze"] is False
    assert (experiment.reviews, experiment.validation, experiment.contractions) == (None, None, "split")
