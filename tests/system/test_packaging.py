"""The build: what it makes of the tools it finds, and that a plain `pip install .` uses the torch that is there.

Most tests run setup.py on a copy of the project as far as the command that records the decisions, which compiles
nothing. The installs go to a bare virtual environment that sees this one's packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from build_backend.flags import compiler_flags
from tests.installs import PROJECT, SITE_PACKAGES, copy_sources, make_environment, run

needs_sources = pytest.mark.skipif(not (PROJECT / "setup.py").exists(), reason="not run from the source folder")
needs_cpu_torch = pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
pytestmark = needs_sources


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the project without anything built."""
    return copy_sources(tmp_path / "source")


def pip_install(python: Path, source: Path, *options: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--verbose", *options, "."]
    status, log = run(command, cwd=source, env=env)
    if "No matching distribution found for setuptools" in log:
        pytest.skip("no package index is in reach")
    return status, log


def installed_info(python: Path) -> str:
    """What `rnndrop info` prints in that environment."""
    status, text = run([python, "-c", "from rnndrop_cuda import info; info.main([])"], cwd=Path("/"))
    assert status == 0, text
    return text


# ---------------------------------------------------------------- decisions


def test_flags_are_for_the_compiler_by_what_it_calls_itself() -> None:
    gcc, clang_16, clang_19 = (
        compiler_flags(banner)
        for banner in ("g++ (Debian 12.2.0) 12.2.0", "Debian clang version 16.0.6 (15~deb12u1)", "clang version 19.1.7")
    )
    assert "-fvect-cost-model=dynamic" in gcc and "-ffp-contract=fast" not in gcc
    assert "-disable-vector-combine" in clang_16
    assert "-disable-vector-combine" not in clang_19
    assert all("-Werror=ignored-attributes" in flags for flags in (clang_16, clang_19))


# setup.py under a torch that says it was built with CUDA; its kernels are never compiled here.
WITH_CUDA_TORCH = """
import runpy, sys, torch
torch.version.cuda = "13.0"
sys.argv = ["setup.py", "build_py"]
runpy.run_path("setup.py", run_name="__main__")
"""


def decide(source: Path, *, cuda_torch: bool = False, **env: str) -> dict[str, str]:
    """The build facts that setup.py arrives at under these environment variables."""
    command = ["-c", WITH_CUDA_TORCH] if cuda_torch else ["setup.py", "build_py"]
    status, log = run([sys.executable, *command], cwd=source, env=env)
    assert status == 0, log
    (file,) = source.glob("build/lib*/rnndrop_cuda/_build_facts.json")
    facts: dict[str, str] = json.loads(file.read_text())
    return facts


def make_toolkit(folder: Path, release: str) -> Path:
    """A CUDA toolkit as far as setup.py looks at it."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    for header in ("cuda_runtime_api.h", "cublas_v2.h"):
        (folder / "include" / header).touch()
    return folder


@needs_cpu_torch
def test_cpu_torch_leaves_cuda_out_and_says_so(source: Path) -> None:
    facts = decide(source)
    assert facts["torch"] == torch.__version__
    assert facts["cpu_missing"] == ""
    assert facts["cuda"] == facts["cuda_arch_list"] == ""
    assert facts["cuda_missing"].startswith(f"torch {torch.__version__} is a build without CUDA; install a CUDA build")


def test_missing_compiler_is_named(source: Path) -> None:
    assert "(looked for /nowhere/c++)" in decide(source, CXX="/nowhere/c++")["cpu_missing"]


def test_build_names_its_compiler(source: Path) -> None:
    status, log = run([sys.executable, "setup.py", "build_py"], cwd=source, env={"CXX": "c++"})
    assert status == 0, log
    assert re.search(r"C\+\+ compiler: \S.* \(c\+\+; the environment variable CXX names another\)", log)


def test_windows_gets_the_python_path_and_why(source: Path) -> None:
    script = "import platform; platform.system = lambda: 'Windows'\n" + WITH_CUDA_TORCH
    status, log = run([sys.executable, "-c", script], cwd=source)
    assert status == 0, log
    assert "CPU kernels:  the kernels need GCC's or Clang's vectors" in log


@pytest.mark.parametrize("how", [["-c", "import rnndrop_cuda"], ["-m", "rnndrop_cuda.info"]], ids=["import", "-m"])
def test_an_unbuilt_clone_that_hides_an_install_is_named(source: Path, tmp_path: Path, how: list[str]) -> None:
    status, log = run([make_environment(tmp_path / "env"), *how], cwd=source, env={"PYTHONPATH": ""})
    assert status == 0, log
    assert f"{source / 'rnndrop_cuda'} is a source folder that was never built" in log
    assert "run it in another folder, or build here" in log


def test_an_install_without_kernels_says_so_once(source: Path, tmp_path: Path) -> None:
    (source / "rnndrop_cuda" / "_build_facts.json").write_text("{}")
    script = "import rnndrop_cuda, rnndrop_cuda.info"
    status, log = run([make_environment(tmp_path / "env"), "-c", script], cwd=source, env={"PYTHONPATH": ""})
    assert status == 0, log
    assert log.count("the kernels were not built when rnndrop_cuda was installed") == 1


def test_skip_cuda(source: Path, tmp_path: Path) -> None:
    toolkit = make_toolkit(tmp_path / "cuda", "13.0")
    facts = decide(source, cuda_torch=True, CUDA_HOME=str(toolkit), RNNDROP_SKIP_CUDA="1")
    assert facts["cuda"] == ""
    assert facts["cuda_missing"].startswith("RNNDROP_SKIP_CUDA=1 was set")


@needs_cpu_torch
def test_force_cuda_without_cuda_torch_is_an_error(source: Path) -> None:
    status, log = run([sys.executable, "setup.py", "build_py"], cwd=source, env={"FORCE_CUDA": "1"})
    assert status != 0
    assert log.splitlines()[-1].startswith(
        f"FORCE_CUDA=1, but the CUDA kernels cannot be built: torch {torch.__version__} is a build without CUDA"
    )


def test_cuda_is_built_without_a_visible_gpu(source: Path, tmp_path: Path) -> None:
    toolkit = make_toolkit(tmp_path / "cuda", "13.1")
    facts = decide(source, cuda_torch=True, CUDA_HOME=str(toolkit), CUDA_VISIBLE_DEVICES="")
    assert facts["cuda_missing"] == ""
    assert facts["cuda"] == "13.0"
    assert facts["cuda_arch_list"] == "8.0;9.0+PTX"


def test_arch_list_is_honoured(source: Path, tmp_path: Path) -> None:
    toolkit = make_toolkit(tmp_path / "cuda", "13.0")
    facts = decide(source, cuda_torch=True, CUDA_HOME=str(toolkit), TORCH_CUDA_ARCH_LIST="8.6")
    assert facts["cuda_arch_list"] == "8.6"


def test_mismatch_of_nvcc_and_torch_is_named(source: Path, tmp_path: Path) -> None:
    toolkit = make_toolkit(tmp_path / "cuda", "12.4")
    why = decide(source, cuda_torch=True, CUDA_HOME=str(toolkit))["cuda_missing"]
    assert f"{toolkit}/bin/nvcc is of CUDA 12.4, but torch {torch.__version__} was built with CUDA 13.0" in why


def test_missing_nvcc_is_named(source: Path, tmp_path: Path) -> None:
    why = decide(source, cuda_torch=True, CUDA_HOME=str(tmp_path / "nothing"))["cuda_missing"]
    assert why.startswith(f"no nvcc was found in CUDA_HOME={tmp_path}/nothing; install the CUDA toolkit 13.0")


def test_missing_cublas_headers_are_named(source: Path, tmp_path: Path) -> None:
    if any(SITE_PACKAGES.glob("nvidia/*/include/cublas_v2.h")):
        pytest.skip("torch's wheels bring the cuBLAS headers")
    toolkit = make_toolkit(tmp_path / "cuda", "13.0")
    (toolkit / "include" / "cublas_v2.h").unlink()
    why = decide(source, cuda_torch=True, CUDA_HOME=str(toolkit))["cuda_missing"]
    assert why.startswith(f"the cuBLAS headers (cublas_v2.h) are not in {toolkit}")


def test_nothing_of_an_earlier_build_gets_into_the_wheel(source: Path) -> None:
    decide(source)
    (package,) = source.glob("build/lib*/rnndrop_cuda")
    (package / "_C.of-another-torch.so").touch()
    decide(source)
    assert not (package / "_C.of-another-torch.so").exists()


# ---------------------------------------------------------------- the build backend


def ask_backend(python: Path, tmp_path: Path) -> tuple[list[str], bool]:
    """What the backend, run by that interpreter, requires for a build, and whether torch is on its path then."""
    only_setuptools = tmp_path / "only_setuptools"
    only_setuptools.mkdir()
    for name in ("setuptools", "_distutils_hack"):
        (only_setuptools / name).symlink_to(SITE_PACKAGES / name)
    script = (
        "import json, importlib.util, backend; "
        "print(json.dumps([backend.get_requires_for_build_wheel(), importlib.util.find_spec('torch') is not None]))"
    )
    path = os.pathsep.join([str(PROJECT / "build_backend"), str(only_setuptools)])
    status, log = run([python, "-c", script], cwd=tmp_path, env={"PYTHONPATH": path})
    assert status == 0, log
    requires, importable = json.loads(log.splitlines()[-1])
    return requires, importable


def test_backend_uses_the_installed_torch(tmp_path: Path) -> None:
    assert ask_backend(make_environment(tmp_path / "env"), tmp_path) == ([], True)


def test_backend_finds_torch_from_a_venv_made_for_the_build(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    throw_away = tmp_path / "pip-build-env-x"
    subprocess.run([python, "-m", "venv", "--without-pip", throw_away], check=True)
    assert ask_backend(throw_away / "bin" / "python", tmp_path) == ([], True)


def test_backend_requires_torch_where_there_is_none(tmp_path: Path) -> None:
    """Not even the torch of the environment that made this one: it is not the one that will be run with."""
    maker = make_environment(tmp_path / "maker")
    subprocess.run([maker, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    assert ask_backend(tmp_path / "env" / "bin" / "python", tmp_path) == (["torch>=2.11"], False)


def test_backend_requires_torch_where_it_is_too_old(tmp_path: Path) -> None:
    dist_info = tmp_path / "old" / "torch-2.10.1.dist-info"
    dist_info.mkdir(parents=True)
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.10.1\n")
    python = make_environment(tmp_path / "env", site_packages=tmp_path / "old")
    assert ask_backend(python, tmp_path) == (["torch>=2.11"], False)


# ---------------------------------------------------------------- installs


# Of the extension only what tells the build facts; `make test` itself has built the whole of it, isolated as well.
SMALL_MODULE = """
#include <pybind11/pybind11.h>
#include "build_facts.h"
PYBIND11_MODULE(_C, m) { m.def("build_facts_json", [] { return RNNDROP_BUILD_FACTS; }); }
"""


def replace_sources(source: Path, module: str) -> None:
    shutil.rmtree(source / "csrc")
    (source / "csrc").mkdir()
    (source / "csrc" / "module.cpp").write_text(module)


@pytest.mark.slow
def test_isolated_install_builds_portable_code_against_the_installed_torch(source: Path, tmp_path: Path) -> None:
    replace_sources(source, SMALL_MODULE)
    python = make_environment(tmp_path / "env")
    status, log = pip_install(python, source, env={"RNNDROP_SKIP_CUDA": "1"})
    assert status == 0, log
    assert not re.search(r"(Collecting|Downloading|Processing|Using cached) \S*\btorch\b", log)
    (compilation,) = re.findall(r".* -c \S+/torch_side\.cpp .*", log)
    assert f"-I{Path(torch.__file__).parent}/include " in compilation
    assert " -O3 " in compilation
    assert "-march" not in compilation
    (installed,) = (tmp_path / "env").glob("lib/python*/site-packages/rnndrop_cuda")
    script = "import torch, _C; print(_C.build_facts_json())"  # without the package, which needs all of the extension
    status, facts = run([python, "-c", script], cwd=installed)
    assert status == 0, facts
    assert json.loads(facts)["torch"] == torch.__version__


@pytest.mark.slow
def test_install_without_a_compiler_gives_the_python_path(source: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "env")
    status, log = pip_install(python, source, "--no-build-isolation", env={"PATH": "/nowhere"})
    assert status == 0, log
    text = installed_info(python)
    assert re.search(r"CPU kernels +no", text)
    assert re.search(r"python +yes", text)
    assert re.search(r"all kernels: no C\+\+ compiler was found .*install one", text)


def test_a_source_that_does_not_compile_fails_the_install(source: Path, tmp_path: Path) -> None:
    replace_sources(source, "#error planted mistake\n")
    python = make_environment(tmp_path / "env")
    status, log = pip_install(python, source, "--no-build-isolation")
    assert status != 0
    assert "planted mistake" in log
    assert not list((tmp_path / "env").glob("lib/python*/site-packages/rnndrop*"))


# ---------------------------------------------------------------- versions


def test_the_same_versions_everywhere() -> None:
    constraints = dict(re.findall(r"^([\w-]+)==([\w.]+)", (PROJECT / "constraints.txt").read_text(), re.MULTILINE))
    hooks = re.findall(r"\[([\w-]+)==([\w.]+)\]", (PROJECT / ".pre-commit-config.yaml").read_text())
    assert {name for name, _ in hooks} == {"ruff", "clang-format"}
    assert dict(hooks).items() <= constraints.items()
    backend = (PROJECT / "build_backend" / "backend.py").read_text()
    minimum = ", ".join(re.search(r'"torch>=(\d+)\.(\d+)"', (PROJECT / "setup.py").read_text()).groups())
    assert f"MINIMUM_TORCH = ({minimum})" in backend
