"""``LSTM``: nn.LSTM's contract with dropout inside the recurrence; ``GalLSTM`` and ``SemeniutaLSTM``, two presets."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from rnndrop_cuda.functional import BACKENDS, LayerStates, lstm_layer
from rnndrop_cuda.masks import LayerMasks, check_probability, dropout_mask, noise

MASK_SCOPES = ("batch", "sample")
CANDIDATE_MASKS = ("step", "sequence")
GATE_MASKS = ("tied", "untied")
INITS = ("default", "orthogonal", "normal", "uniform")
# The probabilities of all that is drawn inside a layer, by the names of their arguments.
DROPOUTS_INSIDE = (
    "input_dropout", "hidden_dropout", "candidate_dropout", "weight_dropout", "cell_dropout", "hidden_zoneout",
    "cell_zoneout",
)  # fmt: skip
State = tuple[Tensor, Tensor]


class LSTM(nn.RNNBase):
    r"""An LSTM like :class:`torch.nn.LSTM`, with dropout inside the recurrence at no cost in speed.

    .. math::
        \tilde x_t &= m_x \odot x_t \qquad \tilde h = m_h \odot h_{t-1} \\
        i, f, o &= \sigma(W_{ih} \tilde x_t + b_{ih} + W_{hh} \tilde h + b_{hh}) \qquad g = \tanh(\ldots) \\
        \hat c_t &= m_c \odot (f \odot c_{t-1} + i \odot (m_g \odot g)) \qquad
        \hat h_t = o \odot \tanh(\hat c_t) \\
        c_t &= z_c \odot c_{t-1} + (1 - z_c) \odot \hat c_t \qquad
        h_t = z_h \odot h_{t-1} + (1 - z_h) \odot \hat h_t

    ``input_dropout`` and ``hidden_dropout`` draw :math:`m_x` and :math:`m_h`, once for the whole sequence: the
    variational dropout of Gal & Ghahramani (arXiv 1512.05287). ``candidate_dropout`` draws :math:`m_g`: the
    recurrent dropout of Semeniuta, Severyn & Barth (COLING 2016, C16-1165). ``weight_dropout`` puts
    :math:`m_w \odot W_{hh}` in the place of :math:`W_{hh}`, the same at every step: the DropConnect of AWD-LSTM
    (Merity, Keskar & Socher, arXiv 1708.02182, section 2); the parameter itself stays as it is. ``cell_dropout`` draws
    :math:`m_c`, 0 or 1, once for the whole sequence: RNNDrop (Moon, Choi, Lee & Song, ASRU 2015).
    ``cell_zoneout`` and ``hidden_zoneout`` draw :math:`z_c` and :math:`z_h`, 0 or 1, anew for each step and sample:
    zoneout (Krueger et al., arXiv 1606.01305, section 3); in eval both are their expectation, the probability.

    They may be combined, with each other and with ``dropout`` between layers. Every layer and direction draws masks of
    its own, anew at every forward. Dropout acts in training only, or with ``mc_dropout`` always. The returned h is not
    masked.

    Parameters, their names, order, shapes and initialisation are nn.LSTM's, so that a ``state_dict`` goes both ways
    and the same seed gives the same weights. So are the positional arguments, the checks, the errors and the warnings.
    With ``learn_initial_state`` there are two parameters more, ``h_0`` and ``c_0``, ``[D * num_layers, 1, P or H]``; a
    ``state_dict`` that has neither, as nn.LSTM's, sets both to the zeros that nn.LSTM begins with.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: layers, each on the output of the one below.
        bias: whether there are ``bias_ih_l0`` and ``bias_hh_l0`` ...
        batch_first: input and output are ``[B, T, ...]`` instead of ``[T, B, ...]``.
        dropout: probability of dropping in nn.LSTM's own dropout, on the output of each layer but the last.
        bidirectional: a second direction in each layer, from the last step to the first; outputs are concatenated.
        proj_size: where above 0, features of h, P: h_t = W_hr (o * tanh(c_t)), as in Sak et al. (arXiv 1402.1128).
            H otherwise. c keeps H.
        device, dtype: of the parameters.
        input_dropout: probability of dropping a unit of a layer's input.
        hidden_dropout: probability of dropping a unit of h on its way into the next step.
        candidate_dropout: probability of dropping a unit of the candidate g.
        weight_dropout: probability of dropping an entry of W_hh.
        cell_dropout: probability of dropping a cell for the whole sequence. A cell that is kept is not scaled: a
            factor of 1/(1-p) at every step would grow without bounds. In eval every cell is kept, so that h is larger
            on average than in training; :func:`rnndrop_cuda.mc_predict` averages over masks instead.
        hidden_zoneout, cell_zoneout: probability that a unit of h or of c stays as it was in a step.
        mask_scope: ``"batch"`` draws one :math:`m_x`, :math:`m_h` and :math:`m_c` for the whole batch, as masking the
            weights does; ``"sample"`` draws one for each sample, as Gal's code and Keras do: less variance between
            steps of training, but a product more to compute.
        candidate_mask: ``"step"`` draws a fresh :math:`m_g` for every step and sample; ``"sequence"`` keeps one for
            all steps, of the scope that mask_scope says.
        gate_masks: ``"tied"`` draws one :math:`m_x` and :math:`m_h` for all gates; ``"untied"`` one for each, as
            Gal's code and Keras do (Gal & Ghahramani, section 4.2, have both).
        mc_dropout: every dropout acts in eval too, for the Monte Carlo estimates of Gal & Ghahramani (arXiv
            1506.02142); :func:`rnndrop_cuda.mc_predict` makes them, and needs no such flag.
        learn_initial_state: where a call gives no hx, ``h_0`` and ``c_0`` are parameters, shared by the batch; zeros
            at the start.
        init: ``"default"`` draws every parameter from U(-1/sqrt(H), 1/sqrt(H)), as nn.LSTM. ``"orthogonal"`` then
            makes each gate's block of W_hh orthogonal (Saxe et al., arXiv 1312.6120), ``"normal"`` draws W_hh from
            N(0, 1). ``"uniform"`` draws every parameter from U(-0.05, 0.05) (Zaremba et al., arXiv 1409.2329, their
            medium LSTM).
        forget_bias: what the forget gate's two biases add up to at the start, whatever init is; 1 is the advice of
            Jozefowicz et al. (ICML 2015). None leaves them to init.
        backend: ``"auto"``, ``"cuda"``, ``"cpu"`` or ``"python"``, see :func:`rnndrop_cuda.functional.lstm_layer`.

    Raises:
        TypeError: a size or a flag is not of its type.
        ValueError: a size is not positive, a probability is not in [0, 1], a name is none of those above, or
            forget_bias is not finite or there are no biases.
    """

    h_0: nn.Parameter | None
    c_0: nn.Parameter | None

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
        weight_dropout: float = 0.0,
        cell_dropout: float = 0.0,
        hidden_zoneout: float = 0.0,
        cell_zoneout: float = 0.0,
        mask_scope: str = "batch",
        candidate_mask: str = "step",
        gate_masks: str = "tied",
        mc_dropout: bool = False,
        learn_initial_state: bool = False,
        init: str = "default",
        forget_bias: float | None = None,
        backend: str = "auto",
    ) -> None:
        _check_choice("mask_scope", mask_scope, MASK_SCOPES)
        _check_choice("candidate_mask", candidate_mask, CANDIDATE_MASKS)
        _check_choice("gate_masks", gate_masks, GATE_MASKS)
        _check_choice("init", init, INITS)
        _check_choice("backend", backend, BACKENDS)
        _check_flag("mc_dropout", mc_dropout)
        _check_flag("learn_initial_state", learn_initial_state)
        _check_forget_bias(forget_bias, bias)
        self.init = init  # before nn.RNNBase's constructor, which calls reset_parameters
        self.forget_bias = forget_bias
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            proj_size, device=device, dtype=dtype,
        )  # fmt: skip
        self.input_dropout = check_probability("input_dropout", input_dropout)
        self.hidden_dropout = check_probability("hidden_dropout", hidden_dropout)
        self.candidate_dropout = check_probability("candidate_dropout", candidate_dropout)
        self.weight_dropout = check_probability("weight_dropout", weight_dropout)
        self.cell_dropout = check_probability("cell_dropout", cell_dropout)
        self.hidden_zoneout = check_probability("hidden_zoneout", hidden_zoneout)
        self.cell_zoneout = check_probability("cell_zoneout", cell_zoneout)
        self.mask_scope = mask_scope
        self.candidate_mask = candidate_mask
        self.gate_masks = gate_masks
        self.mc_dropout = mc_dropout
        self.learn_initial_state = learn_initial_state
        self.backend = backend
        for name, size in (("h_0", self._h_size), ("c_0", hidden_size)):
            zeros = torch.zeros(self._runs, 1, size, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(zeros) if learn_initial_state else None)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, as ``init`` and ``forget_bias`` say; a learned initial state begins at zeros."""
        super().reset_parameters()
        H = self.hidden_size
        for name, parameter in self.named_parameters():
            if name in ("h_0", "c_0"):
                nn.init.zeros_(parameter)
            elif self.init == "uniform":
                nn.init.uniform_(parameter, -0.05, 0.05)
            elif self.init == "normal" and name.startswith("weight_hh"):
                nn.init.normal_(parameter)
            elif self.init == "orthogonal" and name.startswith("weight_hh"):
                for gate in parameter.split(H):
                    exact = torch.promote_types(gate.dtype, torch.float32)  # half precision has no QR
                    gate.copy_(nn.init.orthogonal_(torch.empty_like(gate, dtype=exact)))
            if self.forget_bias is not None and name.startswith("bias"):
                parameter[H : 2 * H] = self.forget_bias if name.startswith("bias_ih") else 0.0

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
        """The nn.LSTM with the same sizes, options, weights, device, dtype and mode; dropout inside is lost.

        Raises:
            ValueError: the initial state is learned, which nn.LSTM cannot hold.
        """
        if self.learn_initial_state:
            raise ValueError(
                "learn_initial_state: expected False, since nn.LSTM has no h_0 and c_0 of its own; got True"
            )
        copy = nn.LSTM(*_torch_arguments(self))
        copy.load_state_dict(self.state_dict())
        return copy.train(self.training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As every module, but that nn.LSTM's state, which has no h_0 and c_0, means its zeros."""
        names = [prefix + "h_0", prefix + "c_0"]
        if self.h_0 is not None and not any(name in state_dict for name in names):
            state_dict.update((name, torch.zeros_like(self.h_0)) for name in names)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def flatten_parameters(self) -> None:
        """Nothing: the kernels take every weight where it lies. There for code written for nn.LSTM."""

    def extra_repr(self) -> str:
        defaults = {
            **dict.fromkeys(DROPOUTS_INSIDE, 0.0), "mask_scope": "batch", "candidate_mask": "step",
            "gate_masks": "tied", "mc_dropout": False, "learn_initial_state": False, "init": "default",
            "forget_bias": None, "backend": "auto",
        }  # fmt: skip
        ours = [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join([super().extra_repr(), *ours])

    def draw_masks(self, T: int, B: int, generator: torch.Generator | None = None) -> list[LayerMasks]:
        """The masks that a forward with dropout on would draw for T steps and a batch of B.

        One entry for each layer and direction, in the order of the parameters; on their device and in their dtype. A
        dropout of 0 draws nothing.
        """
        like: Tensor = self.all_weights[0][1]
        batch = () if self.mask_scope == "batch" else (B,)
        per_gate = batch if self.gate_masks == "tied" else (4, 1 if self.mask_scope == "batch" else B)
        g_shape = (T, B) if self.candidate_mask == "step" else batch
        H, P = self.hidden_size, self._h_size
        below_the_last = (self.num_layers - 1) * self._directions

        options: dict[str, Any] = {"dtype": like.dtype, "device": like.device, "generator": generator}

        def draw(p: float, *shape: int) -> Tensor | None:
            return dropout_mask(shape, p, **options) if p else None

        def kept(p: float, *shape: int) -> Tensor | None:
            """1 where draw would keep."""
            return noise(shape, p, dropped=0.0, kept=1.0, **options) if p else None

        def stays(p: float, *shape: int) -> Tensor | None:
            """1 where draw would drop."""
            return noise(shape, p, dropped=1.0, kept=0.0, **options) if p else None

        return [
            LayerMasks(
                x=draw(self.input_dropout, *per_gate, weights[0].shape[1]),
                h=draw(self.hidden_dropout, *per_gate, P),
                g=draw(self.candidate_dropout, *g_shape, H),
                w=draw(self.weight_dropout, *weights[1].shape),
                y=draw(self.dropout if k < below_the_last else 0.0, T, B, P),
                c=kept(self.cell_dropout, *batch, H),
                z_c=stays(self.cell_zoneout, T, B, H),
                z_h=stays(self.hidden_zoneout, T, B, P),
            )
            for k, weights in enumerate(self.all_weights)
        ]

    def _eval_masks(self) -> list[LayerMasks]:
        """Nothing is dropped; zoneout is its expectation."""

        def expected(p: float, size: int) -> Tensor | None:
            return self.all_weights[0][1].new_full((size,), p) if p else None

        masks = LayerMasks(
            z_c=expected(self.cell_zoneout, self.hidden_size), z_h=expected(self.hidden_zoneout, self._h_size)
        )
        return [masks] * self._runs

    @property
    def _runs(self) -> int:
        """Layers times directions: how often lstm_layer is called, and the entries of all_weights, dear to ask for."""
        return self.num_layers * self._directions

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _h_size(self) -> int:
        return self.proj_size or self.hidden_size

    @overload
    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: Literal[False] = False,
        return_states: Literal[False] = False,
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: State | None = None,
        *,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: Literal[False] = False,
        return_states: Literal[False] = False,
    ) -> tuple[PackedSequence, State]: ...

    @overload
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: Literal[True],
        return_states: Literal[False] = False,
    ) -> tuple[Any, State, list[LayerMasks]]: ...

    @overload
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: bool = False,
        return_states: bool,
    ) -> tuple[Any, ...]: ...

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: bool = False,
        return_states: bool = False,
    ) -> Any:
        """Run the layers over a sequence.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]`` with batch_first, ``[T, I]`` for a single unbatched sequence, or a
                PackedSequence.
            hx: ``(h_0, c_0)``, each ``[D * num_layers, B, H]`` (``[D * num_layers, H]`` unbatched), D=2 where
                bidirectional, else 1, and P for H in h_0 where there is a projection; zeros, or the learned state,
                when absent. In the caller's order also where the input is packed.
            lengths: int64 ``[B]`` on any device, or a list; each in [0, T]. Past its length a sample's state is
                carried unchanged and the output is 0, in both directions, so that h_n and c_n are those of its own
                end. Not together with a PackedSequence, which has its own.
            masks: one :class:`~rnndrop_cuda.masks.LayerMasks` for each layer and direction to use, in training and in
                eval alike, instead of drawing any. None in a field is no dropout there.
            generator: draws every mask of this call, nn.LSTM's between layers too; torch's own when absent.
            return_masks: whether the masks that were used come back, so that the same call with them as ``masks``
                gives the same output, bit for bit.
            return_states: whether every h_t, c_t and activated gate comes back, for each layer and direction a
                :class:`~rnndrop_cuda.functional.LayerStates`, of the input's form; of a PackedSequence ``[T, B, ...]``
                in the caller's order. Detached; 0 past a sample's length.

        Returns:
            ``output, (h_n, c_n)``: output is ``[T, B, D * H]``, with a projection ``[T, B, D * P]``, or of the
            input's form; h_n and c_n are as hx. The masks, and then the states, follow where they were asked for.

        Raises:
            TypeError: an argument is not of a type said above.
            ValueError: input is not 2-D or 3-D, dtypes differ, a length is out of range, or masks has the wrong number
                of entries.
            RuntimeError: a size or a device does not fit.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
        output: Tensor | PackedSequence
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected none with a PackedSequence, which has its own")
            output, state, masks, states = self._forward_packed(input, hx, masks, generator, return_states)
        else:
            output, state, masks, states = self._forward_padded(input, hx, lengths, masks, generator, return_states)
        return output, state, *([masks] if return_masks else []), *([states] if return_states else [])

    def _forward_padded(
        self,
        input: Tensor,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        masks: Sequence[LayerMasks] | None,
        generator: torch.Generator | None,
        return_states: bool,
    ) -> tuple[Tensor, State, list[LayerMasks], list[LayerStates]]:
        """Time first and with a batch, run, and given back of the form that came."""
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
            hx = self._initial_state(x, x.shape[batch_dim])
        self._check_sizes(x, x.shape[batch_dim], hx, None)

        if self.batch_first:
            x = x.transpose(0, 1)
        used = self._masks(x, masks, generator)
        y, (h_n, c_n), states = self._run(x, hx, _lengths_of(x, lengths), used, return_states)

        def of_the_inputs_form(sequence: Tensor) -> Tensor:
            sequence = sequence.transpose(0, 1) if self.batch_first else sequence
            return sequence if batched else sequence.squeeze(batch_dim)

        states = [LayerStates(*map(of_the_inputs_form, of_layer)) for of_layer in states]
        final = (h_n, c_n) if batched else (h_n.squeeze(1), c_n.squeeze(1))
        return of_the_inputs_form(y), final, used, states

    def _forward_packed(
        self,
        input: PackedSequence,
        hx: State | None,
        masks: Sequence[LayerMasks] | None,
        generator: torch.Generator | None,
        return_states: bool,
    ) -> tuple[PackedSequence, State, list[LayerMasks], list[LayerStates]]:
        """Padded, in the caller's order, run with lengths, and packed again as it came."""
        T, B = len(input.batch_sizes), int(input.batch_sizes[0])
        places, lengths = _places_of_packed(input)
        data = input.data
        x = data.new_zeros(T * B, *data.shape[1:]).index_copy(0, places, data).unflatten(0, (T, B))
        _check_hx(hx, 3)
        if hx is None:
            hx = self._initial_state(x, B)
        self._check_sizes(data, B, hx, input.batch_sizes)
        used = self._masks(x, masks, generator)
        y, state, states = self._run(x, hx, lengths, used, return_states)
        packed = PackedSequence(
            y.flatten(0, 1).index_select(0, places), input.batch_sizes, input.sorted_indices, input.unsorted_indices
        )
        return packed, state, used, states

    def _check_sizes(self, input: Tensor, B: int, hx: State, batch_sizes: Tensor | None) -> None:
        """nn.LSTM's checks, with its messages; also of hx where the input is packed, which nn.LSTM misses."""
        self.check_input(input, batch_sizes)
        for k, (state, size) in enumerate(zip(hx, (self._h_size, self.hidden_size), strict=True)):
            expected = (self._runs, B, size)
            self.check_hidden_size(state, expected, f"Expected hidden[{k}] size {{}}, got {{}}")

    def _initial_state(self, x: Tensor, B: int) -> State:
        """Where no hx is given."""
        if self.h_0 is not None and self.c_0 is not None:
            return self.h_0.expand(-1, B, -1), self.c_0.expand(-1, B, -1)
        h_0 = x.new_zeros(self._runs, B, self._h_size)
        return h_0, x.new_zeros(self._runs, B, self.hidden_size) if self.proj_size else h_0

    def _masks(
        self, x: Tensor, given: Sequence[LayerMasks] | None, generator: torch.Generator | None
    ) -> list[LayerMasks]:
        """The masks of this call over x [T, B, I]: those given, else drawn where dropout is on."""
        T, B, runs = x.shape[0], x.shape[1], self._runs
        if given is None:
            return self.draw_masks(T, B, generator) if self.training or self.mc_dropout else self._eval_masks()
        if len(given) != runs:
            raise ValueError(f"masks: expected one LayerMasks a layer and direction, that is {runs}, got {len(given)}")
        for k, masks in enumerate(given):
            if not isinstance(masks, LayerMasks):
                raise TypeError(f"masks[{k}]: expected a LayerMasks, got {type(masks).__name__}")
            for name, mask in zip(masks._fields, masks, strict=True):
                if mask is not None and not isinstance(mask, Tensor):
                    raise TypeError(f"masks[{k}].{name}: expected a Tensor or None, got {type(mask).__name__}")
            # The other masks are lstm_layer's to check.
            _check_mask(f"masks[{k}].w", masks.w, self.all_weights[k][1].shape)
            _check_mask(f"masks[{k}].y", masks.y, (T, B, self._h_size))
            if masks.y is not None and k >= runs - self._directions:
                raise ValueError(f"masks[{k}].y: expected None, since there is no layer above")
        return list(given)

    def _run(
        self, x: Tensor, hx: State, lengths: Tensor | None, masks: list[LayerMasks], return_states: bool
    ) -> tuple[Tensor, State, list[LayerStates]]:
        """The stack over x [T, B, I]; hx is checked. Under autocast everything is computed in its dtype."""
        device = x.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # the first: not meta
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        all_weights = self.all_weights

        def cast(tensor: Any) -> Any:
            return tensor.to(dtype) if autocast and tensor is not None else tensor

        def run(k: int, x: Tensor) -> tuple[Any, ...]:
            m = LayerMasks(*map(cast, masks[k]))
            W_ih, W_hh, *biases = map(cast, all_weights[k])
            W_hr = biases.pop() if self.proj_size else None
            result: tuple[Any, ...] = lstm_layer(
                cast(x), cast(hx[0][k]), cast(hx[1][k]), W_ih, W_hh if m.w is None else m.w * W_hh, *biases,
                W_hr=W_hr, mask_x=m.x, mask_h=m.h, mask_g=m.g, mask_c=m.c, zone_c=m.z_c, zone_h=m.z_h,
                lengths=lengths, reverse=k % self._directions == 1, backend=self.backend, return_states=return_states,
            )  # fmt: skip
            y, *rest = result
            return y if m.y is None else m.y * y, *rest

        final_h: list[Tensor] = []
        final_c: list[Tensor] = []
        states: list[LayerStates] = []
        for layer in range(self.num_layers):
            first = layer * self._directions
            runs = [functools.partial(run, k, x) for k in range(first, first + self._directions)]
            if len(runs) == 2 and _has_streams(x):
                used = [x, *hx, lengths, *masks[first + 1], *all_weights[first + 1]]
                results = _at_once(runs[0], runs[1], x.device, used)
            else:
                results = [run_direction() for run_direction in runs]
            for _, h_n, c_n, *of_layer in results:
                final_h.append(h_n)
                final_c.append(c_n)
                states += of_layer
            outputs = [y for y, *_ in results]
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return x, (_stacked(final_h), _stacked(final_c)), states


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


def _has_streams(x: Tensor) -> bool:
    """Whether what is computed from x may go to another CUDA stream: not where it is only traced or mapped."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or type(x) is not Tensor
    return x.is_cuda and not traced


def _at_once(
    first: Callable[[], tuple[Any, ...]],
    second: Callable[[], tuple[Any, ...]],
    device: torch.device,
    used: Iterable[Tensor | None],
) -> list[tuple[Any, ...]]:
    """What both return, the second computed on a stream of its own from the tensors ``used``.

    Events alone order the two, so that a CUDA graph can capture them. Autograd runs the second's backward on that
    stream too, and may have freed what it used by then: the allocator is told, and gives none of it away before the
    stream is done with it. Two launches that want all multiprocessors run one after the other, and do not wait for each
    other half started: a cooperative launch begins when there is room for all of its blocks, a cluster for all of its.
    """
    here, side = torch.cuda.current_stream(device), _side_stream(device, threading.get_ident())
    side.wait_stream(here)  # before the first is launched, which it would wait for, too
    for tensor in used:
        if tensor is not None and tensor.device == device:  # another one is refused by lstm_layer
            tensor.record_stream(side)
    of_first = first()
    with torch.cuda.stream(side):
        of_second = second()
    here.wait_stream(side)
    for tensor in tree_leaves(of_second):
        tensor.record_stream(here)
    return [of_first, of_second]


@functools.cache
def _side_stream(device: torch.device, thread: int) -> torch.cuda.Stream:
    """One for each device and thread: every further one would cost cuBLAS a workspace."""
    return torch.cuda.Stream(device)


def _stacked(states: list[Tensor]) -> Tensor:
    """[layers and directions, B, ...], without a copy of a single one."""
    return torch.stack(states) if len(states) > 1 else states[0].unsqueeze(0)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected a bool, got {type(value).__name__}")


def _check_forget_bias(value: float | None, bias: bool) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"forget_bias: expected a finite number or None, got {value!r}")
    if not bias:
        raise ValueError(f"forget_bias: expected None with bias=False, got {value!r}")


def _check_mask(name: str, mask: Tensor | None, shape: Sequence[int]) -> None:
    """Where a product would broadcast instead of refusing."""
    if mask is not None and list(mask.shape) != list(shape):
        raise RuntimeError(f"{name}: expected shape {list(shape)}, got {list(mask.shape)}")


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


def _places_of_packed(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """Where each row of packed.data is in a batch padded to [T * B, ...], and the lengths, in the caller's order.

    By index and not by pad_packed_sequence, whose backward goes over the whole batch at every change of length.
    """
    B, device = int(packed.batch_sizes[0]), packed.data.device
    running = torch.arange(B) < packed.batch_sizes.unsqueeze(1)  # [T, B], longest first
    places, lengths = running.flatten().nonzero().squeeze(1).to(device), running.sum(0).to(device)
    if packed.sorted_indices is not None and packed.unsorted_indices is not None:
        order = packed.sorted_indices
        places, lengths = places - places % B + order[places % B], lengths[packed.unsorted_indices]
    return places, lengths


def _lengths_of(x: Tensor, lengths: Tensor | Sequence[int] | None) -> Tensor | None:
    """lengths as int64 on x's device."""
    if lengths is None:
        return None
    lengths = torch.as_tensor(lengths)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {lengths.dtype}")
    return lengths.to(device=x.device, dtype=torch.int64)
