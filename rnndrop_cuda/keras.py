"""``keras.layers.LSTM`` on Keras' torch backend, with ``dropout`` and ``recurrent_dropout`` in one fused operator.

``dropout`` and ``recurrent_dropout`` are Gal & Ghahramani's, a mask for each sample; with ``recurrent_dropout`` a mask
for each gate too. Keras draws the masks itself, so that a seed drops the same units here and there.
"""

from __future__ import annotations

from typing import Any

import keras
import torch
from torch import Tensor

from rnndrop_cuda.functional import lstm_layer

if keras.backend.backend() != "torch":
    raise ImportError(
        f"rnndrop_cuda.keras needs Keras' torch backend, and Keras runs on {keras.backend.backend()}: set the "
        "environment variable KERAS_BACKEND=torch before keras is first imported"
    )


@keras.saving.register_keras_serializable(package="rnndrop_cuda")
class LSTM(keras.layers.LSTM):
    """keras.layers.LSTM with the same arguments, weights, masks and results; only the loop over the steps is fused.

    Weights, files and configurations go both ways. Where it differs: ``unroll``, ``use_cudnn`` and ``implementation``
    have no effect on the fused loop. Other activations than tanh and sigmoid, and a dropout of 1, take Keras' own loop.
    """

    def inner_loop(
        self, sequences: Tensor, initial_state: list[Tensor], mask: Any, training: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Keras' contract: the last output, every output ``[B, T, H]``, and the final state."""
        cell = self.cell
        if (
            cell.activation is not keras.activations.tanh
            or cell.recurrent_activation is not keras.activations.sigmoid
            or 1.0 in (cell.dropout, cell.recurrent_dropout)
        ):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        x = sequences.transpose(0, 1)
        present = _time_first(mask)
        if self.go_backwards:
            x, present = x.flip(0), present if present is None else present.flip(0)
        lengths = None
        if present is not None:
            lengths = present.sum(0)
            x = _each_step(x, (~present).to(torch.int8).argsort(dim=0, stable=True))
        h_0, c_0 = (state.clone() if self.stateful else state for state in initial_state)
        y, h_n, c_n = lstm_layer(
            x,
            h_0,
            c_0,
            self._weight(cell.kernel).t(),
            self._weight(cell.recurrent_kernel).t(),
            self._weight(cell.bias) if cell.use_bias else None,
            mask_x=_stacked(cell.get_dropout_mask(sequences[:, 0])) if training else None,
            mask_h=_stacked(cell.get_recurrent_dropout_mask(h_0)) if training else None,
            lengths=lengths,
        )
        if present is not None:
            steps = present.cumsum(0)
            y = _each_step(y, (steps - 1).clamp_min(0)) * (steps > 0).unsqueeze(-1)
            if self.zero_output_for_mask:
                y = y * present.unsqueeze(-1)
        return y[-1], y.transpose(0, 1), [h_n, c_n]

    def _weight(self, variable: Any) -> Tensor:
        weight: Tensor = keras.ops.convert_to_tensor(variable, dtype=self.compute_dtype)
        return weight


def _time_first(mask: Any) -> Tensor | None:
    """Which steps count, ``[T, B]``, from ``[B, T]``, which Keras may hand over in a list."""
    if isinstance(mask, (list, tuple)):
        mask = mask[0]
    return None if mask is None else keras.ops.convert_to_tensor(mask, dtype="bool").transpose(0, 1)


def _stacked(mask: Tensor | list[Tensor] | None) -> Tensor | None:
    """``[B, N]``, or ``[4, B, N]`` from one for each gate, which Keras has in our order."""
    return torch.stack(mask) if isinstance(mask, list) else mask


def _each_step(sequence: Tensor, steps: Tensor) -> Tensor:
    """``[T, B, N]``: at each step and sample, the sequence at the step that is named."""
    return sequence.gather(0, steps.unsqueeze(-1).expand(-1, -1, sequence.shape[-1]))
