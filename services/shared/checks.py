"""Checks of names, ids and sizes in requests, shared by all services.

They accept only what the stores and Redis can hold. Every check raises ThalamusError with code 107 (INVALID_ARGUMENT
over gRPC).
"""

from __future__ import annotations

import functools
import re

from services.shared.errors import ErrorCode, ThalamusError

MAX_CHANNEL_BYTES = 1_024
"""Longest channel name that any service takes; edges take `EDGE_CHANNEL_MAX_BYTES`, which is at most this."""
MAX_USER_BYTES = 8_192
"""A user id comes from a token, and no token is longer."""
MAX_KEY_BYTES = 128
"""Longest idempotency key."""
MAX_KEY_USER_BYTES = MAX_USER_BYTES + 2
"""Edges write `u:` or `c:` before the id of the user or client whose key it is."""
MAX_CLIENT_BYTES = 255
MAX_GRANT_USER_BYTES = 255
"""Users with a longer id have no stored grants."""
MAX_PATTERN_BYTES = 255
"""Longest channel, or pattern of channels, of a grant."""
MAX_TIME_S = 253_402_300_799
"""Latest time that requests may name, Unix seconds: the end of the year 9999. Dates have no later one."""

# Visible ASCII without `*`, `&` and `/`, which the protocol reserves, and without `{` and `}`, which mark a Redis hash
# tag. Source: wire protocol, 10.
_LINE = re.compile(r"[^\x00-\x1f\x7f]*")
_CHANNEL = re.compile(r"[!-%'-)+-.0-z|~]+")


def is_channel_name(name: str) -> bool:
    """Whether all characters are allowed in a channel name. Does not check the length."""
    return _CHANNEL.fullmatch(name) is not None


@functools.lru_cache(maxsize=4_096)
def check_channel(name: str) -> None:
    """Raise ThalamusError (107) if no channel may have this name."""
    if not name:
        raise _invalid("no channel")
    if len(name) > MAX_CHANNEL_BYTES:  # characters are bytes here: a name that is not ASCII is refused below
        raise _invalid("channel name too long")
    if not is_channel_name(name):
        raise _invalid("channel name not allowed")


def check_text(what: str, text: str, most_bytes: int, *, least: int = 0) -> None:
    """Raise ThalamusError (107) if the text is too long or too short.

    Limits are bytes of UTF-8.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size < least:
        raise _invalid(f"no {what}" if not size else f"{what} too short")
    if size > most_bytes:
        raise _invalid(f"{what} too long")


def check_id(what: str, text: str, most_bytes: int) -> None:
    """Raise ThalamusError (107) for an id that is empty or too long, or not one line.

    Control characters are refused because Redis entries join ids with line feeds.
    """
    check_text(what, text, most_bytes, least=1)
    if not _LINE.fullmatch(text):
        raise _invalid(f"{what} not allowed")


def check_number(what: str, number: float, least: float, most: float) -> None:
    """Raise ThalamusError (107) if the number is out of range or not a number."""
    if not least <= number <= most:
        raise _invalid(f"{what} must be {least:g} to {most:,.0f}")


def _invalid(text: str) -> ThalamusError:
    return ThalamusError(text, ErrorCode.BAD_REQUEST)
