"""``LSTM``: nn.LSTM's contract with dropout inside the recurrence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnndrop_cuda import checks, packing
from rnndrop_cuda.by_length import run_longest_first
from rnndrop_cuda.functional import BACKENDS, LayerStates
from rnndrop_cuda.initialisation import INITS, initialise
from rnndrop_cuda.like_torch import LikeTorch, Shown
from rnndrop_cuda.masks import draw, masks_in_eval
from rnndrop_cuda.noises import CANDIDATE_MASKS, GATE_MASKS, MASK_SCOPES, LayerMasks, sizes_by_name
from rnndrop_cuda.stack import InitialStates, State, plain_call

if TYPE_CHECKING:
    from rnndrop_cuda.options import Backend, CandidateMask, GateMasks, Init, MaskScope

    Function = TypeVar("Function")

    def _typed_as(function: Function) -> Callable[[Any], Function]:
        """Decorates what has the arguments and the results of another function."""
        ...


Form = TypeVar("Form", Tensor, PackedSequence)
IN_NN_LSTMS_REPR = ("proj_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")


class LSTM(LikeTorch):
    r"""An LSTM like :class:`torch.nn.LSTM`, with dropout inside the recurrence, in fused kernels.

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

    All may be combined, with each other and with ``dropout`` between layers. Every layer and direction draws its own
    masks, anew in every forward. Dropout acts in training only, or always with ``mc_dropout``. The returned h is not
    masked.

    Parameters, their names, order, shapes and initialisation are nn.LSTM's, so that a ``state_dict`` goes both ways and
    the same seed gives the same weights. So are the positional arguments, the checks of sizes, dtypes and devices, and
    the warnings.
    With ``learn_initial_state`` there are two more parameters, ``h_0`` and ``c_0``, ``[D * num_layers, 1, P or H]``; a
    ``state_dict`` that has neither, such as nn.LSTM's, sets both to the zeros that nn.LSTM starts from.

    ``isinstance(layer, nn.LSTM)`` is False: code that initialises an nn.LSTM by its type leaves this one as it is.
    :class:`rnndrop_cuda.TorchLSTM` is an nn.LSTM to it.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: number of layers, each on the output of the one below.
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
            training steps, but on a CPU no column can be left out, so that it is no faster than no dropout. Zoneout is
            always drawn for each sample, DropConnect always for the batch.
        candidate_mask: ``"step"`` draws a fresh :math:`m_g` for every step and sample; ``"sequence"`` keeps one for
            all steps, of the scope that mask_scope says.
        gate_masks: ``"tied"`` draws one :math:`m_x` and :math:`m_h` for all gates; ``"untied"`` one for each, as
            Gal's code and Keras do (Gal & Ghahramani, section 4.2, have both).
        mc_dropout: every dropout acts in eval too, for the Monte Carlo estimates of Gal & Ghahramani (arXiv
            1506.02142); :func:`rnndrop_cuda.mc_predict` makes them, and needs no such flag.
        learn_initial_state: without an hx, sequences begin at the parameters ``h_0`` and ``c_0``, zeros at first.
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

    h_0: nn.Parameter
    c_0: nn.Parameter
    init = Shown("_init")
    weight_hh_l0: nn.Parameter
    _drops_between_layers = True
    """Whether ``dropout`` is nn.LSTM's."""
    _of_dropout: tuple[str, ...] = ()
    """The keywords that ``dropout`` stands for, in the presets."""
    _packed: Any = None  # what pack_weights made

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
        mask_scope: MaskScope = "batch",
        candidate_mask: CandidateMask = "step",
        gate_masks: GateMasks = "tied",
        mc_dropout: bool = False,
        learn_initial_state: bool = False,
        init: Init = "default",
        forget_bias: float | None = None,
        backend: Backend = "auto",
    ) -> None:
        self.mask_scope = checks.check_choice("mask_scope", mask_scope, MASK_SCOPES)
        self.candidate_mask = checks.check_choice("candidate_mask", candidate_mask, CANDIDATE_MASKS)
        self.gate_masks = checks.check_choice("gate_masks", gate_masks, GATE_MASKS)
        # Before nn.RNNBase's constructor, which calls reset_parameters.
        self._init = checks.check_choice("init", init, INITS)
        self.forget_bias = checks.check_forget_bias(forget_bias, bias)
        self.backend = checks.check_choice("backend", backend, BACKENDS)
        self.mc_dropout = checks.check_flag("mc_dropout", mc_dropout)
        self.learn_initial_state = checks.check_flag("learn_initial_state", learn_initial_state)
        # By its name: in a class that is an nn.LSTM too, the next constructor would be nn.LSTM's.
        nn.RNNBase.__init__(
            self, "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            proj_size, device=device, dtype=dtype,
        )  # fmt: skip
        self.input_dropout = checks.check_probability("input_dropout", input_dropout)
        self.hidden_dropout = checks.check_probability("hidden_dropout", hidden_dropout)
        self.candidate_dropout = checks.check_probability("candidate_dropout", candidate_dropout)
        self.weight_dropout = checks.check_probability("weight_dropout", weight_dropout)
        self.cell_dropout = checks.check_probability("cell_dropout", cell_dropout)
        self.hidden_zoneout = checks.check_probability("hidden_zoneout", hidden_zoneout)
        self.cell_zoneout = checks.check_probability("cell_zoneout", cell_zoneout)
        if learn_initial_state:  # the names are a subclass's otherwise
            for name, size in (("h_0", self._h_size), ("c_0", hidden_size)):
                zeros = torch.zeros(self._runs, 1, size, device=device, dtype=dtype)
                self.register_parameter(name, nn.Parameter(zeros))

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as ``init`` and ``forget_bias`` say; a learned initial state begins at zeros."""
        super().reset_parameters()
        initialise(self.named_parameters(), self.hidden_size, self._init, self.forget_bias)
        if self.learn_initial_state and "h_0" in self._parameters:
            nn.init.zeros_(self.h_0)
            nn.init.zeros_(self.c_0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As for every module, but a state without h_0 and c_0, such as nn.LSTM's, sets both to zeros."""
        like = state_dict.get(prefix + "weight_hh_l0")  # on the file's device: ours may be meta
        without_them = not {prefix + "h_0", prefix + "c_0"} & state_dict.keys()
        if self.learn_initial_state and like is not None and without_them:
            state_dict.update({prefix + name: like.new_zeros(getattr(self, name).shape) for name in ("h_0", "c_0")})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        defaults = {name: of.default for name, of in inspect.signature(LSTM.__init__).parameters.items()}
        keywords = list(defaults)[list(defaults).index("input_dropout") :]
        differing = [
            f"{name}={value!r}"
            for name in (*IN_NN_LSTMS_REPR, *keywords)
            if (value := self._init if name == "init" else getattr(self, name)) != defaults[name]
            if name not in self._of_dropout or value != self.dropout
        ]
        return ", ".join([str(self.input_size), str(self.hidden_size), *differing])

    def draw_masks(self, T: int, B: int, generator: torch.Generator | None = None) -> list[LayerMasks]:
        """The masks that a forward with dropout on would draw for T steps and a batch of B.

        One entry for each layer and direction, in the order of the parameters; on their device and in their dtype. A
        dropout of 0 draws nothing.

        Args:
            T, B: steps and batch size; whole numbers, at least 0.
            generator: on the device of the parameters; torch's default generator when absent.

        Raises:
            TypeError: T or B is not a whole number, or generator is not a torch.Generator.
            ValueError: T or B is negative.
        """
        return draw(self, T, B, generator)

    @property
    def _runs(self) -> int:
        """Layers times directions: how often lstm_layer is called, and the length of all_weights, slow to build."""
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
        input: Form,
        hx: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        masks: Sequence[LayerMasks] | None = None,
        generator: torch.Generator | None = None,
        return_masks: Literal[False] = False,
        return_states: Literal[False] = False,
    ) -> tuple[Form, State]: ...

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
        return_states: bool = False,
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
                PackedSequence. On CUDA its indices are not checked, since that would wait: wrong ones mix samples up.
            hx: ``(h_0, c_0)``, each ``[D * num_layers, B, H]`` (``[D * num_layers, H]`` unbatched), D=2 where
                bidirectional, else 1, and P for H in h_0 where there is a projection; zeros, or the learned state,
                when absent. In the caller's order also where the input is packed.
            lengths: int64 ``[B]`` on any device, or a list; each in [0, T]. Past its length a sample's state is
                carried unchanged and the output is 0, in both directions, so that h_n and c_n are those of its own
                end. Not together with a PackedSequence, which has its own.
            masks: one :class:`~rnndrop_cuda.LayerMasks` for each layer and direction, in the order of the parameters
                (layer 0 forward, layer 0 backward, layer 1 forward ...), used in training and in eval alike instead of
                drawing any. A field that is None means no dropout there, zoneout included.
            generator: draws every mask of this call, those between layers too; must be on the device of the
                parameters. torch's default generator when absent.
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
            ValueError: input is not 2-D or 3-D, or its sorted_indices and unsorted_indices do not invert each other,
                dtypes differ, a length is out of range, or masks has the wrong number of entries.
            RuntimeError: a size or a device does not fit.
        """
        no_options = masks is generator is None and not (return_masks or return_states)
        if no_options and (plain := plain_call(self, input, hx, lengths)) is not None:
            return plain
        checks.check_generator(generator)
        output: Tensor | PackedSequence
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths: expected none with a PackedSequence, which has its own")
            checks.check_hx(hx, 3)
            x, lengths, places = packing.padded(input)
            self.check_input(input.data, input.batch_sizes)
            y, state, masks, states = self._run(x, hx, lengths, masks, generator, return_states, packed=True)
            output = packing.packed_like(input, y, places)
        else:
            try:
                checks.check_input(input)
                batched = input.dim() == 3
                checks.check_hx(hx, 3 if batched else 2)
            except TypeError:
                options = {"lengths": lengths, "masks": masks, "generator": generator}
                flags = {"return_masks": return_masks, "return_states": return_states}
                if (node := self._fx_call(input, hx, **options, **flags)) is not None:
                    return node
                raise
            x = packing.time_first(input, batched, self.batch_first)
            self.check_input(x, None)
            if hx is not None and not batched:
                hx = (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            y, state, masks, states = self._run(x, hx, lengths, masks, generator, return_states)
            output = packing.as_it_came(y, batched, self.batch_first)
            if not batched:
                state = (state[0].squeeze(1), state[1].squeeze(1))
            for k, of_layer in enumerate(states):
                states[k] = LayerStates(*(packing.as_it_came(s, batched, self.batch_first) for s in of_layer))
        return output, state, *([masks] if return_masks else []), *([states] if return_states else [])

    if TYPE_CHECKING:  # nn.Module's says Any, and pyright believes it before an assignment

        @_typed_as(forward)
        def __call__(self, *arguments: Any, **options: Any) -> Any: ...

    def _run(
        self,
        x: Tensor,
        hx: State | None,
        lengths: Tensor | Sequence[int] | None,
        masks: Sequence[LayerMasks] | None,
        generator: torch.Generator | None,
        return_states: bool,
        packed: bool = False,
    ) -> tuple[Tensor, State, list[LayerMasks], list[LayerStates]]:
        """Run over x [T, B, I] with the hx and the masks that were given: y, the final state, masks and states."""
        T, B, _ = x.shape
        H, P, runs, directions = self.hidden_size, self._h_size, self._runs, self._directions
        if T == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        weights = self._weights()
        if weights[0][0].device != x.device:
            checks.refuse_devices("parameter", weights[0][0], x)
        if hx is not None:  # nn.LSTM's check, with its message; nn.LSTM skips it for a packed input
            self.check_hidden_size(hx[0], (runs, B, P), "Expected hidden[0] size {}, got {}")
            self.check_hidden_size(hx[1], (runs, B, H), "Expected hidden[1] size {}, got {}")
            if hx[0].device != x.device or hx[1].device != x.device:
                checks.refuse_devices("hidden", hx[0] if hx[0].device != x.device else hx[1], x)
        if masks is not None:
            checks.check_masks(masks, runs, directions, sizes_by_name(T, B, self.input_size, H, P))
        elif self.training or self.mc_dropout:
            masks = self.draw_masks(T, B, generator)
        else:
            masks = [masks_in_eval(self)] * runs
        y, final, states = run_longest_first(
            x, self._initial_states(x, hx, runs), packing.lengths_of(x, lengths), weights, masks,
            directions=directions, projected=self.proj_size > 0, backend=self.backend, return_states=return_states,
            packed=packed,
        )  # fmt: skip
        return y, final, list(masks), states

    def _initial_states(self, x: Tensor, hx: State | None, runs: int) -> InitialStates:
        B = x.shape[1]
        if hx is None and self.learn_initial_state:
            hx = self.h_0.expand(-1, B, -1), self.c_0.expand(-1, B, -1)
        return ([None] * runs, [None] * runs) if hx is None else (hx[0].unbind(), hx[1].unbind())
