"""What every service asks of a request, whoever sent it: names and sizes that the stores and Redis can take."""

from __future__ import annotations

import functools
import re

from services.shared.errors import ErrorCode, ThalamusError

MAX_CHANNEL_BYTES = 1_024
"""Longest channel name that any service takes; edges take `EDGE_CHANNEL_MAX_BYTES`, which is at most this."""
MAX_USER_BYTES = 8_192
"""A user id comes from a token, and no token is longer."""
MAX_CLIENT_BYTES = 255

# Visible ASCII but for what the protocol reserves (`* & /`) and what would end a Redis hash tag. Wire protocol, 10.
_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
_CHANNEL = re.compile(r"[!-%'-)+-.0-z|~]+")


def is_channel_name(name: str) -> bool:
    """Whether the characters are allowed; the length is another matter."""
    return _CHANNEL.fullmatch(name) is not None


@functools.lru_cache(maxsize=4_096)
def check_channel(name: str) -> None:
    """Raises ThalamusError (107, INVALID_ARGUMENT over gRPC) for a name that no channel may have."""
    if not name:
        raise _invalid("no channel")
    if len(name) > MAX_CHANNEL_BYTES:  # of ASCII, or it is refused below
        raise _invalid("channel name too long")
    if not is_channel_name(name):
        raise _invalid("channel name not allowed")


def check_text(what: str, text: str, most_bytes: int, *, least: int = 0) -> None:
    """Raises ThalamusError (107) for a text that is too long, or too short."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size < least:
        raise _invalid(f"no {what}" if not size else f"{what} too short")
    if size > most_bytes:
        raise _invalid(f"{what} too long")


def check_id(what: str, text: str, most_bytes: int) -> None:
    """Raises ThalamusError (107) for what is empty, too long, or holds a control character: lists are made of it."""
    check_text(what, text, most_bytes, least=1)
    if not _LINE.fullmatch(text):
        raise _invalid(f"{what} not allowed")


def check_number(what: str, number: float, least: float, most: float) -> None:
    """Raises ThalamusError (107) for a number that is out of its range, or no number."""
    if not least <= number <= most:
        raise _invalid(f"{what} must be {least:g} to {most:,.0f}")


def _invalid(text: str) -> ThalamusError:
    return ThalamusError(text, ErrorCode.BAD_REQUEST)
