"""Names of keys and pub/sub channels in Redis.

All begin with the prefix of `REDIS_PREFIX`, which separates platforms that share a Redis. All keys of a channel have
the same hash tag. The names are older than the words that are used now: `t:life` is the incarnation, `t:beacon` the
heartbeat, `t:orders` the control log.
"""

from __future__ import annotations

import hashlib
import re
import zlib

from services.shared.process.config import ConfigError

# First byte of a pub/sub payload, with what the payload is.
NUMBERED = b"p"  # p<epoch> <offset> <publication>
UNNUMBERED = b"n"  # n<publication>
JOINS = b"J"  # J<client infos>
UPDATES = b"U"  # U<client infos>: new infos of clients that have joined before
LEAVE = b"l"  # l<client info>
RESET = b"r"  # r<epoch>
EPHEMERAL = b"e"  # e<publication>: delivered without an offset, and kept nowhere
CONTROL_COMMAND = b"o"  # o<id> <id of the previous one> <control command>; only on `control()`

DEFAULT_PREFIX = "t"
_USABLE_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_PUB_SUFFIX = "}:pub"
FEED_SHARDS = 16  # streams of each kind of the feed (services/shared/feed); every reader knows the number
_prefix = f"{DEFAULT_PREFIX}:"


def checked_prefix(prefix: str) -> str:
    """Return the prefix, if it is allowed.

    Raises:
        ConfigError: it could be mistaken for a pattern, a hash tag or a part of another prefix.
    """
    if not _USABLE_PREFIX.fullmatch(prefix):
        raise ConfigError("REDIS_PREFIX must be 1 to 32 letters, digits, dots, underscores or hyphens")
    return prefix


def use_prefix(prefix: str) -> None:
    """Set the prefix of all names of this process, once, before anything uses Redis.

    Raises:
        ConfigError: it is not allowed.
    """
    global _prefix
    _prefix = f"{checked_prefix(prefix)}:"


def name(rest: str) -> str:
    """Put the prefix before a name."""
    return _prefix + rest


def control() -> str:
    """Pub/sub channel of questions to every edge, their replies, and control commands."""
    return f"{_prefix}control"


def control_log() -> str:
    """Control log: stream of what every edge must do.

    See services/edge/adapters/redis/append_command.lua.
    """
    return f"{_prefix}orders"


def incarnation() -> str:
    """Present incarnation: `<run id> <generation> <open at, ms>`.

    See services/shared/incarnation.
    """
    return f"{_prefix}life"


def heartbeat() -> str:
    """Heartbeat: a counter that the store keeps too."""
    return f"{_prefix}beacon"


def store() -> str:
    """Name of the store that this Redis is used with."""
    return f"{_prefix}store"


def observed() -> str:
    """Hash of what must not go back: writes to `hot` logs, counter of the store.

    See check.lua and heartbeat.lua in services/shared/incarnation.
    """
    return f"{_prefix}observed"


def observers() -> str:
    """Hash: edge → Unix ms of its last check."""
    return f"{_prefix}observers"


def appends(edge: str) -> str:
    """Hash of one field, `n`: how many append calls of this edge were executed.

    No channel is named so: a name has at least one letter. Edges may use it by every ACL that lets them use logs.
    """
    return f"{_prefix}{{}}:appends:{edge}"


def said() -> str:
    """Hash: edge → `<run id> <what it knows of that run> …`, until the run is judged.

    The id may be a replication id instead.
    """
    return f"{_prefix}said"


def dirty() -> str:
    """Sorted set of `stored` channels that may hold entries not stored yet, by time."""
    return f"{_prefix}dirty"


def log(channel: str) -> str:
    """Stream of the publications of a channel; entry id `<offset>-0`."""
    return f"{_prefix}{{{channel}}}:log"


def meta(channel: str) -> str:
    """Hash about the log of a channel: epoch, top and more; see `hotlog/__init__.py`."""
    return f"{_prefix}{{{channel}}}:meta"


def pub(channel: str) -> str:
    """Pub/sub channel of a channel."""
    return f"{_prefix}{{{channel}}}:pub"


def ephemeral_readers() -> str:
    """Pub/sub channel to which every edge that reads ephemeral events is subscribed.

    No channel is named so: a name has at least one letter. Edges may use it by every ACL that lets them use channels.
    """
    return pub("")


def key(channel: str, user: str, idempotency_key: str) -> str:
    """Stream position of the publish with this idempotency key.

    The length before the user keeps the keys of one user apart from those of another.
    """
    return f"{_prefix}{{{channel}}}:key:{len(user)}:{user}:{idempotency_key}"


def ticket(digest: str) -> str:
    """Encrypted token of a ticket; see services/edge/adapters/redis/tickets.py."""
    return f"{_prefix}{{{digest}}}:ticket"


def lease(edge: str) -> str:
    """Lease of an edge; see services/edge/adapters/redis/edge_lease.py."""
    return f"{_prefix}{{{edge}}}:lease"


def limit(kind: str, name: str) -> str:
    """What a limit has counted for a name: an API key, a user, an address.

    The name is hashed: it may hold anything, and the key must be no other one's.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{digest}}}:limit:{kind}"


def session(digest: str) -> str:
    """Entry of the session table; see services/edge/adapters/redis/session_table.py."""
    return f"{_prefix}{{{digest}}}:session"


def revocations() -> str:
    """Stream of revocations; see services/edge/domain/control/revoker.py."""
    return f"{_prefix}{{revocations}}:list"


def feed_shard(name: str) -> int:
    """Number of the streams of the feed that tell of this channel, or roster."""
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % FEED_SHARDS


def commits(shard: int) -> str:
    """Stream of the feed: committed publications; see services/shared/feed."""
    return f"{_prefix}feed:{{{shard}}}"


def lifecycle(shard: int) -> str:
    """Stream of the feed: lifecycle events; see services/shared/feed."""
    return f"{_prefix}events:{{{shard}}}"


def feed_group(group: str) -> str:
    """Hash of what a group of readers of the feed has read; see services/shared/feed."""
    return f"{_prefix}events:group:{group}"


def feed_gaps(group: str) -> str:
    """Stream of the gaps that a group of readers of the feed is told."""
    return f"{_prefix}events:gaps:{group}"


def erasures() -> str:
    """Hash: since when the append-only file has something erased.

    See services/persistence/adapters/redis/rewrites.py. No channel is named so: a name has at least one letter.
    """
    return f"{_prefix}{{}}:erasures"


def retention_turn() -> str:
    """Key of the replica that removes what is too old.

    While it stands no other one does.
    """
    return f"{_prefix}{{}}:retention"


def retention_swept() -> str:
    """Hash: what was removed last because it was too old."""
    return f"{_prefix}{{}}:retention:swept"


def archive_turn() -> str:
    """Key of the replica that archives; while it stands no other one does."""
    return f"{_prefix}{{}}:archive"


def archive_swept() -> str:
    """Hash: what was archived last."""
    return f"{_prefix}{{}}:archive:swept"


def chat_erasures() -> str:
    """Sorted set of what is being erased from conversations, by time in ms.

    See services/persistence/chat/erasure_marks.py. No channel's key ends so.
    """
    return f"{_prefix}{{chat}}:erasures"


def chat_pending() -> str:
    """Sorted set of conversations whose read model lacks something, by time in ms.

    No channel's key ends so.
    """
    return f"{_prefix}{{chat}}:pending"


def expired(channel: str) -> str:
    """Epoch and offset up to which no message of a conversation is left."""
    return f"{_prefix}{{{channel}}}:expired"


def slow_mode(channel: str, user: str) -> str:
    """Set while a user may not post again: id of the user's last message.

    The name is hashed: it may hold anything.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{channel}}}:slow:{digest}"


def farewell(channel: str) -> str:
    """Whom to tell that a conversation was deleted.

    See services/persistence/chat/farewells.py.
    """
    return f"{_prefix}{{{channel}}}:farewell"


def typing(channel: str, user: str) -> str:
    """When a user said last to type in a conversation, and whether that is over.

    The name is hashed: it may hold anything.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{channel}}}:typing:{digest}"


def markers(user: str) -> str:
    """Hash: conversation → up to where a user has read it.

    See services/persistence/chat/markers. The name is hashed: it may hold anything.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{digest}}}:read"


def markers_unwritten() -> str:
    """Sorted set of markers that the store does not have yet, by time in ms.

    No channel's key ends so.
    """
    return f"{_prefix}{{markers}}:unwritten"


def inbox_head(channel: str) -> str:
    """What inboxes show of a conversation, at one position.

    See services/persistence/chat/inbox/heads.py.
    """
    return f"{_prefix}{{{channel}}}:head"


def inbox_list(user: str) -> str:
    """Hash: the conversations of a user, as a cache.

    See services/persistence/chat/inbox/lists.py. The name is hashed: it may hold anything.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{digest}}}:inbox"


def inbox_gone(user: str) -> str:
    """Sorted set: conversations in which a user has no place any more, by time in ms.

    See services/persistence/chat/inbox/lists.py.
    """
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{_prefix}{{{digest}}}:inbox-gone"


def push(part: str) -> str:
    """Key of the notifier, see services/persistence/notifier/timers.py."""
    return f"{_prefix}push:{{push}}:{part}"


def receipts_due() -> str:
    """Sorted set of receipts to send, by time in ms.

    See services/persistence/chat/markers/receipts.py. No channel's key ends so.
    """
    return f"{_prefix}{{markers}}:due"


def receipts_sent() -> str:
    """Sorted set of receipts that were sent in the last second, by time in ms.

    No channel's key ends so.
    """
    return f"{_prefix}{{markers}}:sent"


def pair(user: str, idempotency_key: str) -> str:
    """Join user and idempotency key so that `unpair` can split them."""
    return f"{len(user)}:{user}{idempotency_key}"


def unpair(text: str) -> tuple[str, str]:
    """Split what `pair` joined: user and idempotency key."""
    length, _, rest = text.partition(":")
    return rest[: int(length)], rest[int(length) :]


def channel_of(pub_channel: bytes) -> str:
    """Return the channel of a pub/sub channel."""
    return pub_channel[len(_prefix) + 1 : -len(_PUB_SUFFIX)].decode()
