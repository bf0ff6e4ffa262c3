"""A report on the terminal: a table that fits 80 columns, and its sentences below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 80


def print_report(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], sentences: Iterable[str]) -> None:
    """Figures are never cut: where the terminal, or a pipe, is narrower than the table, the names are folded."""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, WIDTH)
    with console.capture() as captured:  # printed by print: rich would end the process where nobody reads
        console.print(table)
        for sentence in sentences:
            console.print(sentence)
    print(captured.get(), end="")
