"""Build of `rnndrop_cuda._C`: the CPU kernels, and with nvcc and a CUDA torch the CUDA kernels too. Run by setup.py.

What cannot be built for want of a tool is left out, and the reason is kept for `rnndrop info`; a source that does
not compile is an error. Options, all environment variables: FORCE_CUDA=1 makes a missing CUDA build an error,
RNNDROP_SKIP_CUDA=1 leaves it out; RNNDROP_OPTIMIZE=0 compiles quickly to slow code, enough to see whether it links;
TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME, CC and CXX as everywhere.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob
from pathlib import Path

import torch
from flags import compiler_flags
from setuptools import Extension
from setuptools.command.build_py import build_py
from torch.utils import cpp_extension

# Ampere and Hopper; from the PTX a newer GPU's driver compiles the kernels when they are first loaded.
DEFAULT_ARCH_LIST = "8.0;9.0+PTX"

# What of the CPU engine includes more of torch than a few headers.
ENGINE_FOR_TORCH = ("csrc/cpu/backend.cpp", "csrc/cpu/dropout_mask.cpp", "csrc/cpu/from_torch.cpp")


def find_compiler() -> tuple[str, str]:
    """The C++ compiler's command, and what is missing for a build ("" when nothing is)."""
    if platform.system() == "Windows":
        return "", (
            "the kernels need GCC's or Clang's vectors, which the compiler of torch for Windows lacks; under WSL they "
            "are built as on Linux"
        )
    asked = os.environ.get("CXX")
    likely = [asked] if asked else ["c++", "g++", "clang++"]
    command = next((c for c in likely if shutil.which(shlex.split(c)[0])), "")
    if not command:
        return "", (
            f"no C++ compiler was found (looked for {', '.join(likely)}); install one, on Debian or Ubuntu by "
            "`apt install g++`, and install rnndrop_cuda again"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return command, (
            f"Python's C headers are missing (no Python.h in {sysconfig.get_path('include')}); install them, on "
            "Debian or Ubuntu by `apt install python3-dev`, and install rnndrop_cuda again"
        )
    return command, ""


def describe_compiler(command: str) -> str:
    """The compiler's own name and version, "" without a compiler."""
    if not command:
        return ""
    banner = subprocess.run([*shlex.split(command), "--version"], check=True, capture_output=True, text=True).stdout
    return banner.splitlines()[0]


def compile_and_link_with(command: str) -> None:
    """Let torch, which reads CXX, and setuptools, which also reads LDCXXSHARED, use the same compiler."""
    linker = shlex.split(sysconfig.get_config_var("LDCXXSHARED"))
    os.environ["CXX"] = command
    os.environ.setdefault("LDCXXSHARED", f"{command} {shlex.join(linker[1:])}")


def find_cuda_toolkit() -> str | None:
    """The CUDA toolkit's folder: as asked, else a likely one that has nvcc, preferably with headers."""
    asked = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    # torch only looks around the nvcc on PATH; where that one is a wrapper script the toolkit is elsewhere.
    likely = [asked] if asked else [cpp_extension.CUDA_HOME, "/usr/local/cuda"]
    homes = [home for home in likely if home and Path(home, "bin", "nvcc").exists()]
    homes.sort(key=lambda home: not Path(home, "include", "cuda_runtime_api.h").exists())
    return homes[0] if homes else None


def cuda_include_dirs(toolkit: str) -> list[str]:
    """Folders of CUDA headers: the toolkit's, conda's way of it, and torch's wheels for what a small toolkit lacks."""
    wheels = f"{Path(torch.__file__).parents[1]}/nvidia/*/include"
    return [f"{toolkit}/include", *glob(f"{toolkit}/targets/*/include"), *sorted(glob(wheels))]


def why_no_cuda(toolkit: str | None, cpp_missing: str) -> str:
    """Why the CUDA kernels are left out, or "" when they are built."""
    if os.environ.get("RNNDROP_SKIP_CUDA") == "1":
        return "RNNDROP_SKIP_CUDA=1 was set; install rnndrop_cuda again without it"
    if cpp_missing:
        return cpp_missing
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is a build without CUDA; install a CUDA build of torch, then rnndrop_cuda again"
        )
    if toolkit is None:
        where = f"in CUDA_HOME={asked}" if (asked := os.environ.get("CUDA_HOME")) else "on PATH"
        return (
            f"no nvcc was found {where}; install the CUDA toolkit {torch.version.cuda} or let CUDA_HOME name its "
            "folder, then install rnndrop_cuda again"
        )
    nvcc = Path(toolkit, "bin", "nvcc")
    banner = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", banner)
    if release is None:
        return f"`{nvcc} --version` names no release"
    if release[1] != torch.version.cuda.split(".")[0]:
        return (
            f"{nvcc} is of CUDA {release[1]}.{release[2]}, but torch {torch.__version__} was built with CUDA "
            f"{torch.version.cuda}, and both have to be of one major version; install the CUDA toolkit "
            f"{torch.version.cuda} or another build of torch, then rnndrop_cuda again"
        )
    if not any(Path(folder, "cublas_v2.h").exists() for folder in cuda_include_dirs(toolkit)):
        return (
            f"the cuBLAS headers (cublas_v2.h) are not in {toolkit}; install the toolkit's cuBLAS development package "
            "or `pip install nvidia-cublas`, then rnndrop_cuda again"
        )
    return ""


def cuda_arch_list() -> str:
    """GPU architectures to compile for: as asked, else the visible GPUs', else DEFAULT_ARCH_LIST."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if asked not in ("", "native"):
        return asked
    visible = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return ";".join(f"{major}.{minor}" for major, minor in visible) + "+PTX" if visible else DEFAULT_ARCH_LIST


def extension(with_cuda: bool) -> Extension:
    """The one extension module; its sources are found by folder."""
    sources = glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp")
    flags = compiler_flags(facts["compiler"])
    nvcc = ["-O3"]
    if os.environ.get("RNNDROP_OPTIMIZE") == "0":
        flags, nvcc = [*flags, "-O0"], ["-O1", "-Xcicc=-O1", "-Xptxas=-O1"]
    # Whose threads: see csrc/cpu/threads.cpp.
    libgomp = torch.backends.openmp.is_available() and sys.platform == "linux"
    options = {
        "include_dirs": [os.path.abspath("csrc")],
        "define_macros": [("RNNDROP_LIBGOMP", None)] if libgomp else [],
        "extra_compile_args": {"cxx": flags, "nvcc": nvcc},
    }
    if not with_cuda:
        return cpp_extension.CppExtension("rnndrop_cuda._C", sorted(sources), **options)
    sources += glob("csrc/cuda/*.cpp") + glob("csrc/cuda/*.cu")
    options["define_macros"].append(("RNNDROP_WITH_CUDA", None))
    ext = cpp_extension.CUDAExtension("rnndrop_cuda._C", sorted(sources), **options)
    ext.include_dirs += cuda_include_dirs(cpp_extension.CUDA_HOME)
    return ext


def includes_torch(source: str) -> bool:
    """Whether a source includes torch's headers: no kernel file does, and of the CPU's engine only a few."""
    path = Path(source)
    return (path.suffix == ".cpp" and path.parent != Path("csrc/cpu")) or source in ENGINE_FOR_TORCH


def write_if_new(path: Path, text: str) -> None:
    """Leave a file that has this text already as old as it is, so that nothing is compiled again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


class BuildExt(cpp_extension.BuildExtension):
    """Compiles with a generated build_facts.h on the include path."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # Kept from build to build, editable ones too: only what changed is compiled again.
        self.build_temp = os.path.join("build", f"{sys.implementation.cache_tag}-torch-{torch.__version__}")

    def build_extensions(self) -> None:
        header = Path(self.build_temp, "build_facts.h").absolute()
        header.parent.mkdir(parents=True, exist_ok=True)
        text = f"#define RNNDROP_BUILD_FACTS {json.dumps(json.dumps(facts))}\n"
        write_if_new(header, text)
        for ext in self.extensions:
            ext.include_dirs.insert(0, str(header.parent))
            ext.sources = self.torch_side_at_once(ext.sources)
        super().build_extensions()

    def torch_side_at_once(self, sources: list[str]) -> list[str]:
        """The sources with those that need torch's headers in one: the headers take longer than all that is in them."""
        together = [source for source in sources if includes_torch(source)]
        at_once = Path(self.build_temp, "torch_side.cpp")
        write_if_new(at_once, "".join(f'#include "{Path(source).relative_to("csrc")}"\n' for source in together))
        return [str(at_once), *(source for source in sources if source not in together)]


class BuildPy(build_py):
    """Puts the build facts beside the Python files, for an install that has no extension to ask."""

    def run(self) -> None:
        package = Path("rnndrop_cuda")
        if not self.editable_mode:
            # What an earlier build left there, an extension for another torch say, would end up in the wheel.
            shutil.rmtree(self.build_lib, ignore_errors=True)
            package = Path(self.build_lib, package)
        super().run()
        (package / "_build_facts.json").write_text(json.dumps(facts, indent=2) + "\n")


compiler, cpp_missing = find_compiler()
if compiler:
    compile_and_link_with(compiler)
cpp_extension.CUDA_HOME = find_cuda_toolkit()
cuda_missing = why_no_cuda(cpp_extension.CUDA_HOME, cpp_missing)
if cuda_missing and os.environ.get("FORCE_CUDA") == "1":
    raise SystemExit(f"FORCE_CUDA=1, but the CUDA kernels cannot be built: {cuda_missing}")
arch_list = cuda_arch_list()
os.environ["TORCH_CUDA_ARCH_LIST"] = arch_list

facts = {
    "torch": torch.__version__,
    "compiler": describe_compiler(compiler),
    "cpu_missing": cpp_missing,
    "cuda": "" if cuda_missing else torch.version.cuda,
    "cuda_missing": cuda_missing,
    "cuda_arch_list": "" if cuda_missing else arch_list,
}
chosen = f"{facts['compiler']} ({compiler}; the environment variable CXX names another)" if compiler else "none"
print(f"rnndrop_cuda against torch {torch.__version__}, C++ compiler: {chosen}")
print(f"  CPU kernels:  {cpp_missing or 'built'}")
print(f"  CUDA kernels: {cuda_missing or 'built for ' + arch_list}")

# For setup.py.
TORCH_OF_KERNELS = "" if cpp_missing else "torch=={}.{}.*".format(*torch.__version__.split("."))
EXTENSIONS = [] if cpp_missing else [extension(with_cuda=not cuda_missing)]
COMMANDS = {"build_ext": BuildExt, "build_py": BuildPy}
