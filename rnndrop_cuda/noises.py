"""The table of the noises: what each is called, its shapes, its values, when it is drawn.

All code that treats the noises alike reads this table: drawing and eval, the checks, the order of the op's arguments,
vmap, MC dropout, and the cut for several processes. What a noise does to the cell is in lstm_cell.h and reference.py.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

MASK_SCOPES = ("batch", "sample")
CANDIDATE_MASKS = ("step", "sequence")
GATE_MASKS = ("tied", "untied")
OPTIONS = {"mask_scope": MASK_SCOPES, "candidate_mask": CANDIDATE_MASKS, "gate_masks": GATE_MASKS}
Shape = tuple[str | int, ...]
"""Sizes by their names: T steps, B samples, I input features, H cells, P features of h (H without a projection)."""

Sizes = dict[str | int, int]


def sizes_by_name(T: int, B: int, I: int, H: int, P: int) -> Sizes:
    """The value of each name in a Shape; numbers stand for themselves."""
    return {"T": T, "B": B, "I": I, "H": H, "P": P, "4H": 4 * H, 4: 4, 1: 1}


class LayerMasks(NamedTuple):
    """The masks of one layer in one direction, None where there is none. P, the width of h, is proj_size or else H."""

    x: Tensor | None = None
    """``[I]`` or ``[B, I]``, on the input: Gal & Ghahramani. Untied, one for each gate, ``[4, 1, I]`` or
    ``[4, B, I]``."""
    h: Tensor | None = None
    """``[P]`` or ``[B, P]``, untied ``[4, 1, P]`` or ``[4, B, P]``, on the hidden state where the recurrence uses it:
    Gal & Ghahramani."""
    g: Tensor | None = None
    """``[H]``, ``[B, H]`` or ``[T, B, H]``, on the candidate: Semeniuta et al."""
    w: Tensor | None = None
    """``[4H, P]``, on W_hh, for all steps: DropConnect as in AWD-LSTM, Merity et al."""
    y: Tensor | None = None
    """``[T, B, P]``, on the output on its way into the layer above: nn.LSTM's own dropout."""
    c: Tensor | None = None
    """``[H]`` or ``[B, H]`` of 0 and 1, on the cell: RNNDrop, Moon et al."""
    z_c: Tensor | None = None
    """``[H]``, ``[B, H]`` or ``[T, B, H]``, how much of c stays as it was: zoneout, Krueger et al. 0 or 1, or its
    expectation."""
    z_h: Tensor | None = None
    """The same for h, with P for H."""


class MaskOptions(Protocol):
    """The options of LSTM that decide which shape a noise is drawn in."""

    mask_scope: str
    candidate_mask: str
    gate_masks: str


class Noise(NamedTuple):
    """One noise, a row of the table."""

    field: str
    """Its field in LayerMasks."""
    keyword: str
    """LSTM's keyword for its probability."""
    argument: str | None
    """Its argument of lstm_layer, the op and the reference; None where LSTM applies it outside of the layer."""
    shapes: tuple[Shape, ...]
    """The shapes that it may have."""
    dropped: float = 0.0
    """The value that an entry has with probability p."""
    kept: float | None = None
    """The value that it has otherwise; None stands for 1/(1-p), which makes the mean 1."""
    new_step: str = "never"
    """Whether every step of every sample has its own mask: "never", "always", or "candidate_mask", as LSTM's option of
    that name says."""
    expected_in_eval: bool = False
    """Whether eval uses the expectation of an entry; otherwise it uses no mask."""
    between_layers: bool = False
    """Whether it acts on the way into the layer above, so that the last layer has none."""

    def values(self, p: float) -> tuple[float, float]:
        """An entry's value with probability p, and its value otherwise."""
        if self.kept is not None:
            return self.dropped, self.kept
        return self.dropped, 1 / (1 - p) if p < 1 else 1.0

    def expectation(self, p: float) -> float:
        dropped, kept = self.values(p)
        return p * dropped + (1 - p) * kept

    @property
    def size(self) -> str:
        """The name of its last dimension."""
        return str(self.shapes[0][-1])

    @property
    def per_gate(self) -> bool:
        """Whether each gate may have its own mask."""
        return any(shape[0] == 4 for shape in self.shapes)

    def drawn_shape(self, layer: MaskOptions) -> Shape:
        """The shape that a layer with these options draws."""
        if len(self.shapes) == 1:
            return self.shapes[0]
        size, per_sample = self.size, layer.mask_scope == "sample"
        if self.new_step == "always" or (self.new_step == "candidate_mask" and layer.candidate_mask == "step"):
            return "T", "B", size
        if layer.gate_masks == "untied" and self.per_gate:
            return 4, "B" if per_sample else 1, size
        return ("B", size) if per_sample else (size,)


def _once(size: str) -> tuple[Shape, ...]:
    """The same at every step, for the whole batch or for each sample."""
    return (size,), ("B", size)


def _once_a_gate(size: str) -> tuple[Shape, ...]:
    return *_once(size), (4, 1, size), (4, "B", size)


def _once_or_by_step(size: str) -> tuple[Shape, ...]:
    return *_once(size), ("T", "B", size)


# In the order in which they are drawn; the op takes its masks in the same order.
NOISES = (
    Noise("x", "input_dropout", "mask_x", _once_a_gate("I")),
    Noise("h", "hidden_dropout", "mask_h", _once_a_gate("P")),
    Noise("g", "candidate_dropout", "mask_g", _once_or_by_step("H"), new_step="candidate_mask"),
    Noise("w", "weight_dropout", None, (("4H", "P"),)),
    Noise("y", "dropout", None, (("T", "B", "P"),), new_step="always", between_layers=True),
    Noise("c", "cell_dropout", "mask_c", _once("H"), kept=1.0),
    Noise(
        "z_c", "cell_zoneout", "zone_c", _once_or_by_step("H"), dropped=1.0, kept=0.0, new_step="always",
        expected_in_eval=True,
    ),
    Noise(
        "z_h", "hidden_zoneout", "zone_h", _once_or_by_step("P"), dropped=1.0, kept=0.0, new_step="always",
        expected_in_eval=True,
    ),
)  # fmt: skip

IN_EVAL = tuple(row for row in NOISES if row.expected_in_eval)

# The tensor arguments of lstm_layer, the op and the reference, in order: first those that have gradients ...
INPUTS: dict[str, Shape] = {
    "x": ("T", "B", "I"), "h_0": ("B", "P"), "c_0": ("B", "H"), "W_ih": ("4H", "I"), "W_hh": ("4H", "P"),
    "b_ih": ("4H",), "b_hh": ("4H",), "W_hr": ("P", "H"),
}  # fmt: skip
# ... then the constants.
MASKS = {row.argument: row for row in NOISES if row.argument is not None}
CONSTANTS: dict[str, tuple[Shape, ...]] = {
    **{name: row.shapes for name, row in MASKS.items()},
    "lengths": (("B",),),
}
