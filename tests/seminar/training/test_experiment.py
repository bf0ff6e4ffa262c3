"""A study's run: the same one again gives the same figures."""

import torch

from rnndrop_cuda.seminar.training import experiment
from rnndrop_cuda.seminar.training.experiment import Experiment

TINY = {"vocab_size": 20, "n_hidden": 4, "batch_size": 16, "epochs": 2, "n_emb": 6}


def test_the_same_experiment_gives_the_same_figures(npz):
    what = Experiment(data=str(npz), unverified_data=True, maxlen=8, variable_length=True, layer="GalLSTM:0.5", **TINY)
    first, again = (experiment.train_and_score(what, what.load(), torch.device("cpu")) for _ in range(2))
    for of_first, of_again in zip(first.epochs, again.epochs, strict=True):
        assert {**of_first, "seconds": 0} == {**of_again, "seconds": 0}
