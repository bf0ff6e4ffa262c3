"""``GalLSTM`` and ``SemeniutaLSTM``: an LSTM with one ``dropout``, inside the recurrence, as a paper has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rnndrop_cuda import checks
from rnndrop_cuda.like_torch import torch_options
from rnndrop_cuda.lstm import LSTM

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rnndrop_cuda.options import Options


class _Preset(LSTM):
    """A layer whose ``dropout`` is one inside the recurrence: nn.LSTM's, between the layers, is off."""

    _drops_between_layers = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Options],
    ) -> None:
        name = type(self).__name__
        if isinstance(num_layers, float):
            raise TypeError(
                f"num_layers: expected an int, as third argument too, got {num_layers!r}; a dropout goes by its name, "
                f"{name}({input_size}, {hidden_size}, dropout={num_layers!r})"
            )
        p = checks.check_probability("dropout", dropout)
        if both := [keyword for keyword in self._of_dropout if keyword in options]:
            raise TypeError(
                f"{both[0]}: expected none, since {name}'s dropout stands for it; LSTM takes each by itself"
            )
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, 0.0, bidirectional, proj_size, device, dtype,
            **options,
        )  # fmt: skip
        self.dropout = p

    @property
    def dropout(self) -> float:
        """The probability of dropping inside the recurrence, for reading and for setting."""
        p: float = getattr(self, self._of_dropout[0])
        return p

    @dropout.setter
    def dropout(self, p: float) -> None:
        for keyword in self._of_dropout:
            setattr(self, keyword, checks.check_probability("dropout", p))

    @classmethod
    def _options_of(cls, lstm: nn.LSTM) -> dict[str, Any]:
        if lstm.dropout and lstm.num_layers > 1:
            raise ValueError(
                f"lstm: expected no dropout between the layers, which {cls.__name__} has none of, got {lstm.dropout}; "
                "LSTM.from_torch keeps it, beside dropout inside"
            )
        return torch_options(lstm)


class GalLSTM(_Preset):
    """An LSTM with the variational dropout of Gal & Ghahramani (arXiv 1512.05287).

    One mask on x and one on h, h_t = LSTM(m_x * x_t, m_h * h_{t-1}), both drawn with probability ``dropout`` and kept
    for all steps: ``LSTM(..., input_dropout=p, hidden_dropout=p)``. The fused counterpart of the seminar's ``RNNLayer``
    and ``FastRNNLayer``.

    Args:
        dropout: probability of dropping; 0, the default, is no dropout. By keyword: the third position is num_layers.
        others: :class:`LSTM`'s, but for ``input_dropout``, ``hidden_dropout`` and a dropout between layers.

    Raises:
        TypeError: ``input_dropout`` or ``hidden_dropout`` is given, or a float where num_layers stands.
        ValueError: as :class:`LSTM`.
    """

    _of_dropout = ("input_dropout", "hidden_dropout")


class SemeniutaLSTM(_Preset):
    """An LSTM with the recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165).

    c_t = f * c_{t-1} + i * (m_g * g), m_g drawn anew at every step with probability ``dropout``:
    ``LSTM(..., candidate_dropout=p)``. The fused counterpart of the seminar's ``MyLSTM``.

    Args:
        dropout: probability of dropping; 0, the default, is no dropout. By keyword: the third position is num_layers.
        others: :class:`LSTM`'s, but for ``candidate_dropout`` and a dropout between layers.

    Raises:
        TypeError: ``candidate_dropout`` is given, or a float where num_layers stands.
        ValueError: as :class:`LSTM`.
    """

    _of_dropout = ("candidate_dropout",)
