"""What the C++ compiler is told, by what it calls itself: for kernels.py, and for tests that compile kernels alone."""

from __future__ import annotations

import re


def compiler_flags(banner: str) -> list[str]:
    """The flags for the compiler whose `--version` begins with that line."""
    # No floating-point traps: with them GCC keeps the branches of the cell's selects and vectorises nothing.
    flags = ["-O2", "-g0", "-ftree-vectorize", "-fno-trapping-math"]
    if "clang" not in banner:
        # At -O3 GCC takes four times as long for code that is no faster; calls of memcpy for 64 bytes are slower.
        flags += ["-fvect-cost-model=dynamic", "-fno-tree-loop-distribute-patterns"]
        # A compiler that ignores what vectors a kernel is for builds slow kernels, and `rnndrop info` says otherwise.
        return [*flags, "-Werror=attributes"]
    flags += ["-ffp-contract=fast"]  # a * b + c in one instruction, GCC's default
    version = re.search(r"version (\d+)", banner)
    if version and int(version[1]) < 19:
        # Clang 16's vector combiner recurses without end in the products of bfloat16; 17 and 18 were not tried.
        flags += ["-mllvm", "-disable-vector-combine"]
    return [*flags, "-Werror=ignored-attributes"]
