"""The table of the noises against everything that has to agree with it, and the functions that read it."""

import inspect
import itertools

import pytest
import torch

from rnndrop_cuda import LSTM, LayerMasks, functional, mc_dropout, noises, ops, reference
from rnndrop_cuda.masks import cut
from rnndrop_cuda.noises import NOISES
from tests.problems import CONSTANTS, INPUTS

T, B, I, H = 3, 5, 4, 6
OPTIONS = [
    dict(zip(("mask_scope", "candidate_mask", "gate_masks"), values, strict=True))
    for values in itertools.product(noises.MASK_SCOPES, noises.CANDIDATE_MASKS, noises.GATE_MASKS)
]


def functional_parameters() -> list[str]:
    return list(inspect.signature(functional.lstm_layer).parameters)


def test_rows_are_the_fields_in_their_order() -> None:
    assert tuple(row.field for row in NOISES) == LayerMasks._fields


def test_keywords_and_arguments_are_there() -> None:
    keywords = inspect.signature(LSTM.__init__).parameters
    assert all(keywords[row.keyword].default == 0 for row in NOISES)
    for function, constants in (
        (functional.lstm_layer, noises.CONSTANTS),
        (reference.lstm_step, noises.MASKS),
    ):
        parameters = inspect.signature(function).parameters
        assert [name for name in parameters if name in noises.CONSTANTS] == list(constants)
    by_step = [name for name, row in noises.MASKS.items() if any("T" in shape for shape in row.shapes)]
    assert by_step == list(reference.BY_STEP)
    options = functional.LayerOptions.__annotations__
    assert [*INPUTS, *options, "return_states"] == functional_parameters()


@pytest.mark.skipif(bool(ops.WHY_NOT_LOADED), reason=ops.WHY_NOT_LOADED)
def test_order_is_the_ops() -> None:
    for op in (torch.ops.rnndrop.lstm_layer.default, torch.ops.rnndrop.lstm_layer_backward.default):
        names = [argument.name for argument in op._schema.arguments]
        assert names[: ops.N_TENSORS + 1] == [*noises.INPUTS, *noises.CONSTANTS, "reverse"]
    assert tuple(noises.CONSTANTS) == CONSTANTS
    assert tuple(noises.INPUTS) == (*INPUTS, "W_hr")


@pytest.mark.parametrize("p", [0.25, 1.0])
@pytest.mark.parametrize("row", NOISES, ids=lambda row: row.field)
def test_values_have_the_mean_that_they_should(row: noises.Noise, p: float) -> None:
    """1 where an entry is scaled, else the probability of a 1."""
    expected = {"c": 1 - p, "z_c": p, "z_h": p}.get(row.field, 1.0 if p < 1 else 0.0)
    assert row.expectation(p) == expected
    assert (row.expectation(p) == p) or not row.expected_in_eval


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("row", NOISES, ids=lambda row: row.field)
def test_drawn_alone_with_the_shape_of_the_table(row: noises.Noise, options: dict[str, str]) -> None:
    """One of those allowed; nothing else is drawn, and the layer takes it."""
    lstm = LSTM(I, H, 2, proj_size=2, **options, **{row.keyword: 0.5})
    assert mc_dropout.drops(lstm)
    for k, masks in enumerate(lstm.draw_masks(T, B)):
        sizes = noises.sizes_by_name(T, B, 2 if k else I, H, 2)
        drawn = {name: list(mask.shape) for name, mask in masks._asdict().items() if mask is not None}
        expected = {} if row.between_layers and k == 1 else {row.field: [sizes[s] for s in row.drawn_shape(lstm)]}
        assert drawn == expected
    assert row.drawn_shape(lstm) in row.shapes
    lstm(torch.zeros(T, B, I), masks=lstm.draw_masks(T, B))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_cut_gives_some_samples_their_masks(options: dict[str, str]) -> None:
    """Those rows of the batch get the results that they have in all of it."""
    lstm = LSTM(I, H, 2, dtype=torch.float64, **options, **{row.keyword: 0.5 for row in NOISES})
    x, masks = torch.randn(T, B, I, dtype=torch.float64), lstm.draw_masks(T, B)
    whole, _ = lstm(x, masks=masks)
    for rows in (slice(0, 2), slice(2, 5), slice(4, 5)):
        of_rows, _ = lstm(x[:, rows], masks=[cut(of_layer, rows, lstm) for of_layer in masks])
        torch.testing.assert_close(of_rows, whole[:, rows])
    assert cut(LayerMasks(), slice(1), lstm) == LayerMasks()
