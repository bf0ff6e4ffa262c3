"""GalLSTM and SemeniutaLSTM in the place of nn.LSTM: the same positions, and one dropout, the one inside."""

import pickle

import pytest
import torch
from torch import nn

from rnndrop_cuda import LSTM, GalLSTM, SemeniutaLSTM, to_torch
from tests.modules import B, H, I, T, assert_same, normal

PRESETS = pytest.mark.parametrize(
    ("preset", "keywords"),
    [(GalLSTM, ("input_dropout", "hidden_dropout")), (SemeniutaLSTM, ("candidate_dropout",))],
)


@PRESETS
def test_positions_are_nn_lstms(preset, keywords):
    arguments = (I, H, 2, False, True, 0.5, True)
    theirs, ours = nn.LSTM(*arguments), preset(*arguments)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.num_layers == 2 and ours.batch_first
    assert [getattr(ours, keyword) for keyword in keywords] == [0.5] * len(keywords)
    assert preset(I, H, 1).dropout == 0, "one layer, not everything dropped"


@PRESETS
def test_a_dropout_in_the_third_place_is_refused_with_a_hint(preset, keywords):
    with pytest.raises(TypeError, match=r"num_layers: expected an int.*dropout=0\.5\)"):
        preset(I, H, 0.5)
    for wrong in (2, True):
        with pytest.raises(ValueError, match="dropout: expected a probability"):
            preset(I, H, dropout=wrong)
    with pytest.raises(TypeError, match=f"{keywords[0]}: expected none"):
        preset(I, H, dropout=0.5, **{keywords[0]: 0.25})


@PRESETS
def test_dropout_reads_and_sets_the_dropout_inside(preset, keywords):
    layer = preset(I, H, 2, dropout=0.5)
    assert layer.dropout == 0.5
    assert all(masks.y is None for masks in layer.draw_masks(T, B)), "none between the layers"
    layer.dropout = 0.0
    assert [getattr(layer, keyword) for keyword in keywords] == [0.0] * len(keywords)
    assert_same(layer(x := torch.randn(T, B, I)), layer.eval()(x))
    with pytest.raises(ValueError, match="dropout: expected a probability"):
        layer.dropout = 1.5
    layer.dropout = 0.25
    assert pickle.loads(pickle.dumps(layer)).dropout == 0.25
    assert repr(layer) == f"{preset.__name__}(4, 6, num_layers=2, dropout=0.25)"
    for plain in (layer.to_torch(), to_torch(layer)):
        assert type(plain) is nn.LSTM and plain.dropout == 0


@PRESETS
def test_from_torch_keeps_the_class_and_its_dropout(preset, keywords):
    theirs = nn.LSTM(I, H, 2, bidirectional=True, dtype=torch.float64).eval()
    ours = preset.from_torch(theirs, dropout=0.5)
    assert type(ours) is preset and ours.dropout == 0.5 and not ours.training
    assert_same(ours(x := normal(T, B, I)), theirs(x))
    with pytest.raises(TypeError, match="batch_first"):
        preset.from_torch(theirs, batch_first=True)
    theirs.dropout = 0.25
    with pytest.raises(ValueError, match="expected no dropout between the layers.*LSTM.from_torch keeps it"):
        preset.from_torch(theirs, dropout=0.5)
    assert LSTM.from_torch(theirs, **dict.fromkeys(keywords, 0.5)).dropout == 0.25
