"""Names of keys and pub/sub channels in Redis. All of a channel's share a hash tag.

Every name begins with the prefix that `REDIS_PREFIX` gives, which keeps platforms apart that share a Redis.
"""

from __future__ import annotations

import re

from services.shared.process.config import ConfigError

# First byte of a pub/sub payload.
NUMBERED = b"p"  # p<epoch> <offset> <publication>
UNNUMBERED = b"n"  # n<publication>
JOINS = b"J"  # J<client infos>
LEAVE = b"l"  # l<client info>
RESET = b"r"  # r<epoch>
ORDER = b"o"  # o<id> <id of the one before> <order>; on `control()` alone

DEFAULT_PREFIX = "t"
_USABLE_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_PUB_SUFFIX = "}:pub"
_prefix = f"{DEFAULT_PREFIX}:"


def checked_prefix(prefix: str) -> str:
    """The same.

    Raises:
        ConfigError: it could be mistaken for a pattern, a hash tag or a part of another prefix.
    """
    if not _USABLE_PREFIX.fullmatch(prefix):
        raise ConfigError("REDIS_PREFIX must be 1 to 32 letters, digits, dots, underscores or hyphens")
    return prefix


def use_prefix(prefix: str) -> None:
    """Have all names of this process begin with `<prefix>:`; once, before anything else of it uses Redis.

    Raises:
        ConfigError: it can't be one.
    """
    global _prefix
    _prefix = f"{checked_prefix(prefix)}:"


def name(rest: str) -> str:
    """A name of this platform."""
    return _prefix + rest


def control() -> str:
    """Pub/sub channel: questions to every edge, their answers, and orders."""
    return f"{_prefix}control"


def orders() -> str:
    """Stream of what every edge must do: see services/edge/adapters/redis/order.lua."""
    return f"{_prefix}orders"


def incarnation() -> str:
    """`<run id> <generation> <open at, ms>`: see life.py."""
    return f"{_prefix}life"


def heartbeat() -> str:
    """Counter that the store keeps too."""
    return f"{_prefix}beacon"


def store() -> str:
    """Name of the store that `stored` channels were compared with."""
    return f"{_prefix}store"


def observed() -> str:
    """Hash: how often `hot` logs were written, and what else must not go back: see check.lua and heartbeat.lua."""
    return f"{_prefix}observed"


def observers() -> str:
    """Hash: edge → ms of its last look."""
    return f"{_prefix}observers"


def said() -> str:
    """Hash: edge → `<run id> <what it says of that run> …`, while nobody has judged it."""
    return f"{_prefix}said"


def dirty() -> str:
    """Set of `stored` channels that may hold entries which are not stored yet."""
    return f"{_prefix}dirty"


def log(channel: str) -> str:
    """Stream of publications; entry id `<offset>-0`."""
    return f"{_prefix}{{{channel}}}:log"


def meta(channel: str) -> str:
    """Hash: epoch, top, and `stored` for stored channels."""
    return f"{_prefix}{{{channel}}}:meta"


def pub(channel: str) -> str:
    """Pub/sub channel."""
    return f"{_prefix}{{{channel}}}:pub"


def key(channel: str, user: str, idempotency_key: str) -> str:
    """Position of the publish with this key; the lengths in front keep one user's keys out of another's."""
    return f"{_prefix}{{{channel}}}:key:{len(user)}:{user}:{idempotency_key}"


def pair(user: str, idempotency_key: str) -> str:
    """Both in one text, from which both can be had again, whatever characters are in them."""
    return f"{len(user)}:{user}{idempotency_key}"


def unpair(text: str) -> tuple[str, str]:
    """User and idempotency key of such a text."""
    length, _, rest = text.partition(":")
    return rest[: int(length)], rest[int(length) :]


def channel_of(pub_channel: bytes) -> str:
    """The channel that a pub/sub channel belongs to."""
    return pub_channel[len(_prefix) + 1 : -len(_PUB_SUFFIX)].decode()
