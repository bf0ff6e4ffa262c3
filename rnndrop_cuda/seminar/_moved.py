"""The old import paths of modules that have moved: they still work, with a DeprecationWarning that names the new ones.

`install` adds a finder that is asked last, for what no other one finds. A module is imported when its old path is.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

SEMINAR = "rnndrop_cuda.seminar"
MOVED = {
    "checkpoint": "training.checkpoint",
    "compare": "commands.compare",
    "experiment": "training.experiment",
    "options": "commands.options",
    "predict": "analysis.predict",
    "processes": "training.processes",
    "report": "reports.compare",
    "results": "reports.results",
    "rmsprop": "training.rmsprop",
    "study": "commands.study",
    "study_report": "reports.study",
    "trace": "analysis.trace",
    "train_command": "commands.train",
    "train_settings": "settings",
    "trainer": "training.trainer",
    "vectors": "data.vectors",
    "visualize": "reports.picture",
}
"""Old names and new ones, both within the seminar."""


class OldPaths(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules in MOVED by their old paths, and puts the modules of the new ones in their places."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return importlib.util.spec_from_loader(fullname, self) if package == SEMINAR and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = f"{SEMINAR}.{MOVED[old.rpartition('.')[2]]}"
        warnings.warn(f"{old} has moved: import {new} instead", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Makes the old paths work, once for all."""
    if not any(isinstance(finder, OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(OldPaths())
