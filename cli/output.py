"""Output of commands: results on stdout, as text or JSON lines; remarks on stderr."""

from __future__ import annotations

import datetime
import sys
from typing import Any

import msgspec

from services.shared.checks import MAX_TIME_S

# Control characters (C0, DEL, C1) but for the tab: text of others must not control this terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


def printable(text: str) -> str:
    """Return `text` as one line with its control characters made visible."""
    return text.translate(_CONTROL)


def when(unix_s: int) -> str:
    """Return a time as ISO 8601 in UTC; the number if there is no such date."""
    if not 0 <= unix_s <= MAX_TIME_S:
        return f"{unix_s} s"
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).isoformat(timespec="seconds")


def say(text: str) -> None:
    """Print one line of result."""
    print(text, flush=True)


def say_json(value: Any) -> None:
    """Print one JSON object of result on one line."""
    print(msgspec.json.encode(value).decode(), flush=True)


def remark(text: str) -> None:
    """Print one line to stderr that is not a result."""
    print(text, file=sys.stderr, flush=True)
