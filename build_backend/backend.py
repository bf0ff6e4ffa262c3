"""setuptools' build backend, made to build against the torch that is already installed.

pip's isolated build hides the packages of the environment it installs into, so an extension that lists torch as a
build requirement is compiled against a freshly downloaded torch, often not the one it will run with. Here the
installing interpreter is asked for its torch outside of the isolation: where it has a recent enough one, that one
is put on the path and no other is required; where it has none, torch is a build requirement like any other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

MINIMUM_TORCH = (2, 11)  # as in setup.py

# Run by a fresh interpreter: prints [torch's version, sys.path], or null where no torch is installed.
ASK_FOR_TORCH = """
import importlib.metadata, json, sys
try:
    print(json.dumps([importlib.metadata.version("torch"), sys.path]))
except importlib.metadata.PackageNotFoundError:
    print("null")
"""


def installing_interpreter() -> str:
    """The interpreter that the package is built for: this one, unless it is that of a venv made for the build only.

    pip's legacy isolation runs the installing interpreter; its venv isolation and pypa/build run a throw-away venv,
    whose pyvenv.cfg names the command that made it.
    """
    if "build-env-" not in Path(sys.prefix).name:
        return sys.executable
    made_by = re.search(r"^command = (.+?) -m venv ", Path(sys.prefix, "pyvenv.cfg").read_text(), re.MULTILINE)
    return made_by[1] if made_by else sys.executable


def path_of_installed_torch() -> list[str]:
    """sys.path of the installing interpreter, [] where it has no torch that is recent enough."""
    # The legacy isolation is these variables' doing; without them the interpreter sees its own packages again.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    command = [installing_interpreter(), "-c", ASK_FOR_TORCH]
    answer = subprocess.run(command, env=env, cwd=os.sep, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(answer)
    if found is None or tuple(int(number) for number in found[0].split(".")[:2]) < MINIMUM_TORCH:
        return []
    return [entry for entry in found[1] if entry]


installed = path_of_installed_torch()
# At the end, so that the build requirements which pip has put into the isolated environment come first.
sys.path += [entry for entry in installed if entry not in sys.path]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return nothing where the installing interpreter has torch, else torch."""
    return [] if installed else ["torch>={}.{}".format(*MINIMUM_TORCH)]


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """Return nothing: an sdist has the sources alone, and setup.py leaves torch alone for it."""
    return []
