"""Build of `rnndrop_cuda._C`: the CPU kernels, and with nvcc and a CUDA torch the CUDA kernels too.

What cannot be built for want of a tool is left out, and the reason is recorded for `rnndrop info`; a source that
does not compile is an error. Options, all environment variables: FORCE_CUDA=1 makes a missing CUDA build an
error, RNNDROP_SKIP_CUDA=1 leaves it out; TORCH_CUDA_ARCH_LIST, MAX_JOBS, CUDA_HOME, CC and CXX as everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from glob import glob
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.build_py import build_py
from torch.utils import cpp_extension

# Ampere and Hopper; the PTX lets newer GPUs compile the kernels when they first load them.
DEFAULT_ARCH_LIST = "8.0;9.0+PTX"


def find_compiler() -> tuple[str, str]:
    """The C++ compiler's command, and what is missing for a build ("" when nothing is)."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    command = next((c for c in candidates if shutil.which(shlex.split(c)[0])), "")
    if not command:
        return "", f"no C++ compiler (looked for {', '.join(candidates)})"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return command, f"Python's own headers (Python.h) are not in {sysconfig.get_path('include')}"
    return command, ""


def why_no_cuda(cpp_missing: str) -> str:
    """Why the CUDA kernels are left out, or "" when they are built."""
    if os.environ.get("RNNDROP_SKIP_CUDA") == "1":
        return "RNNDROP_SKIP_CUDA=1 was set"
    if cpp_missing:
        return cpp_missing
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    home = cpp_extension.CUDA_HOME
    nvcc = Path(home or "", "bin", "nvcc")
    if home is None or not nvcc.exists():
        return "nvcc was not found (neither on PATH nor under CUDA_HOME)"
    banner = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", banner)
    if release is None:
        return f"{nvcc} --version names no release"
    if release[1] != torch.version.cuda.split(".")[0]:
        return (
            f"nvcc is CUDA {release[1]}.{release[2]} but torch {torch.__version__} was built with CUDA "
            f"{torch.version.cuda}: the first number of both must be the same"
        )
    return ""


def cuda_arch_list() -> str:
    """GPU architectures to compile for: as asked, else the visible GPUs', else DEFAULT_ARCH_LIST."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if asked not in ("", "native"):
        return asked
    visible = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    return ";".join(f"{major}.{minor}" for major, minor in visible) + "+PTX" if visible else DEFAULT_ARCH_LIST


compiler, cpp_missing = find_compiler()
no_cuda = why_no_cuda(cpp_missing)
if no_cuda and os.environ.get("FORCE_CUDA") == "1":
    raise SystemExit(f"FORCE_CUDA=1, but the CUDA kernels cannot be built: {no_cuda}.")

facts = {
    "torch": torch.__version__,
    "compiler": compiler,
    "cpu_missing": cpp_missing,
    "cuda": torch.version.cuda if not no_cuda else "",
    "cuda_missing": no_cuda,
    "cuda_arch_list": cuda_arch_list() if not no_cuda else "",
}


def extension():
    """The extension module, with the CUDA sources unless there is a reason against."""
    sources = glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp")
    flags = {"cxx": ["-O3"], "nvcc": ["-O3"]}
    if no_cuda:
        return cpp_extension.CppExtension(
            "rnndrop_cuda._C", sorted(sources), include_dirs=[os.path.abspath("csrc")], extra_compile_args=flags
        )
    os.environ["TORCH_CUDA_ARCH_LIST"] = facts["cuda_arch_list"]
    ext = cpp_extension.CUDAExtension(
        "rnndrop_cuda._C",
        sorted(sources + glob("csrc/cuda/*.cpp") + glob("csrc/cuda/*.cu")),
        include_dirs=[os.path.abspath("csrc")],
        define_macros=[("RNNDROP_WITH_CUDA", None)],
        extra_compile_args=flags,
    )
    # Many toolkits lack the cublas and cusparse headers that torch's own headers include; torch's wheels bring them.
    ext.include_dirs += sorted(glob(str(Path(torch.__file__).parents[1] / "nvidia" / "*" / "include")))
    return ext


class BuildExt(cpp_extension.BuildExtension):
    """Compiles with `build_facts.h` on the include path."""

    def build_extensions(self) -> None:
        header = Path(self.build_temp, "build_facts.h")
        header.parent.mkdir(parents=True, exist_ok=True)
        text = f"#define RNNDROP_BUILD_FACTS {json.dumps(json.dumps(facts))}\n"
        if not header.exists() or header.read_text() != text:  # an untouched header spares a recompilation
            header.write_text(text)
        for ext in self.extensions:
            ext.include_dirs.insert(0, str(header.parent.resolve()))
        super().build_extensions()


class BuildPy(build_py):
    """Puts the build facts beside the Python files, for an install that has no extension to ask."""

    def run(self) -> None:
        super().run()
        package = Path("rnndrop_cuda") if self.editable_mode else Path(self.build_lib, "rnndrop_cuda")
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build_facts.json").write_text(json.dumps(facts, indent=2) + "\n")


if cpp_missing:
    print(f"rnndrop: Python path only, no kernels: {cpp_missing}.")
elif no_cuda:
    print(f"rnndrop: building the CPU kernels with {compiler}; no CUDA kernels: {no_cuda}.")
else:
    print(f"rnndrop: building the CPU and CUDA kernels ({facts['cuda_arch_list']}) with {compiler}.")

setup(
    ext_modules=[] if cpp_missing else [extension()],
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
)
