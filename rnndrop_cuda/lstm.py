"""``LSTM``: nn.LSTM's contract with dropout inside the recurrence; ``GalLSTM`` and ``SemeniutaLSTM``, two presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from rnndrop_cuda.functional import BACKENDS, lstm_layer
from rnndrop_cuda.masks import LayerMasks, check_probability, dropout_mask

MASK_SCOPES = ("batch", "sample")
CANDIDATE_MASKS = ("step", "sequence")
State = tuple[Tensor, Tensor]


class LSTM(nn.RNNBase):
    r"""An LSTM like :class:`torch.nn.LSTM`, with dropout inside the recurrence at no cost in speed.

    .. math::
        \tilde x_t &= m_x \odot x_t \qquad \tilde h = m_h \odot h_{t-1} \\
        i, f, o &= \sigma(W_{ih} \tilde x_t + b_{ih} + W_{hh} \tilde h + b_{hh}) \qquad g = \tanh(\ldots) \\
        c_t &= f \odot c_{t-1} + i \odot (m_g \odot g) \\
        h_t &= o \odot \tanh(c_t)

    ``input_dropout`` and ``hidden_dropout`` draw :math:`m_x` and :math:`m_h`, once for the whole sequence: the
    variational dropout of Gal & Ghahramani (arXiv 1512.05287). ``candidate_dropout`` draws :math:`m_g`: the
    recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165). They may be combined, with each other and
    with ``dropout`` between layers. Every layer and direction draws masks of its own. Dropout acts in training only.
    The returned h is not masked.

    Parameters, their names, order, shapes and initialisation are nn.LSTM's, so that a ``state_dict`` goes both ways
    and the same seed gives the same weights. So are the positional arguments, the checks, the errors and the warnings.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: layers, each on the output of the one below.
        bias: whether there are ``bias_ih_l0`` and ``bias_hh_l0`` ...
        batch_first: input and output are ``[B, T, ...]`` instead of ``[T, B, ...]``.
        dropout: probability of dropping in nn.LSTM's own dropout, on the output of each layer but the last.
        bidirectional: a second direction in each layer, from the last step to the first; outputs are concatenated.
        proj_size: 0; projections are not there yet.
        device, dtype: of the parameters.
        input_dropout: probability of dropping a unit of a layer's input.
        hidden_dropout: probability of dropping a unit of h on its way into the next step.
        candidate_dropout: probability of dropping a unit of the candidate g.
        mask_scope: ``"batch"`` draws one :math:`m_x` and :math:`m_h` for the whole batch, as masking the weights
            does; ``"sample"`` draws one for each sample, as Gal's code and Keras do: less variance between steps of
            training, but a product more to compute.
        candidate_mask: ``"step"`` draws a fresh :math:`m_g` for every step and sample; ``"sequence"`` keeps one for
            all steps, of the scope that mask_scope says.
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"python"``, see :func:`rnndrop_cuda.functional.lstm_layer`.

    Raises:
        TypeError: a size or a flag is not of its type.
        ValueError: a size is not positive, a probability is not in [0, 1], or a name is none of those above.
        NotImplementedError: proj_size is not 0.
    """

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
        *,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        mask_scope: str = "batch",
        candidate_mask: str = "step",
        backend: str = "auto",
    ) -> None:
        if proj_size:
            raise NotImplementedError(f"proj_size: only 0 is implemented, got {proj_size!r}")
        _check_choice("mask_scope", mask_scope, MASK_SCOPES)
        _check_choice("candidate_mask", candidate_mask, CANDIDATE_MASKS)
        _check_choice("backend", backend, BACKENDS)
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.input_dropout = check_probability("input_dropout", input_dropout)
        self.hidden_dropout = check_probability("hidden_dropout", hidden_dropout)
        self.candidate_dropout = check_probability("candidate_dropout", candidate_dropout)
        self.mask_scope = mask_scope
        self.candidate_mask = candidate_mask
        self.backend = backend

    @staticmethod
    def from_torch(lstm: nn.LSTM, **ours: Any) -> LSTM:
        """An LSTM with the sizes, options, weights, device, dtype and mode of an nn.LSTM, and our keywords.

        Raises:
            TypeError: lstm is not an nn.LSTM, or a keyword is unknown.
        """
        if not isinstance(lstm, nn.LSTM):
            raise TypeError(f"lstm: expected an nn.LSTM, got {type(lstm).__name__}")
        copy = LSTM(*_torch_arguments(lstm), **ours)
        copy.load_state_dict(lstm.state_dict())
        return copy.train(lstm.training)

    def to_torch(self) -> nn.LSTM:
        """The nn.LSTM with the same sizes, options, weights, device, dtype and mode; dropout inside is lost."""
        copy = nn.LSTM(*_torch_arguments(self))
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def flatten_parameters(self) -> None:
        """Nothing: the kernels take every weight where it lies. There for code written for nn.LSTM."""

    def extra_repr(self) -> str:
        defaults = {
            "input_dropout": 0.0, "hidden_dropout": 0.0, "candidate_dropout": 0.0, "mask_scope": "batch",
            "candidate_mask": "step", "backend": "auto",
        }  # fmt: skip
        ours = [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join([super().extra_repr(), *ours])

    def draw_masks(self, T: int, B: int, generator: torch.Generator | None = None) -> list[LayerMasks]:
        """The masks that a forward in training would draw for T steps and a batch of B.

        One entry for each layer and direction, in the order of the parameters; on their device and in their dtype. A
        dropout of 0 draws nothing.
        """
        like: Tensor = self.all_weights[0][1]
        batch = () if self.mask_scope == "batch" else (B,)
        g_shape = (T, B) if self.candidate_mask == "step" else batch

        def draw(p: float, *shape: int) -> Tensor | None:
            if p == 0:
                return None
            return dropout_mask(shape, p, dtype=like.dtype, device=like.device, generator=generator)

        return [
            LayerMasks(
                x=draw(self.input_dropout, *batch, weights[0].shape[1]),
                h=draw(self.hidden_dropout, *batch, self.hidden_size),
                g=draw(self.candidate_dropout, *g_shape, self.hidden_size),
            )
            for weights in self.all_weights
        ]

    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: State | None = None, *, masks: Sequence[LayerMasks] | None = None
    ) -> tuple[PackedSequence, State]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the layers over a sequence.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` with batch_first, ``[T, I]`` for a single unbatched sequence, or a
                PackedSequence.
            hx: ``(h_0, c_0)``, each ``[D * num_layers, B, H]`` (``[D * num_layers, H]`` unbatched), D=2 where
                bidirectional, else 1; zeros when absent. In the caller's order also where the input is packed.
            lengths: int64 ``[B]`` on any device, or a list; each in [0, T]. Past its length a sample's state is
                carried unchanged and the output is 0, in both directions, so that h_n and c_n are those of its own
                end. Not together with a PackedSequence, which has its own.
            masks: one :class:`~rnndrop_cuda.masks.LayerMasks` for each layer and direction to use instead of drawing
                them, in training and in eval alike. Shapes as :func:`rnndrop_cuda.functional.lstm_layer` says.

        Returns:
            ``output, (h_n, c_n)``: output is ``[T, B, D * H]``, or of the input's form; h_n and c_n are as hx.

        Raises:
            TypeError: input, hx or lengths is not of a type said above.
            ValueError: input is not 2-D or 3-D, dtypes differ, a length is out of range, or masks has the wrong number
                of entries.
            RuntimeError: a size does not fit.
        """
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected none with a PackedSequence, which has its own")
            return self._forward_packed(input, hx, masks)
        if not isinstance(input, Tensor):
            raise TypeError(f"input: expected a Tensor or a PackedSequence, got {type(input).__name__}")
        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        batch_dim = 0 if self.batch_first else 1
        x = input if batched else input.unsqueeze(batch_dim)
        _check_hx(hx, 3 if batched else 2)
        if hx is not None and not batched:
            hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        if hx is None:
            hx = self._zeros(x, x.shape[batch_dim])
        self._check_sizes(x, x.shape[batch_dim], hx, None)

        if self.batch_first:
            x = x.transpose(0, 1)
        y, (h_n, c_n) = self._run(x, hx, _lengths_of(x, lengths), masks)
        if self.batch_first:
            y = y.transpose(0, 1)
        if batched:
            return y, (h_n, c_n)
        return y.squeeze(batch_dim), (h_n.squeeze(1), c_n.squeeze(1))

    def _forward_packed(
        self, input: PackedSequence, hx: State | None, masks: Sequence[LayerMasks] | None
    ) -> tuple[PackedSequence, State]:
        """Padded, in the caller's order, run with lengths, and packed again as it came."""
        x, lengths = pad_packed_sequence(input)
        _check_hx(hx, 3)
        if hx is None:
            hx = self._zeros(x, x.shape[1])
        self._check_sizes(input.data, x.shape[1], hx, input.batch_sizes)
        y, state = self._run(x, hx, lengths.to(x.device), masks)
        if input.sorted_indices is not None:
            y, lengths = y.index_select(1, input.sorted_indices), lengths[input.sorted_indices.cpu()]
        data, batch_sizes = torch._VF._pack_padded_sequence(y, lengths, False)
        return PackedSequence(data, batch_sizes, input.sorted_indices, input.unsorted_indices), state

    def _check_sizes(self, input: Tensor, B: int, hx: State, batch_sizes: Tensor | None) -> None:
        """nn.LSTM's checks, with its messages; also of hx where the input is packed, which nn.LSTM misses."""
        self.check_input(input, batch_sizes)
        for k, state in enumerate(hx):
            expected = (len(self.all_weights), B, self.hidden_size)
            self.check_hidden_size(state, expected, f"Expected hidden[{k}] size {{}}, got {{}}")

    def _zeros(self, x: Tensor, B: int) -> State:
        zeros = x.new_zeros(len(self.all_weights), B, self.hidden_size)
        return zeros, zeros

    def _run(
        self, x: Tensor, hx: State, lengths: Tensor | None, masks: Sequence[LayerMasks] | None
    ) -> tuple[Tensor, State]:
        """The stack over x [T, B, I]; hx is checked. Under autocast everything is computed in its dtype."""
        T, B = x.shape[0], x.shape[1]
        runs = len(self.all_weights)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype

        def cast(tensor: Any) -> Any:
            return None if tensor is None else tensor.to(dtype)

        if masks is None:
            masks = self.draw_masks(T, B) if self.training else [LayerMasks()] * runs
        if len(masks) != runs:
            raise ValueError(f"masks: expected one LayerMasks a layer and direction, that is {runs}, got {len(masks)}")
        directions = 2 if self.bidirectional else 1
        final_h, final_c = [], []
        for layer in range(self.num_layers):
            if layer > 0 and self.training and self.dropout > 0:
                x = x * dropout_mask(x.shape, self.dropout, dtype=x.dtype, device=x.device)
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                mask_x, mask_h, mask_g = masks[k]
                y, h_n, c_n = lstm_layer(
                    *map(cast, (x, hx[0][k], hx[1][k], *self.all_weights[k])),
                    mask_x=cast(mask_x), mask_h=cast(mask_h), mask_g=cast(mask_g),
                    lengths=lengths, reverse=direction == 1, backend=self.backend,
                )  # fmt: skip
                outputs.append(y)
                final_h.append(h_n)
                final_c.append(c_n)
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        return x, (torch.stack(final_h), torch.stack(final_c))


class GalLSTM(LSTM):
    """An LSTM with the variational dropout of Gal & Ghahramani (arXiv 1512.05287).

    d(x_t) and d(h_{t-1}): one mask on x and one on h, each with drop probability ``dropout``, the same at every
    step. The fused counterpart of the seminar's ``RNNLayer`` and ``FastRNNLayer``. Further keywords as :class:`LSTM`,
    but for nn.LSTM's dropout between layers.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        p = check_probability("dropout", dropout)
        super().__init__(input_size, hidden_size, input_dropout=p, hidden_dropout=p, **kwargs)


class SemeniutaLSTM(LSTM):
    """An LSTM with the recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165).

    c_t = f * c_{t-1} + i * d(g): a fresh mask at every step, with drop probability ``dropout``. The fused
    counterpart of the seminar's ``MyLSTM``. Further keywords as :class:`LSTM`, but for nn.LSTM's dropout between
    layers.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(input_size, hidden_size, candidate_dropout=check_probability("dropout", dropout), **kwargs)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _torch_arguments(lstm: nn.RNNBase) -> tuple[Any, ...]:
    """nn.LSTM's positional arguments, read off a module."""
    like: Tensor = lstm.all_weights[0][0]
    return (
        lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.bias, lstm.batch_first, lstm.dropout,
        lstm.bidirectional, lstm.proj_size, like.device, like.dtype,
    )  # fmt: skip


def _check_hx(hx: State | None, dim: int) -> None:
    """That hx is a pair of tensors of the input's kind; their sizes are nn.LSTM's to check."""
    if hx is None:
        return
    if not isinstance(hx, (tuple, list)) or len(hx) != 2 or not all(isinstance(state, Tensor) for state in hx):
        raise TypeError(f"hx: expected a pair of tensors (h_0, c_0), got {type(hx).__name__}")
    if any(state.dim() != dim for state in hx):
        kind = "batched 3-D" if dim == 3 else "unbatched 2-D"
        raise RuntimeError(
            f"For {kind} input, hx and cx should also be {dim}-D but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
        )


def _lengths_of(x: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor | None:
    """lengths as int64 on x's device."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    return lengths.to(device=x.device, dtype=torch.int64)
