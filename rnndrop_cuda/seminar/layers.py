"""The seminar's recurrent layers, in plain torch: what the fused layers of this package are measured against.

Three ways to put dropout inside an LSTM, with the seminar's names and signatures:
  RNNLayer       a Python loop over nn.LSTMCell; Gal & Ghahramani's masks on x_t and h_{t-1}
  FastRNNLayer   the same dropout, by masking the columns of an nn.LSTM's weights
  MyLSTM         an LSTM written out; Semeniuta et al.'s dropout on the candidate g
Each returns what nn.LSTM returns, so the classifier can take each as its `rec_layer`. Each takes `masks` as
rnndrop_cuda.LSTM does, [LayerMasks(...)], so that different implementations can be given the same masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rnndrop_cuda.masks import LayerMasks, check_probability, dropout_mask

State = tuple[Tensor, Tensor]
Output = tuple[Tensor, State]


def init_h0_c0(num_objects: int, hidden_size: int, some_existing_tensor: Tensor) -> State:
    """Zero states h_0 and c_0, each [num_objects, hidden_size], with the tensor's device and dtype.

    num_objects: the batch size B, inp.shape[1] of a time-major input (the seminar's notebook mistakenly passes T).
    """
    h_0 = some_existing_tensor.new_zeros(num_objects, hidden_size)
    return h_0, torch.zeros_like(h_0)


def gen_dropout_mask(
    input_size: int, hidden_size: int, is_training: bool, p: float | None, some_existing_tensor: Tensor
) -> tuple[Tensor, Tensor]:
    """Masks of Gal & Ghahramani (arXiv 1512.05287) for one sequence, shared over batch and time.

    Returns mask_x [input_size] and mask_h [hidden_size] with the tensor's device and dtype: 0 with
    probability p, else 1 / (1 - p). All ones when not training or when p is 0 or None; all zeros when p is 1.
    Drawn with torch's global generator. Raises ValueError when p is not a probability.
    """
    p = _probability("p", p)
    like = some_existing_tensor
    if p == 0 or not is_training:  # draws nothing: an evaluation does not change the masks of later steps
        return like.new_ones(input_size), like.new_ones(hidden_size)
    mask_x = dropout_mask((input_size,), p, dtype=like.dtype, device=like.device)
    mask_h = dropout_mask((hidden_size,), p, dtype=like.dtype, device=like.device)
    return mask_x, mask_h


class RNNLayer(nn.Module):
    """LSTM as a loop over nn.LSTMCell with Gal & Ghahramani's dropout (arXiv 1512.05287)::

        h_t, c_t = LSTMCell(mask_x * x_t, (mask_h * h_{t-1}, c_{t-1}))      the same masks at every step

    The returned h_t is not masked: masks act where a value is used. Without dropout, the layer equals nn.LSTM.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        dropout: probability of dropping, for both masks; None is 0.

    Raises:
        ValueError: dropout is not a probability.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float | None = None) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.dropout = _probability("dropout", dropout)
        self.rnn_cell = nn.LSTMCell(input_size, hidden_size)

    def forward(self, inp: Tensor, hidden: State | None = None, *, masks: Sequence[LayerMasks] | None = None) -> Output:
        """inp [T, B, I], hidden (h_0, c_0) each [1, B, H] or None for zeros -> out [T, B, H], (h_n, c_n).

        masks: [LayerMasks(x=[I] or [B, I], h=[H] or [B, H])] to use, in training and in evaluation alike; None
        draws them with gen_dropout_mask. Raises ValueError on a wrong shape or another kind of mask.
        """
        h, c = _initial_state(inp, hidden, self.input_size, self.hidden_size)
        batch_size = inp.shape[1]
        if masks is None:
            mask_x, mask_h = gen_dropout_mask(self.input_size, self.hidden_size, self.training, self.dropout, inp)
        else:
            mask_x, mask_h = _given(masks, "x", "h")
            _check_shape("masks[0].x", mask_x, (self.input_size,), (batch_size, self.input_size))
            _check_shape("masks[0].h", mask_h, (self.hidden_size,), (batch_size, self.hidden_size))

        out = []
        for x_t in inp:
            h, c = self.rnn_cell(mask_x * x_t, (mask_h * h, c))
            out.append(h)
        return torch.stack(out), (h.unsqueeze(0), c.unsqueeze(0))

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, dropout={self.dropout}"


class FastRNNLayer(nn.Module):
    """RNNLayer's dropout at nn.LSTM's speed: a mask that the batch shares can act on the weights instead::

        W_ih (mask_x * x_t) = (W_ih * mask_x) x_t,    W_hh (mask_h * h_{t-1}) = (W_hh * mask_h) h_{t-1}

    so masking the columns of W_ih and W_hh before nn.LSTM's forward gives the same outputs and gradients. The
    raw weights remain the module's only parameters: the masked ones live for one forward call, so deepcopy,
    pickle, state_dict and optimizers see an ordinary module.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        dropout: probability of dropping, for both masks; None is 0.

    Raises:
        ValueError: dropout is not a probability.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float | None = 0) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.dropout = _probability("dropout", dropout)
        self.rnn = nn.LSTM(input_size, hidden_size)

    def forward(self, inp: Tensor, hidden: State | None = None, *, masks: Sequence[LayerMasks] | None = None) -> Output:
        """inp [T, B, I], hidden (h_0, c_0) each [1, B, H] or None for zeros -> out [T, B, H], (h_n, c_n).

        masks: [LayerMasks(x=[I], h=[H])] to use, in training and in evaluation alike; None draws them with
        gen_dropout_mask. Raises ValueError on another kind of mask or a wrong shape: one mask per sample cannot act
        on weights that all samples share.
        """
        if masks is None:
            mask_x, mask_h = gen_dropout_mask(self.input_size, self.hidden_size, self.training, self.dropout, inp)
        else:
            mask_x, mask_h = _given(masks, "x", "h")
            _check_shape("masks[0].x", mask_x, (self.input_size,))
            _check_shape("masks[0].h", mask_h, (self.hidden_size,))
        W_ih, W_hh, _, _ = lstm_weights(self.rnn)
        masked_weights = {"weight_ih_l0": W_ih * mask_x, "weight_hh_l0": W_hh * mask_h}
        return functional_call(self.rnn, masked_weights, (inp, hidden))

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


class MyLSTM(nn.Module):
    """LSTM written out, with dropout on the candidate (Semeniuta, Severyn & Barth, COLING 2016, C16-1165)::

        i, f, o = sigmoid(input_weights(x_t) + hidden_weights(h_{t-1})),    g = tanh(...)
        c_t = f * c_{t-1} + i * (mask_g * g)                                a fresh mask at every step
        h_t = o * tanh(c_t)

    Parameters are initialised as in PyTorch's LSTM: uniform(-1/sqrt(H), 1/sqrt(H)).

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        dropout: probability of dropping an element of g; None is 0.

    Raises:
        ValueError: dropout is not a probability.
    """

    def __init__(self, input_size: int, hidden_size: int, dropout: float | None = 0.4) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.dropout = _probability("dropout", dropout)
        self.input_weights = nn.Linear(input_size, 4 * hidden_size)
        self.hidden_weights = nn.Linear(hidden_size, 4 * hidden_size)
        self.reset_params()

    def reset_params(self) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inp: Tensor, hidden: State | None = None, *, masks: Sequence[LayerMasks] | None = None) -> Output:
        """inp [T, B, I], hidden (h_0, c_0) each [1, B, H] or None for zeros -> out [T, B, H], (h_n, c_n).

        masks: [LayerMasks(g=[T, B, H], [B, H] or [H])] to use, in training and in evaluation alike; None draws
        a fresh mask at every step. Raises ValueError on a wrong shape or another kind of mask.
        """
        h, c = _initial_state(inp, hidden, self.input_size, self.hidden_size)
        length, batch_size, _ = inp.shape
        mask_g: Tensor | None = None
        if masks is not None:
            (mask_g,) = _given(masks, "g")
            per_sample = (batch_size, self.hidden_size)
            _check_shape("masks[0].g", mask_g, (self.hidden_size,), per_sample, (length, *per_sample))
            mask_g = mask_g.expand(length, *per_sample)

        out = []
        for t, x_gates in enumerate(self.input_weights(inp)):  # one GEMM serves every step's input
            i_pre, f_pre, g_pre, o_pre = (x_gates + self.hidden_weights(h)).chunk(4, dim=-1)
            i, f, o = torch.sigmoid(i_pre), torch.sigmoid(f_pre), torch.sigmoid(o_pre)
            g = torch.tanh(g_pre)
            g = F.dropout(g, self.dropout, self.training) if mask_g is None else mask_g[t] * g
            c = f * c + i * g
            h = o * torch.tanh(c)
            out.append(h)
        return torch.stack(out), (h.unsqueeze(0), c.unsqueeze(0))

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


def lstm_weights(layer: nn.Module) -> list[Tensor]:
    """[W_ih [4H, I], W_hh [4H, H], b_ih [4H], b_hh [4H]] of any one-layer LSTM of this package or of torch.

    The common order lets two different implementations start from the same weights.
    """
    if isinstance(layer, MyLSTM):
        ih, hh = layer.input_weights, layer.hidden_weights
        return [ih.weight, hh.weight, ih.bias, hh.bias]
    return list(layer.parameters())  # nn.LSTM's own order, which nn.LSTMCell and rnndrop_cuda.LSTM keep


def _initial_state(inp: Tensor, hidden: State | None, input_size: int, hidden_size: int) -> State:
    if inp.dim() != 3 or inp.shape[0] == 0 or inp.shape[2] != input_size:
        raise ValueError(f"inp: expected [T, B, {input_size}] with T >= 1, got {list(inp.shape)}")
    batch_size = inp.shape[1]
    if hidden is None:
        return init_h0_c0(batch_size, hidden_size, inp)
    h_0, c_0 = hidden
    _check_shape("hidden[0]", h_0, (1, batch_size, hidden_size))
    _check_shape("hidden[1]", c_0, (1, batch_size, hidden_size))
    return h_0[0], c_0[0]


def _check_shape(name: str, tensor: Tensor, *allowed: Sequence[int]) -> None:
    if tuple(tensor.shape) not in allowed:
        expected = " or ".join(str(list(shape)) for shape in allowed)
        raise ValueError(f"{name}: expected shape {expected}, got {list(tensor.shape)}")


def _probability(name: str, p: float | None) -> float:
    return 0.0 if p is None else check_probability(name, p)


def _given(masks: Sequence[LayerMasks], *kinds: str) -> list[Tensor]:
    """The masks of these kinds: all of them must be there, and no others."""
    if len(masks) != 1:
        raise ValueError(f"masks: expected one LayerMasks, got {len(masks)}")
    given = [kind for kind, mask in masks[0]._asdict().items() if mask is not None]
    if given != list(kinds):
        raise ValueError(
            f"masks[0]: expected the masks {', '.join(kinds)} and no others, got {', '.join(given) or 'none'}"
        )
    return [getattr(masks[0], kind) for kind in kinds]
