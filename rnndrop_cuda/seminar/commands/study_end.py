"""How the commands of the studies end, whatever their figures are."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rnndrop_cuda.seminar.commands.errors import fail, flags_of, one_line


def run_to_its_end(study: Callable[[], list[Path]], out: Path, parser: argparse.ArgumentParser) -> int:
    """Runs the study, which returns the files that it wrote to `out`; 0 done, 2 wrong input, 130 Ctrl-C."""
    try:
        written = study()
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return fail("study", one_line(error, flags_of(parser)))
    except KeyboardInterrupt:
        return fail("study", f"stopped; the same command trains the runs that are still missing in {out}", 130)
    print("written: " + ", ".join(map(str, written)))
    return 0
