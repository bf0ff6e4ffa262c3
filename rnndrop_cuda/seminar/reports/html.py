"""What the HTML reports have in common: the page, its tables, and the colours of the plots."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

# Okabe & Ito's colours, told apart by colour-blind readers.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999933")


def as_bytes(page: str) -> bytes:
    """A page as UTF-8, in which what that lacks is escaped: the names of some files are no UTF-8."""
    return page.encode(errors="backslashreplace")


def document(title: str, body: str, facts: Mapping[str, Mapping[str, object]]) -> str:
    """An HTML page that loads nothing; title and body are HTML, facts are tables below it by their headings, text."""
    tables = "\n".join(
        f"<h2>{html.escape(heading)}</h2>\n"
        + html_table([(name.replace("_", " "), in_words(value)) for name, value in table.items()], class_name="facts")
        for heading, table in facts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; --best: #e4f3ec; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ddd; --paper: #161616; --line: #444; --best: #14382a; }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--paper); overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .25rem .75rem; text-align: right; vertical-align: top; }}
th:first-child, td:first-child, .facts td {{ text-align: left; }}
.facts td:first-child {{ overflow-wrap: normal; }}
.scroll table {{ overflow-wrap: normal; font-variant-numeric: tabular-nums; }}
.best td {{ font-weight: bold; background: var(--best); }}
img {{ max-width: 100%; height: auto; background: #fff; border-radius: .25rem; }}
.scroll {{ overflow-x: auto; }}
.scroll img {{ min-width: 44rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}{tables}
</body>
</html>
"""


def in_words(value: object) -> str:
    """A setting or a fact, as a reader writes it and not as Python does."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {in_words(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(in_words, value)) or "none"
    return str(value)


def html_table(
    lines: Iterable[Iterable[object]], head: Iterable[str] = (), class_name: str = "", best: int | None = None
) -> str:
    """A table of these lines; every text in it is escaped. best: the number of the line that stands out."""

    def line(cells: Iterable[object], tag: str, number: int | None = None) -> str:
        opened = '<tr class="best">' if number is not None and number == best else "<tr>"
        return opened + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    header = [line(head, "th")] if head else []
    return "\n".join(
        [f'<table class="{class_name}">', *header, *(line(cells, "td", k) for k, cells in enumerate(lines)), "</table>"]
    )
