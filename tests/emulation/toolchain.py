"""Build and run CUDA kernel files with the host compiler, on the emulation in this folder.

Used by the tests here and in tests/cuda (`from tests.emulation import toolchain`). Kernel files (.cu)
and drivers (.cpp) become either a program (`build_program`, then `run`) or a library of torch operators
(`build_torch_ext`, then `torch.ops.load_library`). Builds live in build/emulation/<name>-<variant>/, where
ninja brings them up to date, so that a second test run compiles nothing.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ninja import BIN_DIR as NINJA_BIN_DIR

REPO = Path(__file__).resolve().parents[2]
BUILD_ROOT = REPO / "build" / "emulation"
SCHEDULES = ("fifo", "lifo", "rand1", "rand2")
"""Orders in which the emulation runs threads: a kernel's result must not depend on it."""

PLANTED = "EMU_PLANTED"
"""The variable that chooses one of the mistakes in a program, by the number that it asks planted.h for."""

_SANITIZER_FLAGS = {
    None: [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
    # The compiler's hooks before every load and store, which runtime/weak_hooks.h takes for itself.
    "weak": ["-fsanitize=thread", "-fno-threadsafe-statics", "-DEMU_WEAK_MEMORY"],
}
_SANITIZER_OPTIONS = {
    # Threads of a failed launch never free what they own.
    "ASAN_OPTIONS": "detect_leaks=0",
    # One race is enough; a kernel without its barrier has thousands.
    "TSAN_OPTIONS": "halt_on_error=1",
}


class BuildError(RuntimeError):
    """The compiler refused; the message is its output."""


def compiler() -> list[str]:
    """The command of the C++ compiler ($CXX, else g++), or [] where there is none."""
    command = shlex.split(os.environ.get("CXX", "g++"))
    return command if shutil.which(command[0]) else []


@functools.cache
def cuda_include_dirs() -> tuple[Path, ...]:
    """Folders with CUDA's headers: of the toolkit, else of the nvidia-cuda-* wheels, else none."""
    roots = [Path(os.environ[name]) / "include" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):
        roots.append(Path(nvcc).resolve().parents[1] / "include")
    roots.append(Path("/usr/local/cuda/include"))
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        roots.append(Path(folder) / "cu13" / "include")
    for root in roots:
        cccl = root / "cccl"
        dirs = (root, cccl) if cccl.is_dir() else (root,)
        needed = ("cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "crt/host_config.h", "nv/target")
        if all(any((d / header).is_file() for d in dirs) for header in needed):
            return dirs
    return ()


def why_unusable() -> str:
    """Why nothing can be emulated on this machine, or '' when it can: the reason for a visible skip."""
    if not compiler():
        return "the CUDA emulation needs a C++ compiler: set CXX or install g++"
    if not cuda_include_dirs():
        return (
            "the CUDA emulation needs CUDA's headers: set CUDA_HOME, or "
            "pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl (13.0.*)"
        )
    return ""


def build_program(
    name: str,
    sources: Sequence[Path],
    *,
    sanitize: str | None = None,
    coverage: bool = False,
    defines: Mapping[str, str | int] | None = None,
    opt: str | None = None,
    include_dirs: Sequence[Path] = (),
) -> Path:
    """Compile `sources` (.cu, .cpp) for the emulation, all in one translation unit, into a program.

    Half of what a file takes the compiler is the headers that it shares with the others.

    Args:
        sources: what declares `main` comes last.
        name: names the build folder, build/emulation/<name>[-<sanitizer>][-coverage].
        sanitize: None, 'address' (with the undefined-behaviour sanitizer), 'thread', or 'weak' for weak memory.
        coverage: gcov instrumentation; the .gcno and .gcda files lie beside the program.
        defines: macros.
        opt: optimisation flag; by default -O1, and -O0 for an instrumented build, which takes longer to compile than
            to run.
        include_dirs: searched besides csrc/, csrc/cuda/ and this folder.

    Raises:
        ValueError: `sanitize` is none of the above.
        BuildError: with the compiler's output.
    """
    instrument = _instrument_flags(sanitize, coverage)
    flags = _compile_flags(defines, opt or ("-O0" if instrument and sanitize != "weak" else "-O1"), include_dirs)
    *others, main = map(Path.resolve, sources)
    flags += [word for source in others for word in ("-include", str(source))]
    link = [] if sanitize == "weak" else instrument
    return _build(_folder(name, sanitize, coverage) / "program", [main], [*instrument, *flags], link)


def build_torch_ext(name: str, units: Mapping[str, Sequence[Path]], *, include_dirs: Sequence[Path] = ()) -> Path:
    """Like `build_program`, but a library for `torch.ops.load_library`, of translation units with a name each."""
    import torch  # so that programs can be built where torch is not installed
    from torch.utils import cpp_extension

    flags = _compile_flags(None, "-O1", include_dirs)
    flags += ["-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    flags += [f"-isystem{folder}" for folder in cpp_extension.include_paths()]
    link = ["-shared"]
    for folder in cpp_extension.library_paths():
        link += [f"-L{folder}", f"-Wl,-rpath,{folder}"]
    link += ["-lc10", "-ltorch_cpu", "-ltorch"]
    folder = BUILD_ROOT / name
    together = [_all_of(sources, folder / f"{unit}.cpp") for unit, sources in units.items()]
    return _build(folder / "lib.so", together, flags, link)


def run(program: Path, *args: str, schedule: str = "fifo", timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a program that `build_program` built; its exit status is for the caller to judge."""
    return _run([str(program), *args], {"EMU_SCHEDULE": schedule}, timeout)


def lines_run(program: Path, sources: Sequence[Path], *args: str) -> dict[Path, dict[int, int]]:
    """How often each line of `sources` ran in `program args`, built with `coverage`, over all instantiations."""
    for stale in program.parent.rglob("*.gcda"):
        stale.unlink()
    done = run(program, *args)
    if done.returncode:
        raise RuntimeError(done.stdout)
    gcovr = [sys.executable, "-m", "gcovr", "--root", REPO, "--object-directory", program.parent]
    filters = [word for source in sources for word in ("--filter", source)]
    report = program.parent / "coverage.json"
    subprocess.run([*gcovr, *filters, "--json", report, program.parent], check=True)
    runs: dict[Path, Counter[int]] = {source: Counter() for source in sources}
    for file in json.loads(report.read_text())["files"]:
        for line in file["lines"]:
            runs[REPO / file["file"]][line["line_number"]] += line["count"]
    return {source: dict(lines) for source, lines in runs.items()}


def _run(command: Sequence[str], variables: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **_SANITIZER_OPTIONS, **variables}
    return subprocess.run(
        command,
        env=env,
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def _instrument_flags(sanitize: str | None, coverage: bool) -> list[str]:
    if sanitize not in _SANITIZER_FLAGS:
        raise ValueError(f"sanitize: expected one of {list(_SANITIZER_FLAGS)}, got {sanitize!r}")
    return [*_SANITIZER_FLAGS[sanitize], *(["--coverage"] if coverage else [])]


def _compile_flags(defines: Mapping[str, str | int] | None, opt: str, include_dirs: Sequence[Path]) -> list[str]:
    # The same bits in every build: on aarch64 it is the optimizer's choice what becomes one fused operation.
    flags = [opt, "-g1", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-tsan"]
    flags += ["-DRNNDROP_EMULATE_CUDA"]
    flags += [f"-D{key}={value}" for key, value in (defines or {}).items()]
    own = [REPO / "csrc", REPO / "csrc" / "cuda", Path(__file__).resolve().parent, *include_dirs]
    flags += [f"-I{folder}" for folder in own]
    return flags + [f"-isystem{folder}" for folder in cuda_include_dirs()]


def _folder(name: str, sanitize: str | None, coverage: bool) -> Path:
    return BUILD_ROOT / "-".join([name, *([sanitize] if sanitize else []), *(["coverage"] if coverage else [])])


def _all_of(sources: Sequence[Path], unit: Path) -> Path:
    """A translation unit of all the sources, written anew only where they are others: ninja looks at its time."""
    text = "".join(f'#include "{source.resolve()}"\n' for source in sources)
    unit.parent.mkdir(parents=True, exist_ok=True)
    if not unit.exists() or unit.read_text() != text:
        unit.write_text(text)
    return unit


def _build(target: Path, sources: Sequence[Path], compile_flags: list[str], link_flags: list[str]) -> Path:
    if reason := why_unusable():
        raise BuildError(reason)
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes may want the same build
        (folder / "build.ninja").write_text(_ninja_file(target.name, sources, compile_flags, link_flags))
        ninja = [str(Path(NINJA_BIN_DIR) / "ninja"), "-C", str(folder), "-j", os.environ.get("MAX_JOBS", "2")]
        done = subprocess.run(ninja, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{folder.name} does not build:\n{done.stdout}")
    return target


def _ninja_file(target: str, sources: Sequence[Path], compile_flags: Sequence[str], link_flags: Sequence[str]) -> str:
    def command(*words: str) -> str:
        return shlex.join(words).replace("$", "$$")

    def path(p: Path) -> str:
        return str(p).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = [
        "rule compile",
        f"  command = {command(*compiler(), *compile_flags)} -MMD -MF $out.d -x c++ -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {command(*compiler())} $in -o $out {command(*link_flags)}",
    ]
    objects = []
    for source in map(Path.resolve, sources):
        # cpu/backend.cpp and cuda/backend.cpp need objects of two names
        objects.append(f"{source.parent.name}-{source.name}.o")
        lines.append(f"build {objects[-1]}: compile {path(source)}")
    lines.append(f"build {target}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"
