"""Files that are whole at every instant, and folders that can be written, found out before the work and not after."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """The file is the old one or the new, whenever the process or the machine stops. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def check_writable(out: Path) -> None:
    """OSError naming the folder when it cannot be made or written. Leaves none behind that was not there before."""
    made: list[Path] = []
    try:
        made += [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"out: expected a folder that can be written, got {out}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # somebody else has put something there by now
            for folder in made:
                folder.rmdir()
