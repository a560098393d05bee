"""Output of commands: results on stdout, as text or JSON lines; remarks on stderr."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

# Control characters (C0, DEL, C1) but for the tab: text of others must not control this terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


def printable(text: str) -> str:
    """Return `text` as one line with its control characters made visible."""
    return text.translate(_CONTROL)


def say(text: str) -> None:
    """Print one line of result."""
    print(text, flush=True)


def say_json(value: Any) -> None:
    """Print one JSON object of result on one line."""
    print(msgspec.json.encode(value).decode(), flush=True)


def remark(text: str) -> None:
    """Print one line to stderr that is not a result."""
    print(text, file=sys.stderr, flush=True)
