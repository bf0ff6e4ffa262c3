"""The keywords of LSTM that nn.LSTM has not, for type checkers: the presets hand them on."""

from __future__ import annotations

from typing import Literal, TypedDict

MaskScope = Literal["batch", "sample"]
CandidateMask = Literal["step", "sequence"]
GateMasks = Literal["tied", "untied"]
Init = Literal["default", "orthogonal", "normal", "uniform"]
Backend = Literal["auto", "cuda", "cpu", "python"]


class Options(TypedDict, total=False):
    """LSTM's keywords, with its defaults."""

    input_dropout: float
    hidden_dropout: float
    candidate_dropout: float
    weight_dropout: float
    cell_dropout: float
    hidden_zoneout: float
    cell_zoneout: float
    mask_scope: MaskScope
    candidate_mask: CandidateMask
    gate_masks: GateMasks
    mc_dropout: bool
    learn_initial_state: bool
    init: Init
    forget_bias: float | None
    backend: Backend


class PresetOptions(Options, total=False):
    """And a preset's own."""

    dropout: float
