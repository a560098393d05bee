"""Names of keys and pub/sub channels in Redis. All of a channel's share a hash tag."""

from __future__ import annotations

CONTROL = "t:control"
ORDERS = "t:orders"  # stream of what every edge must do: see services/edge/adapters/order.lua
LIFE = "t:life"  # "<run id> <generation> <open at, ms>": see life.py
BEACON = "t:beacon"  # counter that the store keeps too
STORE = "t:store"  # name of the store that `stored` channels were compared with
DIRTY = "t:dirty"  # set of `stored` channels that may hold entries which are not stored yet

# First byte of a pub/sub payload.
NUMBERED = b"p"  # p<epoch> <offset> <publication>
UNNUMBERED = b"n"  # n<publication>
JOINS = b"J"  # J<client infos>
LEAVE = b"l"  # l<client info>
RESET = b"r"  # r<epoch>
ORDER = b"o"  # o<id> <id of the one before> <order>; on `CONTROL` alone

_PUB_PREFIX, _PUB_SUFFIX = b"t:{", b"}:pub"


def log(channel: str) -> str:
    """Stream of publications; entry id `<offset>-0`."""
    return f"t:{{{channel}}}:log"


def meta(channel: str) -> str:
    """Hash: epoch, top, and `stored` for stored channels."""
    return f"t:{{{channel}}}:meta"


def pub(channel: str) -> str:
    """Pub/sub channel."""
    return f"t:{{{channel}}}:pub"


def key(channel: str, user: str, idempotency_key: str) -> str:
    """Position of the publish with this key; the lengths in front keep one user's keys out of another's."""
    return f"t:{{{channel}}}:key:{len(user)}:{user}:{idempotency_key}"


def pair(user: str, idempotency_key: str) -> str:
    """Both in one text, from which both can be had again, whatever characters are in them."""
    return f"{len(user)}:{user}{idempotency_key}"


def unpair(text: str) -> tuple[str, str]:
    """User and idempotency key of such a text."""
    length, _, rest = text.partition(":")
    return rest[: int(length)], rest[int(length) :]


def channel_of(pub_channel: bytes) -> str:
    """The channel that a pub/sub channel belongs to."""
    return pub_channel[len(_PUB_PREFIX) : -len(_PUB_SUFFIX)].decode()
