"""What the development install takes beside torch, a requirement a line: every extra of pyproject.toml."""

from pathlib import Path

import tomllib

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
requirements = {requirement for extra in project["optional-dependencies"].values() for requirement in extra}
print(*sorted(requirement for requirement in requirements if not requirement.startswith(project["name"])), sep="\n")
