"""Prints the performance targets beside what was measured: `python -m bench.bars bench/results/cpu.csv`.

Ratios of medians of one run. Ours is the module, called as nn.LSTM is, drawing its own masks; the GEMMs alone are the
fastest of the libraries measured. The largest number of threads counts. Peak memory comes from memory.csv in the same
folder, if it is there. A file measured on a GPU has targets of its own: ours with both dropouts, on the engine that it
chooses itself, against nn.LSTM and the nn.LSTMCell loop without dropout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.markdown import provenance, targets_table
from bench.records import read
from bench.targets import peaks_beside, targets_of


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, whether or not the targets are met; 2 if something was not measured."""
    parser = argparse.ArgumentParser(
        prog="bench.bars", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("file", type=Path, help="written by bench.lstm with the grid cpu or cuda")
    file = parser.parse_args(argv).file
    try:
        facts, timings = read(file)
        targets = targets_of(facts, timings, peaks_beside(file))
    except (OSError, ValueError) as error:
        print(f"bench.bars: {error}", file=sys.stderr)
        return 2
    print(targets_table(targets))
    print(f"\n{sum(target.met for target in targets)} of {len(targets)} met. {provenance(facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
