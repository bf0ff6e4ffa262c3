"""What the HTML reports have in common: the page, its tables, and the colours of the plots."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

# Okabe & Ito's colours, told apart by colour-blind readers.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#999933")


def document(title: str, body: str, facts: Mapping[str, Mapping[str, object]]) -> str:
    """An HTML page that loads nothing; title and body are HTML, facts are tables below it by their headings, text."""
    tables = "\n".join(
        f"<h2>{html.escape(heading)}</h2>\n{html_table(table.items(), class_name='facts')}"
        for heading, table in facts.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25rem .75rem; text-align: right; vertical-align: top; }}
th:first-child, td:first-child, .facts td {{ text-align: left; }}
img {{ max-width: 100%; }}
.scroll {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}{tables}
</body>
</html>
"""


def html_table(lines: Iterable[Iterable[object]], head: Iterable[str] = (), class_name: str = "") -> str:
    """A table of these lines; every text in it is escaped."""

    def line(cells: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    header = [line(head, "th")] if head else []
    return "\n".join([f'<table class="{class_name}">', *header, *(line(cells, "td") for cells in lines), "</table>"])
