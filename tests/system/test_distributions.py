"""What would be uploaded: the sdist has everything and builds, the wheel says which torch it fits and runs.

The wheel is made in the source folder, of what was compiled there. That all of the sdist's sources compile is seen in
test_sanitized.py, where the sanitizers get them.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import torch

from rnndrop_cuda import ops
from tests.installs import PROJECT, build_sdist, copy_sources, make_environment, succeed

MINOR = ".".join(torch.__version__.split(".")[:2])
BUILT_HERE = PROJECT / "build" / f"{sys.implementation.cache_tag}-torch-{torch.__version__}"
NOT_PACKED = {".gitignore"}


def is_installed(*names: str) -> bool:
    """Not asked by import: a folder of the project is called build, too."""
    found = {distribution.name for distribution in importlib.metadata.distributions()}
    return found.issuperset(names)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PROJECT / "setup.py").exists(), reason="not run from the source folder"),
    pytest.mark.skipif(not is_installed("build", "twine"), reason="needs build and twine: pip install build twine"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sdist") / "source")


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    return build_sdist(source, source.parent / "dist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ops.HAS_CPU_KERNELS or not BUILT_HERE.is_dir():
        pytest.skip("the kernels were not compiled in this folder, and would take minutes")
    out = tmp_path_factory.mktemp("wheel")
    # With other flags ninja would compile all of it anew.
    flags = {"CFLAGS": os.environ["CFLAGS"]} if "CFLAGS" in os.environ else {}
    succeed([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, PROJECT], cwd=out, env=flags)
    (archive,) = out.glob("*.whl")
    return archive


def requirements(metadata: str) -> set[str]:
    return {line for line in Parser().parsestr(metadata).get_all("Requires-Dist", []) if "extra ==" not in line}


def test_the_sdist_is_whole(source: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    generated = re.compile(r"(PKG-INFO|setup\.cfg|[^/]*\.egg-info(/.*)?)?")
    files = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    there = {path.relative_to(source).as_posix() for path in files}
    sources = {name for name in there if not generated.fullmatch(name)}
    assert sources - packed == NOT_PACKED
    assert {name for name in packed - there if not generated.fullmatch(name) and "." in Path(name).name[1:]} == set()


def test_an_sdist_needs_no_torch(source: Path, tmp_path: Path) -> None:
    """Neither its build, nor what the backend asks for."""
    program = (
        "import sys; sys.modules['torch'] = None; sys.path.insert(0, 'build_backend'); import backend\n"
        f"assert backend.get_requires_for_build_sdist() == []; backend.build_sdist({str(tmp_path)!r})"
    )
    succeed([sys.executable, "-c", program], cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        (name,) = [name for name in packed.getnames() if name.count("/") == 1 and name.endswith("PKG-INFO")]
        assert requirements(packed.extractfile(name).read().decode()) == {"torch>=2.11", "numpy"}


def test_the_sdist_installs(sdist: Path, tmp_path: Path) -> None:
    """Into a fresh environment; without a compiler, so that it takes seconds."""
    python = make_environment(tmp_path / "env")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation"]
    succeed([*pip, sdist], cwd=tmp_path, env={"PATH": "/nowhere"})
    assert "python   yes" in succeed([python, "-m", "rnndrop_cuda", "info"], cwd=tmp_path)
    (metadata,) = (tmp_path / "env").glob("lib/python*/site-packages/rnndrop_cuda-*.dist-info/METADATA")
    assert requirements(metadata.read_text()) == {"torch>=2.11", "numpy"}, "plain Python fits any torch"


def test_what_an_index_says_of_them(sdist: Path, wheel: Path) -> None:
    succeed([sys.executable, "-m", "twine", "check", "--strict", sdist, wheel], cwd=sdist.parent)


def test_the_wheel_says_which_torch_it_fits(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        assert requirements(archive.read(metadata).decode()) == {f"torch=={MINOR}.*", "numpy"}


@pytest.mark.skipif(sys.platform != "linux", reason="manylinux is of Linux")
@pytest.mark.skipif(not is_installed("auditwheel", "patchelf"), reason="needs auditwheel and patchelf")
def test_a_manylinux_wheel_brings_no_library_and_runs(wheel: Path, tmp_path: Path) -> None:
    """torch's libraries are those of the installed torch."""
    exclude = [word for library in ("libtorch*", "libc10*") for word in ("--exclude", library)]
    repair = [sys.executable, "-m", "auditwheel", "repair", *exclude, "--wheel-dir", tmp_path, wheel]
    succeed(repair, cwd=tmp_path)
    (repaired,) = tmp_path.glob("*.whl")
    assert re.search(r"-manylinux_2_\d+_(x86_64|aarch64)\.whl$", repaired.name)
    with zipfile.ZipFile(repaired) as archive:
        libraries = [name for name in archive.namelist() if re.search(r"\.so(\.|$)", name)]
    assert len(libraries) == 1 and libraries[0].startswith("rnndrop_cuda/_C.")
    python = make_environment(tmp_path / "env")
    succeed(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", repaired], cwd=tmp_path
    )
    program = (
        "import torch, rnndrop_cuda; print(rnndrop_cuda.__file__)\n"
        "layer = rnndrop_cuda.GalLSTM(30, 12, dropout=0.5, backend='cpu')\n"
        "layer(torch.randn(5, 3, 30))[0].sum().backward()"
    )
    assert str(tmp_path / "env") in succeed([python, "-c", program], cwd=tmp_path)
