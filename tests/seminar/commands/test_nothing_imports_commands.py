"""The libraries do not depend on the commands."""

import ast
from pathlib import Path

import rnndrop_cuda

PACKAGE = Path(rnndrop_cuda.__file__).parent
COMMANDS = PACKAGE / "seminar" / "commands"


def imported(file: Path) -> set[str]:
    """The modules that a file imports, as dotted names, and what it takes from them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_only_commands_import_commands():
    of_commands = {file: imported(file) for file in COMMANDS.glob("*.py")}
    assert any(name.startswith("rnndrop_cuda.seminar.commands") for names in of_commands.values() for name in names)
    others = [file for file in PACKAGE.rglob("*.py") if file.parent != COMMANDS]
    assert len(others) > 30
    for file in others:
        assert not [name for name in imported(file) if "seminar.commands" in name], file
