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

    d(x_t) and d(h_{t-1}): one mask on x and one on h, each with drop probability ``dropout``, the same at every
    step. The fused counterpart of the seminar's ``RNNLayer`` and ``FastRNNLayer``. The other arguments are those of
    :class:`LSTM`; there is no dropout between layers.
    """

    _of_dropout = ("input_dropout", "hidden_dropout")


class SemeniutaLSTM(_Preset):
    """An LSTM with the recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165).

    c_t = f * c_{t-1} + i * d(g): a fresh mask at every step, with drop probability ``dropout``. The fused counterpart
    of the seminar's ``MyLSTM``. The other arguments are those of :class:`LSTM`; there is no dropout between layers.
    """

    _of_dropout = ("candidate_dropout",)
