"""What the README and the site name exists: links, anchors, paths, and the README is short enough to be read."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from pages import DOCS, FILE, PAGES, PROJECT, anchors, links, name, outside_fences, paths, text

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def test_the_readme_is_read_to_the_end():
    assert len(text(PROJECT / "README.md").splitlines()) <= 150


@every_page
def test_every_link_leads_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@every_page
def test_every_path_that_is_named_exists(page):
    missing = [path for path in paths(page) if not list(PROJECT.glob(path))]
    assert not missing
    ours = {file.name for folder in ("rnndrop_cuda", "tests") for file in (PROJECT / folder).rglob("*.py")}
    ours |= {file.name for file in PROJECT.glob("*.py")}
    assert not set(FILE.findall(outside_fences(page))) - ours


def test_every_page_is_reached_from_another():
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    listed = {
        (page.parent / f"{line.strip()}.md").resolve() for page in PAGES for line in text(page).splitlines() if line
    }
    for page in DOCS.rglob("*.md"):
        assert page == DOCS / "index.md" or page in linked | listed, name(page)


def test_the_drawings_are_what_the_script_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("draw", DOCS / "drawings" / "draw.py")
    draw = importlib.util.module_from_spec(spec)
    sys.modules["draw"] = draw
    spec.loader.exec_module(draw)
    draw.main(tmp_path)
    drawn = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert drawn == {file.name: file.read_text() for file in (DOCS / "drawings").glob("*.svg")}
