"""The README, CONTRIBUTING.md and the site's pages, and what stands in them: links, paths, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(?P<what>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
# A path of this repository in backticks, perhaps with a <placeholder> or a * in it.
PATH = re.compile(r"`((?:rnndrop_cuda|csrc|tests|bench|docs|examples|\.ci)/[\w./<>*-]+)`")
# A Python file by its name alone: the package's or a test's.
FILE = re.compile(r"`(\w+\.py)`")


def name(page: Path) -> str:
    return str(page.relative_to(PROJECT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def outside_fences(page: Path) -> str:
    return FENCE.sub("", text(page))


def links(page: Path) -> Iterator[str]:
    """Targets that are not another site's."""
    for target in LINK.findall(outside_fences(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def paths(page: Path) -> Iterator[str]:
    """Paths in the repository that are named, as a glob's pattern."""
    for path in PATH.findall(text(page)):
        yield re.sub(r"<\w+>", "*", path)


def commands(page: Path) -> Iterator[str]:
    """The lines behind a prompt, continued lines joined, without comments."""
    for fence in FENCE.finditer(text(page)):
        if fence["what"] == "console":
            for line in fence["body"].replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    yield line.removeprefix("$ ")


def inline_code(page: Path) -> Iterator[str]:
    """Of the prose: without the generated tables, whose last line says how the figures were once made."""
    prose = re.sub(r"<!-- table:(.*?) -->.*?<!-- /table:\1 -->", "", outside_fences(page), flags=re.DOTALL)
    for code in re.findall(r"`([^`]+)`", prose):
        yield " ".join(code.split())


def anchors(page: Path) -> set[str]:
    """Those that GitHub and MyST make of the headings."""
    headings = re.findall(r"^#+ (.*)$", outside_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
