"""layer_program.cpp: the CPU's engine without torch's libraries, compiled for a processor that is not this one.

It is given problems as bytes, and its results are compared with the reference in float64. What is left out is drawing
masks, which asks torch's generators.
"""

from __future__ import annotations

import itertools
import os
import shlex
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ninja import BIN_DIR
from torch import Tensor
from torch.utils import cpp_extension

from rnndrop_cuda import reference
from tests.problems import MASK_KINDS, Problem, assert_rounding_explains, random_problem, relative_error

REPO = Path(__file__).resolve().parents[1]
NEEDS_TORCH = {"backend", "dropout_mask", "from_torch"}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]  # csrc/params.h's order
ARRAYS = (
    "x", "h_0", "c_0", "W_ih", "W_hh", "b_ih", "b_hh", "W_hr", "mask_x", "mask_h", "mask_g", "mask_c", "zone_c",
    "zone_h", "lengths", "dy", "dh_n", "dc_n",
)  # fmt: skip
RESULTS = ("y", "y_packed", "h_n", "c_n", "dx", "dh_tilde", "dh_carry", "dc_0", "dW_ih", "dW_hh", "db_ih", "dW_hr")
# Few rows, whose weights are read where they lie; tiles of 12 rows, and panels of 4 and 8 columns, that are not whole;
# several threads' worth of work.
SIZES = [(1, 1, 1, 1), (5, 3, 4, 6), (2, 7, 1, 31), (3, 2, 33, 64), (1, 1, 130, 40), (6, 40, 37, 67), (3, 130, 70, 24)]
# And, of 16 bits, rows shorter than a vector that take a long x along: more than 16 tiles of it.
SIZES_OF_16_BITS = [(1, 1, 257, 96), (2, 3, 130, 65), (2, 40, 31, 33), (2, 130, 512, 8)]
PROJECTED = [((1, 2, 33, 80), 17), ((3, 40, 37, 67), 24)]
PROJECTED_TO_ONE = [((2, 3, 130, 65), 1)]  # not in 16 bits: how plain torch rounds three numbers is chance


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def asked(problem: Problem) -> bytes:
    """The problem as layer_program.cpp reads it."""
    x, c_0, h_0 = (problem.inputs[name] for name in ("x", "c_0", "h_0"))
    given = problem.inputs | problem.options | {"d" + name: value for name, value in problem.upstream.items()}
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    reverse = problem.options.get("reverse", False)
    message = struct.pack("=7q", DTYPES.index(x.dtype), *x.shape, c_0.shape[1], h_0.shape[1], reverse)
    for name in ARRAYS:
        array = given.get(name)
        if array is None:
            message += struct.pack("=q", -1)
            continue
        array = array.to(acc) if name in ("c_0", "dh_n", "dc_n") else array
        message += struct.pack(f"={1 + array.dim()}q", array.dim(), *array.shape) + raw(array.flatten())
    return message


def answered(problem: Problem, arrays: list[bytes]) -> dict[str, Tensor]:
    """The layer's outputs and gradients, as Problem.solve names them."""
    dtype = problem.inputs["x"].dtype
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    in_acc = {"c_n", "dh_carry", "dc_0", "db_ih"}
    found = {
        name: torch.frombuffer(bytearray(array), dtype=acc if name in in_acc else dtype)
        if array
        else torch.empty(0, dtype=dtype)
        for name, array in zip(RESULTS, arrays, strict=True)
    }
    # As csrc/layer_call.cpp puts dh_0 together.
    mask_h = problem.options.get("mask_h")
    state = problem.inputs["h_0"].shape
    per_sample = mask_h is not None and (mask_h.dim() == 2 or (mask_h.dim() == 3 and mask_h.shape[1] != 1))
    dh_0 = found.pop("dh_tilde").view(-1, *state).to(acc)
    dh_0 = (dh_0 * mask_h if per_sample else dh_0).sum(0)
    carry = found.pop("dh_carry").view(state)
    carried = "lengths" in problem.options or "zone_h" in problem.options
    found["dh_0"] = dh_0 + carry if carried else dh_0
    shapes = problem.inputs | problem.upstream
    packed = found.pop("y_packed")
    if problem.options.keys() <= {"reverse"} and problem.inputs.get("W_hr") is None:
        torch.testing.assert_close(packed, found["y"])
    return {
        name: value.view(shapes[name.removeprefix("d")].shape)
        for name, value in found.items()
        if name.removeprefix("d") in shapes
    }


@dataclass
class Program:
    """The program, and how it is run: a command before it, and variables of its environment."""

    path: Path
    says: str  # what it writes of its vectors
    before: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)

    def solve(self, problems: list[Problem], threads: int) -> list[dict[str, Tensor]]:
        """Every problem's outputs and gradients, by one process."""
        done = subprocess.run(
            [*self.before, self.path],
            input=b"".join(asked(problem) for problem in problems),
            env=os.environ | self.env | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert f"{self.says}, {threads} threads" in done.stderr.decode()
        said, arrays = done.stdout, []
        while said:
            (n,) = struct.unpack("=q", said[:8])
            arrays.append(said[8 : 8 + n])
            said = said[8 + n :]
        n = len(RESULTS)
        return [answered(problem, arrays[k * n : (k + 1) * n]) for k, problem in enumerate(problems)]


def build(folder: Path, compiler: str, flags: Sequence[str], libraries: Sequence[str]) -> Path:
    """The program, compiled where it is not up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels = sorted(path for path in (REPO / "csrc" / "cpu").glob("*.cpp") if path.stem not in NEEDS_TORCH)
    includes = [f"-I{REPO / 'csrc'}", *(f"-isystem{path}" for path in cpp_extension.include_paths())]
    lines = [
        f"rule compile\n  command = {compiler} {shlex.join([*flags, *includes])} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d\n  deps = gcc",
        f"rule link\n  command = {compiler} $in {shlex.join(libraries)} -o $out",
    ]
    objects = []
    for source in (*kernels, REPO / "tests" / "layer_program.cpp"):
        objects.append(f"{source.stem}.o")
        lines.append(f"build {objects[-1]}: compile {source}")
    lines.append(f"build layer_program: link {' '.join(objects)}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    ninja = [str(Path(BIN_DIR) / "ninja"), "-C", str(folder), "-j", os.environ.get("MAX_JOBS", "1")]
    done = subprocess.run(ninja, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return folder / "layer_program"


def assert_right(problem: Problem, results: dict[str, Tensor], roundings: float) -> None:
    """In 16 bits `roundings` times plain torch's error; sums in float32 keep far below what rounding explains."""
    exact = problem.to(torch.float64).solve(reference.lstm_layer)
    if problem.inputs["x"].dtype.itemsize > 2:
        assert_rounding_explains(problem, results, exact)
        return
    plain = problem.solve(reference.lstm_layer)
    for name, value in results.items():
        error, allowed = relative_error(value, exact[name]), roundings * relative_error(plain[name], exact[name]) + 1e-7
        assert error <= allowed, f"{name}: {error:.3g} against {allowed:.3g}, {[*problem.inputs['x'].shape]}"


def check(program: Program, dtype: torch.dtype, roundings: float = 2) -> None:
    """Outputs and gradients of every layer with every kind of masks, and with lengths and without in turn."""
    unprojected, to_one = (SIZES_OF_16_BITS, []) if dtype.itemsize == 2 else (SIZES, PROJECTED_TO_ONE)
    layers = [*((sizes, 0) for sizes in unprojected), *PROJECTED, *to_one]
    problems = [
        random_problem(*sizes, proj=proj, masks=masks, lengths=lengths, reverse=lengths, dtype=dtype)
        for (k, masks), (n, (sizes, proj)) in itertools.product(enumerate(MASK_KINDS), enumerate(layers))
        for lengths in [(k + n) % 2 == 1]
    ]
    # By one thread and by two in turn.
    found = {threads: program.solve(problems[threads - 1 :: 2], threads) for threads in (1, 2)}
    for k, problem in enumerate(problems):
        assert_right(problem, found[1 + k % 2][k // 2], roundings)
