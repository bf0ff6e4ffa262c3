"""The drawings of docs/internals.md: `python docs/drawings/draw.py [FOLDER]` writes the SVG files beside itself.

A test holds the committed files to what this writes.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

INK, QUIET = "#1f2937", "#6b7280"
BLUE, GREEN, ORANGE, GREY, WHITE = "#dbeafe", "#dcfce7", "#ffedd5", "#f3f4f6", "#ffffff"


class Drawing:
    """Boxes, lines of text and arrows on a white sheet."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, line: str, *, size: int = 14, anchor: str = "middle", bold: bool = False,
             color: str = INK, mono: bool = False) -> None:  # fmt: skip
        weight = ' font-weight="600"' if bold else ""
        family = ' font-family="ui-monospace, monospace"' if mono else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{color}"{weight}{family}>'
            f"{escape(line)}</text>"
        )

    def rect(self, x: float, y: float, w: float, h: float, fill: str, *, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{fill}" stroke="{QUIET}"{dash}/>'
        )

    def box(self, x: float, y: float, w: float, h: float, fill: str, head: str, *lines: str) -> None:
        """A heading in bold and smaller lines under it, in the middle of the box."""
        self.rect(x, y, w, h, fill)
        top = y + h / 2 - 8.5 * len(lines) + 5
        self.text(x + w / 2, top, head, bold=True)
        for k, line in enumerate(lines, 1):
            self.text(x + w / 2, top + 17 * k, line, size=12)

    def line(self, x1: float, y1: float, x2: float, y2: float, markers: str = "") -> None:
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{INK}" stroke-width="1.5"{markers}/>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, *, both: bool = False) -> None:
        start = ' marker-start="url(#tip)"' if both else ""
        self.line(x1, y1, x2, y2, f' marker-end="url(#tip)"{start}')

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
            f' font-family="system-ui, sans-serif">\n<title>{escape(self.title)}</title>\n'
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
            f' orient="auto-start-reverse"><path d="M0 0 10 5 0 10z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" fill="{WHITE}"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


def flow() -> Drawing:
    d = Drawing(760, 520, "From the module to the cell: who calls whom")
    d.box(40, 10, 440, 56, BLUE, "rnndrop_cuda.LSTM", "layers, directions, packing, autocast; draws the masks")
    d.box(40, 96, 440, 56, BLUE, "functional.lstm_layer", "checks what a caller can get wrong, chooses the backend")
    d.box(560, 96, 180, 56, GREEN, "reference.py", 'backend="python"')
    d.box(40, 182, 440, 56, BLUE, "op rnndrop::lstm_layer", "schema, shapes, autograd, vmap; one layer, one direction")
    d.box(40, 268, 440, 56, GREY, "routing", "checks, dense inputs, outputs; then backend.forward(call)")
    d.box(40, 354, 130, 56, ORANGE, "CPU engine", "whole layer")
    d.box(195, 354, 130, 56, ORANGE, "CUDA engines", "whole recurrence")
    d.box(350, 354, 130, 56, GREY, "stepwise", "a step at a time")
    d.box(40, 440, 440, 56, GREEN, "lstm_cell.h", "the only cell maths, forward and backward of one element")
    for y in (66, 152, 238):
        d.arrow(260, y, 260, y + 30)
    for x in (105, 260, 415):
        d.arrow(x, 324, x, 354)
        d.arrow(x, 410, x, 440)
    d.arrow(480, 124, 560, 124)
    d.line(480, 210, 650, 210)
    d.arrow(650, 210, 650, 152)
    d.text(650, 230, "derivatives of second", size=12, color=QUIET)
    d.text(650, 246, "and higher order", size=12, color=QUIET)
    d.text(495, 378, "GEMM + one fused", size=12, anchor="start", color=QUIET)
    d.text(495, 394, "pass over [B, H]", size=12, anchor="start", color=QUIET)
    return d


def cpu() -> Drawing:
    d = Drawing(760, 430, "The CPU engine: slices of the batch, and dropped columns that are never multiplied")
    d.text(20, 26, "Each thread takes its rows of the batch through all steps.", anchor="start", bold=True)
    d.text(36, 102, "batch", size=12, color=QUIET)
    for row, (name, fill) in enumerate((("thread 0", BLUE), ("thread 1", GREEN))):
        for step in range(6):
            d.rect(70 + 84 * step, 44 + 50 * row, 76, 42, fill)
            d.text(108 + 84 * step, 70 + 50 * row, f"t = {step}", size=12)
        d.text(590, 70 + 50 * row, name, size=13, anchor="start")
    d.arrow(70, 156, 574, 156)
    d.text(322, 174, "time; no thread waits for another", size=12, color=QUIET)

    d.text(20, 214, "One step of 24 rows: product and cell while all is in the first-level cache.", anchor="start",
           bold=True)  # fmt: skip
    dropped = {1, 4, 5}
    for k in range(8):
        fill = GREY if k in dropped else BLUE
        d.rect(40 + 17 * k, 240, 15, 70, fill, dashed=k in dropped)
        d.rect(240, 240 + 17 * k, 90, 15, GREY if k in dropped else ORANGE, dashed=k in dropped)
    d.text(107, 332, "h of step t-1", size=13)
    d.text(107, 350, "dashed: dropped by m_h", size=12, color=QUIET)
    d.text(107, 366, "for the whole batch,", size=12, color=QUIET)
    d.text(107, 382, "neither packed nor multiplied", size=12, color=QUIET)
    d.text(208, 282, "\u00d7", size=22)
    d.text(285, 396, "W_hh, packed once", size=13)
    d.text(285, 412, "a sequence, times m_h", size=12, color=QUIET)
    d.text(362, 282, "+", size=22)
    d.box(392, 246, 110, 58, ORANGE, "W_ih x~ + b", "of this step")
    d.arrow(504, 275, 542, 275)
    d.box(544, 246, 126, 58, GREEN, "cell", "m_g, m_c, zoneout")
    d.arrow(672, 275, 700, 275)
    d.text(722, 272, "h, c", size=13)
    d.text(722, 290, "gates", size=13)
    return d


def engines() -> Drawing:
    d = Drawing(760, 420, "CUDA engines: where W_hh is, and how h reaches the next step")
    cards = (
        (10, 10, "block", "W_hh in one block's shared memory", "nothing to hand over", 1),
        (385, 10, "cluster (sm_90)", "W_hh split over 2 to 16 blocks", "through distributed shared memory", 3),
        (10, 215, "grid", "W_hh split over any number of blocks", "through the second-level cache, with a flag", 5),
        (385, 215, "stepwise", "W_hh in memory", "two launches a step", 0),
    )
    for x, y, name, where, how, blocks in cards:
        d.rect(x, y, 365, 192, WHITE)
        d.text(x + 16, y + 26, name, anchor="start", bold=True, size=15)
        d.text(x + 16, y + 46, where, anchor="start", size=12)
        d.text(x + 16, y + 180, how, anchor="start", size=12, color=QUIET)
        if blocks == 0:
            d.box(x + 30, y + 72, 90, 60, GREY, "GEMM", "cuBLAS")
            d.arrow(x + 122, y + 102, x + 158, y + 102)
            d.box(x + 160, y + 72, 90, 60, GREEN, "cell", "one kernel")
            d.arrow(x + 252, y + 102, x + 288, y + 102)
            d.text(x + 318, y + 106, "step t+1", size=12)
            continue
        width, gap = 58, 10
        left = x + (365 - blocks * width - (blocks - 1) * gap) / 2
        for k in range(blocks):
            at = left + k * (width + gap)
            d.rect(at, y + 62, width, 58, ORANGE)
            d.text(at + width / 2, y + 84, "W_hh" if blocks == 1 else f"rows {k}", size=12)
            d.text(at + width / 2, y + 104, "c, h", size=12)
        if name == "block":
            d.text(x + 182, y + 146, "the batch is split over blocks that never meet", size=12)
        elif name == "grid":
            d.rect(x + 20, y + 134, 325, 22, BLUE)
            d.text(x + 182, y + 149, "h~ (forward) or dL/da (backward), and a flag", size=12)
            for k in range(blocks):
                d.arrow(left + k * (width + gap) + 29, y + 120, left + k * (width + gap) + 29, y + 134, both=True)
        else:
            for k in range(blocks - 1):
                at = left + k * (width + gap) + width
                d.arrow(at - 12, y + 132, at + gap + 12, y + 132, both=True)
            d.text(x + 182, y + 154, "each writes its part to all others", size=12)
    return d


DRAWINGS = {"flow.svg": flow, "cpu.svg": cpu, "cuda-engines.svg": engines}


def main(folder: Path) -> None:
    for name, draw in DRAWINGS.items():
        (folder / name).write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
