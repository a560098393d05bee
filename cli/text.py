"""Text input and output of the command line, which must be UTF-8.

Python passes on bytes that are not UTF-8 as lone surrogates. They would cause a traceback wherever such a text is
encoded again, so they are refused at the start. Characters that the terminal can't show are escaped on output.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence

import msgspec

from cli.errors import WrongUsage

_VARIABLES = ("THALAMUS_URL", "THALAMUS_API_KEY", "THALAMUS_AUTH_ADDR", "THALAMUS_TOKEN")
_SHOWN = 60  # characters of a refused text that a message shows
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def check_input(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Check that all arguments, and variables that stand for them, are UTF-8.

    Raises:
        WrongUsage: one is not UTF-8; it is named.
    """
    for number, argument in enumerate(arguments, 1):
        if not _is_text(argument):
            raise WrongUsage(f"argument {number} is not UTF-8: {argument[:_SHOWN]!a}")
    for name in _VARIABLES:
        if not _is_text(environment.get(name, "")):
            raise WrongUsage(f"{name} is not UTF-8")


def standard_input(what: str) -> str:
    """Return all of standard input.

    Raises:
        WrongUsage: it is not UTF-8; the message says where.
    """
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise WrongUsage(f"{what} on standard input is not UTF-8: {where}") from None


def json_text(text: str, what: str) -> bytes:
    """Return `text` as UTF-8 bytes, unchanged, after checking that it is JSON.

    Raises:
        WrongUsage: it is not.
    """
    encoded = text.encode()
    try:
        msgspec.json.decode(encoded)
    except msgspec.MsgspecError as error:
        if lone := _lone_surrogate(text):
            raise WrongUsage(f"{what} is not JSON: {lone} is one half of a character, without the other") from error
        raise WrongUsage(f"""{what} is not JSON ({error}); a text needs its quotes: '"hello"'""") from error
    except RecursionError as error:
        raise WrongUsage(f"{what} is nested too deeply") from error
    return encoded


def prepare_output() -> None:
    """Print characters that the terminal's encoding lacks as `\\uNNNN`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lone_surrogate(text: str) -> str:
    """Return the first `\\uNNNN` that is half of a surrogate pair without the other.

    "" if there is none.
    """
    high: re.Match[str] | None = None
    for escape in _ESCAPE.finditer(text):
        code = int(escape[1], 16) if escape[1] else 0
        is_low = 0xDC00 <= code <= 0xDFFF
        follows = high is not None and high.end() == escape.start()
        if high is not None and not (follows and is_low):
            return high[0]
        if is_low and not follows:
            return escape[0]
        high = escape if 0xD800 <= code <= 0xDBFF else None
    return high[0] if high is not None else ""
