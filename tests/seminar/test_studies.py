"""The studies' plans: sizes, seeds, and what is changed of each variant."""

import pytest

from rnndrop_cuda.seminar.studies import STUDIES, planned


@pytest.mark.parametrize("name", STUDIES)
def test_sizes(name):
    study = STUDIES[name]

    def reviews(preset, **given):
        plan = planned(study, preset, given)
        return {experiment.reviews for experiments in plan.values() for experiment in experiments}

    assert reviews("default") == {study.base.get("reviews")}
    assert reviews("default", reviews=500, data="mine.npz") == {500}
    assert reviews("default", data="mine.npz") == {None}, "all of one's own"
    assert reviews("paper") == {None}, "all"
