"""The names of the seminar's package: what they import, and when."""

import subprocess
import sys


def run(code: str) -> str:
    """What the code prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_imported_before_it_is_asked_for():
    code = """if True:
        import sys
        import rnndrop_cuda.seminar
        assert not {"safetensors", "jinja2", "matplotlib"} & sys.modules.keys()
        assert not [name for name in sys.modules if name.startswith("rnndrop_cuda.seminar.commands")]
        print(rnndrop_cuda.seminar.load_checkpoint.__module__)
    """
    assert run(code) == "rnndrop_cuda.seminar.training.checkpoint\n"


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
