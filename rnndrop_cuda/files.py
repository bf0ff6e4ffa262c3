"""Files that are whole at every instant, and folders that can be written, found out before the work and not after."""

from __future__ import annotations

import contextlib
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


def remove_if_empty(out: Path) -> None:
    """Takes away what check_writable has made for a run that did not begin."""
    with contextlib.suppress(OSError):  # it is not there, or has something in it
        out.rmdir()


def check_writable(out: Path) -> None:
    """Makes the folder; OSError naming it when it cannot be made or written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"out: expected a folder that can be written, got {out}: {error.strerror}") from error
