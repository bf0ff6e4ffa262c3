"""Imports within bench/ go one way, also those inside functions, and nothing imports a command."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

import bench
from tests.bench.samples import PROJECT


def imports_within(folder: Path) -> dict[str, set[str]]:
    """By module of that folder, the modules of it that it imports, wherever the import stands."""
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    package = folder.name
    graph = {}
    for module in modules:
        names = set()
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                origin = f"{package}.{node.module or ''}".rstrip(".") if node.level else node.module
                names |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
        graph[module] = {name.split(".")[1] for name in names if name.startswith(f"{package}.")} & modules
    return graph


def in_order(graph: dict[str, set[str]]) -> list[str]:
    """Every module after those that it imports. Raises CycleError if that is impossible."""
    return list(graphlib.TopologicalSorter(graph).static_order())


def test_bench_has_no_import_cycle() -> None:
    graph = imports_within(PROJECT / "bench")
    assert graph["lineups"] >= {"contenders", "rivals", "layers"}, "imports are not seen"
    assert set(in_order(graph)) == set(graph)


def test_the_package_says_what_each_module_is_for() -> None:
    described = set(re.findall(r"\w+", bench.__doc__ or ""))
    assert set(imports_within(PROJECT / "bench")) - described == set()


def test_nothing_imports_a_command() -> None:
    graph = imports_within(PROJECT / "bench")
    runs = 'if __name__ == "__main__":'
    commands = {module for module in graph if runs in (PROJECT / "bench" / f"{module}.py").read_text(encoding="utf-8")}
    assert commands == {
        "bars", "curves", "float16", "keras_layers", "language_model", "latency", "lstm", "memory", "small_case",
        "steps", "sweep", "tables", "trials",
    }  # fmt: skip
    assert {module: imported & commands for module, imported in graph.items() if imported & commands} == {}


@pytest.mark.parametrize(
    "importing",
    ["from bench import a", "from bench.a import f", "import bench.a", "from . import a", "from .a import f"],
)
def test_a_cycle_through_a_function_is_seen(tmp_path: Path, importing: str) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "a.py").write_text("from bench import b\n")
    (folder / "b.py").write_text(f"def f():\n    {importing}\n")
    with pytest.raises(graphlib.CycleError):
        in_order(imports_within(folder))
