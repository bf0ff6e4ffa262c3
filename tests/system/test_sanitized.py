"""The CPU kernels under AddressSanitizer and UBSan's arithmetic: the fuzz tests of the op, in a build of its own.

That build is of an sdist's files alone, so that it also shows that nothing is missing from one. It lies in
build/sanitized, where ninja brings it up to date.
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rnndrop_cuda import ops
from tests.installs import PROJECT, build_sdist, copy_sources, run, succeed

FOLDER = PROJECT / "build" / "sanitized"
# Of UBSan the checks of arithmetic. With those of every pointer the extension takes twice as long to compile.
UNDEFINED = "signed-integer-overflow,shift,integer-divide-by-zero,float-cast-overflow"
FLAGS = f"-fsanitize=address,{UNDEFINED} -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
RUNTIMES = ("libasan.so", "libubsan.so")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROJECT / "setup.py").exists(), reason="not run from the source folder"),
    pytest.mark.skipif(not ops.HAS_CPU_KERNELS, reason=f"no CPU kernels: {ops.WHY_NOT_LOADED}"),
    pytest.mark.skipif(sys.platform != "linux", reason="the sanitizers are loaded before Python as on Linux"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ and its sanitizers"),
]


def runtimes() -> list[str]:
    """The sanitizers' libraries. Python is not sanitized itself, so that they have to be there before."""
    asked = [["g++", f"-print-file-name={name}"] for name in RUNTIMES]
    return [subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() for command in asked]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unpacked sdist with a sanitized extension in its place."""
    if not all(Path(library).is_absolute() for library in runtimes()):
        pytest.skip("g++ came without the sanitizers: install libasan and libubsan")
    scratch = tmp_path_factory.mktemp("sdist")
    archive = build_sdist(copy_sources(scratch / "source"), scratch / "dist")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tarfile.open(archive) as packed:
            packed.extractall(FOLDER, filter="data")
        source = FOLDER / archive.name.removesuffix(".tar.gz")
        # Without optimisation it compiles in half of the time; the tests' sizes are small.
        env = {"CXX": "g++", "CFLAGS": FLAGS, "CXXFLAGS": FLAGS, "LDFLAGS": FLAGS, "RNNDROP_OPTIMIZE": "0"}
        env |= {"RNNDROP_SKIP_CUDA": "1", "MAX_JOBS": "1"}  # the other core has tests to run
        succeed([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=source, env=env)
        yield source


def under_sanitizers(source: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of Python with that build in the place of the installed one."""
    env = {
        "LD_PRELOAD": shlex.join(runtimes()),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python never frees what it has when it ends
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(source),
        "OMP_NUM_THREADS": "1",
    }
    return run([sys.executable, *arguments], cwd=source, env=env)


def test_the_extension_is_sanitized(sanitized: Path) -> None:
    """It does not load without the runtime; else the next test would show nothing."""
    status, said = run([sys.executable, "-c", "import rnndrop_cuda"], cwd=sanitized, env={"PYTHONPATH": str(sanitized)})
    assert status != 0
    assert "ASan runtime does not come first" in said


def test_the_fuzz_tests_of_the_op(sanitized: Path) -> None:
    # -s: what a sanitizer says, it says as the process ends, when pytest would keep it.
    status, said = under_sanitizers(
        sanitized, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "tests/system/test_fuzz.py"
    )
    assert status == 0, said
    assert " passed" in said and "failed" not in said and "skipped" not in said, said
