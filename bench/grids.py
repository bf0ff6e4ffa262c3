"""The cases that bench.lstm times: sizes, dtypes, and which contenders, in named grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bench.records import STACK, Size

ALL = "all"
MAIN = "main"
"""What is compared over many sizes: nn.LSTM, the LSTMCell loop and our module."""
RAGGED = "ragged"
"""Sequences of random lengths."""


class Case(NamedTuple):
    """What is timed together."""

    size: Size
    dtype: str = "float32"
    who: str = ALL
    """Which contenders: ALL, MAIN, RAGGED or STACK."""
    ps: tuple[float, ...] = ()
    """Probabilities for both kinds of dropout, instead of --p and --p-g."""

    def __str__(self) -> str:
        form = {RAGGED: ", lengths from 1 to T", STACK: f", {STACK}"}.get(self.who, "")
        return f"{self.size}, {self.dtype}{form}"


SEMINAR = Size(32, 128, 300, 128)
LONG = Size(200, 64, 300, 256)
WIDE = Size(400, 16, 128, 512)
ONE = Size(64, 1, 128, 128)
"""One sequence, as a model in service gets them."""
CENTRE = Size(64, 64, 128, 128)
"""Of the scaling curves, which change one of its sizes, or p, and keep the others."""


def scaling() -> list[Case]:
    def around(**sizes: Sequence[int]) -> list[Case]:
        return [Case(CENTRE._replace(**{name: n}), who=MAIN) for name, ns in sizes.items() for n in ns]

    return [
        Case(SEMINAR, "float32", MAIN),
        Case(SEMINAR, "bfloat16", MAIN),
        Case(CENTRE, who=MAIN, ps=(0.1, 0.25, 0.3, 0.5, 0.75, 0.9)),
        *around(T=(16, 32, 128, 256, 512), B=(1, 4, 16, 256), I=(32, 64, 256, 512), H=(32, 64, 256, 512)),
    ]


GRIDS: dict[str, list[Case]] = {
    "quick": [Case(Size(16, 32, 64, 64))],
    "cpu": [
        Case(SEMINAR),
        Case(LONG, who=MAIN),
        Case(WIDE, who=MAIN),
        Case(ONE),
        Case(LONG, who=RAGGED),
    ],
    "scaling": scaling(),
    "cuda": [
        Case(SEMINAR),
        Case(SEMINAR, "bfloat16"),
        Case(Size(512, 64, 256, 256), "bfloat16"),
        Case(Size(512, 64, 256, 256), "bfloat16", RAGGED),
        Case(Size(256, 64, 256, 256), "bfloat16", STACK),
        Case(Size(512, 64, 512, 512), "bfloat16"),
        Case(Size(1024, 16, 768, 768), "float16"),
        Case(Size(512, 32, 1024, 1024), "bfloat16"),
        # where nn.LSTM gets cuDNN's persistent kernel, which it does not in bfloat16
        Case(Size(512, 64, 256, 256), "float16", MAIN),
        Case(Size(512, 64, 512, 512), "float16", MAIN),
    ],
}
