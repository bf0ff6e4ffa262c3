"""The results of a benchmark: a CSV of timings, peaks or latencies below a header of facts, a `# key: value` a line.

    pandas.read_csv(path, comment="#")

reads the rows; `read` here returns the facts too, and refuses any other file.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from rnndrop_cuda.files import write_whole

RESULTS = Path(__file__).parent / "results"
"""The folder of the committed ones."""

NN_LSTM = "nn.LSTM"
CELL_LOOP = "nn.LSTMCell loop"
GRAPHED_LOOP = "nn.LSTMCell loop in a CUDA graph"
COMPILED_LOOP = "nn.LSTMCell loop compiled"
HASTE = "Haste"
FLASHRNN = "FlashRNN"
OP = "rnndrop"
MODULE = "LSTM module"
PACKED_MODULE = "LSTM module, packed"
LSTM_CELL = "nn.LSTMCell"
ONNX_RUNTIME = "ONNX Runtime"
KERAS = "keras.layers.LSTM"
KERAS_OURS = "rnndrop_cuda.keras.LSTM"
GEMMS = "GEMMs alone"

MASKS = "masks"
INFERENCE = "inference"
FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
PHASES = (FORWARD_BACKWARD, FORWARD, INFERENCE, MASKS)  # all contenders have the first

FULL = "full"
PACKED = "packed"
LENGTHS = "lengths="
PADDED = "padded"
STACK = "2 layers, bidirectional"


def name_of(dtype: object) -> str:
    """torch's dtype as rows have it: "float32", say."""
    return str(dtype).removeprefix("torch.")


class Size(NamedTuple):
    """Steps, batch, input features, hidden features."""

    T: int
    B: int
    I: int
    H: int

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())


@dataclass(frozen=True)
class Run:
    """One contender at one size."""

    T: int
    B: int
    I: int
    H: int
    dtype: str
    threads: int
    sequences: str
    """FULL: all have T steps. Otherwise their lengths are random in [1, T], with a mean of half of T, and the contender
    got them PACKED (the GEMMs then leave out the steps past the end), beside the padded batch (LENGTHS), or not at all
    (PADDED: every sequence is computed to T). STACK is FULL, through two layers in both directions."""
    contender: str
    backend: str
    """Ours: "cpu", "cuda" or "python", or e.g. "cuda grid" if the engine was asked for by name. The GEMMs': the
    library. "" for the others."""
    dropout: str
    p: float
    """Probability of dropping in mask_x and mask_h, 0 where there are none."""
    p_g: float
    """Probability of dropping in mask_g, 0 where there is none."""
    repeats: int

    @property
    def size(self) -> Size:
        return Size(self.T, self.B, self.I, self.H)


@dataclass(frozen=True)
class Timing(Run):
    """In milliseconds a call: the median, both quartiles, the extremes."""

    phase: str
    """MASKS: drawing them and nothing else; INFERENCE: in eval and under no_grad; FORWARD: saving everything that the
    backward needs; FORWARD_BACKWARD. All but INFERENCE include drawing the masks."""
    calls: int
    """Calls timed together in each repeat."""
    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    max_ms: float


@dataclass(frozen=True)
class Peak(Run):
    """Peak memory of one forward and backward, in bytes above the level before it."""

    median_bytes: int
    min_bytes: int
    max_bytes: int


@dataclass(frozen=True)
class Shape:
    """An LSTM and its input, as bench.sweep draws them."""

    T: int
    B: int
    I: int
    H: int
    layers: int
    directions: int
    P: int
    """Features of h where it is projected, otherwise 0."""
    lengths: int
    """1 where the sequences have from 1 to T steps: nn.LSTM packs them and unpacks its output, ours gets lengths=."""
    batch_first: int
    bias: int

    @property
    def shape(self) -> Shape:
        return Shape(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Shape)})

    def gflop(self, phase: str) -> float:
        """Of the matrix products without dropout; FORWARD_BACKWARD has three times those of INFERENCE."""
        h = self.P or self.H
        inputs = [self.I] + [self.directions * h] * (self.layers - 1)
        of_a_row = sum(4 * self.H * (i + h) + self.P * self.H for i in inputs) * self.directions
        rows = self.B * ((self.T + 1) / 2 if self.lengths else self.T)
        return 2 * rows * of_a_row * (3 if phase == FORWARD_BACKWARD else 1) / 1e9

    def __str__(self) -> str:
        more = {
            f"{self.layers} layers": self.layers > 1,
            "both directions": self.directions == 2,
            f"P={self.P}": self.P,
            "lengths": self.lengths,
            "batch_first": self.batch_first,
            "no bias": not self.bias,
        }
        return ", ".join([str(Size(self.T, self.B, self.I, self.H)), *(text for text, has in more.items() if has)])


@dataclass(frozen=True)
class SweepTiming(Shape):
    """One contender of bench.sweep at one shape, in milliseconds a call."""

    dtype: str
    threads: int
    phase: str
    """FORWARD_BACKWARD or INFERENCE."""
    contender: str
    """NN_LSTM or MODULE."""
    dropout: str
    p: float
    p_g: float
    repeats: int
    calls: int
    """Timed together in each repeat."""
    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    forward_op_ms: float
    """Median time within the forward ops of a call. As the next, known only where ours was slower, otherwise 0."""
    backward_op_ms: float


@dataclass(frozen=True)
class Latency:
    """How long a kernel of bench/latency.cu waits in one round, in nanoseconds."""

    what: str
    blocks: int
    threads: int
    """In each block."""
    bytes: int
    """Handed over or read by a block in a round; 0 for a barrier."""
    rounds: int
    """Timed together in each repeat."""
    repeats: int
    median_ns: float
    min_ns: float
    max_ns: float


Row = TypeVar("Row", Timing, Peak, SweepTiming, Latency)


def columns(kind: type[Row]) -> dict[str, type]:
    kinds = {"int": int, "float": float, "str": str}
    return {field.name: kinds[str(field.type)] for field in dataclasses.fields(kind)}


def write(path: Path, facts: Mapping[str, object], rows: Sequence[Row]) -> None:
    """Writes the whole file or none of it. Raises ValueError for a fact that does not fit on one header line."""
    text = io.StringIO()
    for key, value in facts.items():
        if ":" in key or len(f"{key}{value}".splitlines()) > 1:
            raise ValueError(f"facts: expected a key without a colon and one line of text, got {key!r}: {value!r}")
        text.write(f"# {key}: {value}\n")
    table = csv.DictWriter(text, columns(type(rows[0])), lineterminator="\n")
    table.writeheader()
    table.writerows(dataclasses.asdict(row) for row in rows)
    write_whole(path, text.getvalue().encode())


def read(path: Path, kind: type[Row] = Timing) -> tuple[dict[str, str], list[Row]]:
    """The facts and the rows of a file that `write` wrote. Raises ValueError, with the line, for any other."""
    lines = path.read_text(encoding="utf-8").splitlines()
    n_facts = next((n for n, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    facts = {key: value for key, _, value in (line[2:].partition(": ") for line in lines[:n_facts])}
    table = csv.DictReader(lines[n_facts:])
    expected = columns(kind)
    if table.fieldnames != list(expected):
        raise ValueError(f"{path}:{n_facts + 1}: expected the columns {','.join(expected)}, got {table.fieldnames}")
    rows = []
    for row in table:
        try:
            rows.append(kind(**{name: convert(row[name]) for name, convert in expected.items()}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{n_facts + table.line_num}: not a {kind.__name__.lower()}: {error}") from error
    return facts, rows
