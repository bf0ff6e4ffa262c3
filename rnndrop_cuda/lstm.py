"""``LSTM``: nn.LSTM's contract with dropout inside the recurrence; ``GalLSTM`` and ``SemeniutaLSTM``, two presets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rnndrop_cuda.functional import BACKENDS, lstm_layer
from rnndrop_cuda.masks import LayerMasks, check_probability, dropout_mask

MASK_SCOPES = ("batch", "sample")
CANDIDATE_MASKS = ("step", "sequence")


class LSTM(nn.Module):
    r"""An LSTM layer like :class:`torch.nn.LSTM`, with dropout inside the recurrence at no cost in speed.

    .. math::
        \tilde x_t &= m_x \odot x_t \qquad \tilde h = m_h \odot h_{t-1} \\
        i, f, o &= \sigma(W_{ih} \tilde x_t + b_{ih} + W_{hh} \tilde h + b_{hh}) \qquad g = \tanh(\ldots) \\
        c_t &= f \odot c_{t-1} + i \odot (m_g \odot g) \\
        h_t &= o \odot \tanh(c_t)

    ``input_dropout`` and ``hidden_dropout`` draw :math:`m_x` and :math:`m_h`, once for the whole sequence: the
    variational dropout of Gal & Ghahramani (arXiv 1512.05287). ``candidate_dropout`` draws :math:`m_g`: the
    recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165). They may be combined. Dropout acts in
    training only. The returned h is not masked.

    Parameters, their names, order, shapes and initialisation are nn.LSTM's, so that a ``state_dict`` goes both ways
    and the same seed gives the same weights.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: 1; more layers are not there yet.
        bias: whether there are ``bias_ih_l0`` and ``bias_hh_l0``.
        batch_first: input and output are ``[B, T, ...]`` instead of ``[T, B, ...]``.
        device, dtype: of the parameters.
        input_dropout: probability of dropping a unit of the input.
        hidden_dropout: probability of dropping a unit of h on its way into the next step.
        candidate_dropout: probability of dropping a unit of the candidate g.
        mask_scope: ``"batch"`` draws one :math:`m_x` and :math:`m_h` for the whole batch, as masking the weights
            does; ``"sample"`` draws one for each sample, as Gal's code and Keras do: less variance between steps of
            training, but a product more to compute.
        candidate_mask: ``"step"`` draws a fresh :math:`m_g` for every step and sample; ``"sequence"`` keeps one for
            all steps, of the scope that mask_scope says.
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"python"``, see :func:`rnndrop_cuda.functional.lstm_layer`.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is not positive, a probability is not in [0, 1], or a name is none of those above.
        NotImplementedError: num_layers is not 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        mask_scope: str = "batch",
        candidate_mask: str = "step",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, size, least in (("input_size", input_size, 0), ("hidden_size", hidden_size, 1)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{name}: expected an int, got {type(size).__name__}")
            if size < least:
                raise ValueError(f"{name}: expected at least {least}, got {size}")
        if num_layers != 1:
            raise NotImplementedError(f"num_layers: only 1 is implemented, got {num_layers!r}")
        _check_choice("mask_scope", mask_scope, MASK_SCOPES)
        _check_choice("candidate_mask", candidate_mask, CANDIDATE_MASKS)
        _check_choice("backend", backend, BACKENDS)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.input_dropout = check_probability("input_dropout", input_dropout)
        self.hidden_dropout = check_probability("hidden_dropout", hidden_dropout)
        self.candidate_dropout = check_probability("candidate_dropout", candidate_dropout)
        self.mask_scope = mask_scope
        self.candidate_mask = candidate_mask
        self.backend = backend

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.weight_ih_l0 = parameter(4 * hidden_size, input_size)
        self.weight_hh_l0 = parameter(4 * hidden_size, hidden_size)
        if bias:
            self.bias_ih_l0 = parameter(4 * hidden_size)
            self.bias_hh_l0 = parameter(4 * hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from uniform(-1/sqrt(H), 1/sqrt(H)), as nn.LSTM does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "bias": True, "batch_first": False, "input_dropout": 0.0, "hidden_dropout": 0.0,
            "candidate_dropout": 0.0, "mask_scope": "batch", "candidate_mask": "step", "backend": "auto",
        }  # fmt: skip
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value!r}")
        return ", ".join(parts)

    def draw_masks(self, T: int, B: int, generator: torch.Generator | None = None) -> list[LayerMasks]:
        """The masks that a forward in training would draw for T steps and a batch of B: one entry a layer.

        They are on the parameters' device and in their dtype. A dropout of 0 draws nothing.
        """
        like = self.weight_hh_l0

        def draw(p: float, *shape: int) -> Tensor | None:
            if p == 0:
                return None
            return dropout_mask(shape, p, dtype=like.dtype, device=like.device, generator=generator)

        batch = () if self.mask_scope == "batch" else (B,)
        g_shape = (T, B) if self.candidate_mask == "step" else batch
        return [
            LayerMasks(
                x=draw(self.input_dropout, *batch, self.input_size),
                h=draw(self.hidden_dropout, *batch, self.hidden_size),
                g=draw(self.candidate_dropout, *g_shape, self.hidden_size),
            )
        ]

    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        masks: Sequence[LayerMasks] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the layer over a sequence.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` with batch_first, or ``[T, I]`` for a single unbatched sequence.
            hx: ``(h_0, c_0)``, each ``[1, B, H]`` (``[1, H]`` unbatched); zeros when absent.
            masks: one :class:`~rnndrop_cuda.masks.LayerMasks` a layer to use instead of drawing them, in training
                and in eval alike. Shapes as :func:`rnndrop_cuda.functional.lstm_layer` says.

        Returns:
            ``output, (h_n, c_n)``: output is ``[T, B, H]`` (or as the input's form), h_n and c_n as hx.

        Raises:
            TypeError: input or hx is not of a type said above.
            ValueError: input is not 2-D or 3-D, dtypes differ, or masks has the wrong number of entries.
            RuntimeError: a size does not fit.
        """
        if not isinstance(input, Tensor):
            raise TypeError(f"input: expected a Tensor, got {type(input).__name__}")
        if input.dim() not in (2, 3):
            raise ValueError(f"input: expected 2-D (unbatched) or 3-D (batched), got {input.dim()}-D")
        if input.size(-1) != self.input_size:
            raise RuntimeError(f"input: expected size(-1) to be input_size={self.input_size}, got {input.size(-1)}")
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        T, B = x.shape[0], x.shape[1]

        h_0, c_0 = self._initial_state(x, hx, batched)
        if masks is None:
            masks = self.draw_masks(T, B) if self.training else [LayerMasks()]
        if len(masks) != 1:
            raise ValueError(f"masks: expected one LayerMasks a layer, that is 1, got {len(masks)}")
        mask_x, mask_h, mask_g = masks[0]
        y, h_n, c_n = lstm_layer(
            x,
            h_0,
            c_0,
            self.weight_ih_l0,
            self.weight_hh_l0,
            self.bias_ih_l0 if self.bias else None,
            self.bias_hh_l0 if self.bias else None,
            mask_x=mask_x,
            mask_h=mask_h,
            mask_g=mask_g,
            backend=self.backend,
        )
        if not batched:
            return y.squeeze(1), (h_n, c_n)
        if self.batch_first:
            y = y.transpose(0, 1)
        return y, (h_n.unsqueeze(0), c_n.unsqueeze(0))

    def _initial_state(self, x: Tensor, hx: tuple[Tensor, Tensor] | None, batched: bool) -> tuple[Tensor, Tensor]:
        """``(h_0, c_0)``, each ``[B, H]``."""
        B, H = x.shape[1], self.hidden_size
        if hx is None:
            zeros = x.new_zeros(B, H)
            return zeros, zeros
        if not isinstance(hx, (tuple, list)) or len(hx) != 2 or not all(isinstance(state, Tensor) for state in hx):
            raise TypeError(f"hx: expected a pair of tensors (h_0, c_0), got {type(hx).__name__}")
        expected = [1, B, H] if batched else [1, H]
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if list(state.shape) != expected:
                raise RuntimeError(f"hx: expected {name} of shape {expected}, got {list(state.shape)}")
        h_0, c_0 = hx
        return h_0.view(B, H) if batched else h_0, c_0.view(B, H) if batched else c_0


class GalLSTM(LSTM):
    """An LSTM with the variational dropout of Gal & Ghahramani (arXiv 1512.05287).

    d(x_t) and d(h_{t-1}): one mask on x and one on h, each with drop probability ``dropout``, the same at every
    step. The fused counterpart of the seminar's ``RNNLayer`` and ``FastRNNLayer``. Further keywords as :class:`LSTM`.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        p = check_probability("dropout", dropout)
        super().__init__(input_size, hidden_size, input_dropout=p, hidden_dropout=p, **kwargs)


class SemeniutaLSTM(LSTM):
    """An LSTM with the recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165).

    c_t = f * c_{t-1} + i * d(g): a fresh mask at every step, with drop probability ``dropout``. The fused
    counterpart of the seminar's ``MyLSTM``. Further keywords as :class:`LSTM`.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(input_size, hidden_size, candidate_dropout=check_probability("dropout", dropout), **kwargs)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")
