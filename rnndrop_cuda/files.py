"""Files that are whole at every instant, and folders that can be written, found out before the work and not after."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """The file is the old one or the new, whenever the process or the machine stops."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def check_writable(out: Path) -> None:
    """Makes the folder; OSError naming it when it cannot be made or written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"out: expected a folder that can be written, got {out}: {error.strerror}") from error
