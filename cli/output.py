"""What commands print: results on stdout, for people or as one JSON object per line; remarks on stderr."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

# C0, DEL and C1: what others wrote must not steer this terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


def printable(text: str) -> str:
    """`text` on one line, its control characters made visible."""
    return text.translate(_CONTROL)


def say(text: str) -> None:
    """One line of result."""
    print(text, flush=True)


def say_json(value: Any) -> None:
    """One JSON object of result, on one line."""
    print(msgspec.json.encode(value).decode(), flush=True)


def remark(text: str) -> None:
    """One line that is no result."""
    print(text, file=sys.stderr, flush=True)
