"""What the commands print for programs."""

from __future__ import annotations

import codecs
import json
import sys
from typing import Any


def print_json(value: Any, indent: int | None = None) -> None:
    """Letters as they are where the output is UTF-8, else as JSON's own escapes: those of Python are none."""
    is_utf_8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    print(json.dumps(value, indent=indent, ensure_ascii=not is_utf_8))
