"""Old import paths give the modules of the new ones, with a warning, and import nothing before they are asked for."""

import importlib
import subprocess
import sys

import pytest

from rnndrop_cuda import seminar
from rnndrop_cuda.seminar._moved import MOVED, SEMINAR


@pytest.mark.parametrize("name", MOVED)
def test_an_old_path_gives_the_module_of_the_new_one(name, monkeypatch):
    old, new = f"{SEMINAR}.{name}", f"{SEMINAR}.{MOVED[name]}"
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} has moved: import {new} instead$") as caught:
        module = importlib.import_module(old)
    assert caught[0].filename == importlib.__file__, "who imports it is told, and nobody on the way"
    assert module is importlib.import_module(new)
    assert module.__name__ == module.__spec__.name == new
    assert getattr(seminar, name) is module, "from rnndrop_cuda.seminar import ..."


def run(code: str) -> str:
    """What the code prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_imported_before_it_is_asked_for():
    code = """if True:
        import sys, warnings
        import rnndrop_cuda.seminar
        assert not {"safetensors", "jinja2", "matplotlib"} & sys.modules.keys()
        assert not [name for name in sys.modules if name.startswith("rnndrop_cuda.seminar.commands")]
        with warnings.catch_warnings(record=True, action="always") as caught:
            from rnndrop_cuda.seminar import checkpoint
            from rnndrop_cuda.seminar.trace import read
        print(*(f"{warning.filename}: {warning.message}" for warning in caught), sep="\\n")
        assert checkpoint.load_checkpoint is rnndrop_cuda.seminar.load_checkpoint
    """
    first, second = run(code).splitlines()
    assert first.startswith("<string>: rnndrop_cuda.seminar.checkpoint has moved")
    assert second.startswith("<string>: rnndrop_cuda.seminar.trace has moved")


def test_a_missing_extra_and_an_unknown_name_are_told():
    code = """if True:
        import sys
        sys.modules["safetensors"] = None
        from rnndrop_cuda import seminar
        from rnndrop_cuda.seminar import *
        for name in ("load_checkpoint", "nonsense"):
            try:
                getattr(seminar, name)
            except (ImportError, AttributeError) as error:
                print(type(error).__name__, error)
    """
    missing, unknown = run(code).splitlines()
    assert missing.startswith("ModuleNotFoundError") and "safetensors" in missing
    assert unknown == "AttributeError module 'rnndrop_cuda.seminar' has no attribute 'nonsense'"
