"""Names of the keys of presence in Redis.

| key, with the prefix `t` | content |
|---|---|
| `t:presence:{C}` | roster of the channel C: client → entry (lua/roster.lua) |
| `t:presence:{C}:users`, `:gone`, `:gone_users` | clients of each user; clients in their grace |
| `t:presence:{C}:order` | sorted set of the clients of a large roster |
| `t:presence:{C}:unseen` | client → infos of those whose places it took unseen (lua/roster.lua) |
| `t:presence:{C}:number` | number of the last lifecycle event |
| `t:presence:{/uD}`… | the same of a user's connections; D is the SHA-256 of the user id, in hex |
| `t:presence:{/uD}:state` | since when the user is online, or when the user was last seen |
| `t:presence:channels:U` | sorted set of the channels that the user U is in |
| `t:presence:index:E:G` | members that the edge E entered under the generation G of its lease |

A channel's name has neither braces nor "/".
"""

from __future__ import annotations

from services.presence.domain.ports import Lease
from services.shared.hotlog import keys


def roster_key(roster: str) -> str:
    """Return the key of a roster."""
    return keys.name(f"presence:{{{roster}}}")


def users_key(roster: str) -> str:
    """Return the key of the users of a roster."""
    return f"{roster_key(roster)}:users"


def order_key(roster: str) -> str:
    """Return the key of the clients in order."""
    return f"{roster_key(roster)}:order"


def state_key(roster: str) -> str:
    """Return the key of since when a user is online, or was last seen."""
    return f"{roster_key(roster)}:state"


def all_keys(roster: str) -> list[str]:
    """Return the keys that enter.lua and leave.lua want: KEYS 1 to 9 of roster.lua."""
    key = roster_key(roster)
    parts = [f"{key}:{part}" for part in ("users", "gone", "gone_users", "order", "state", "number")]
    return [key, *parts, keys.lifecycle(keys.feed_shard(roster)), f"{key}:unseen"]


def channels_key(user: str) -> str:
    """Return the key of the channels of a user."""
    return keys.name(f"presence:channels:{user}")


def index_key(lease: Lease) -> str:
    """Return the key of the set of a lease's members."""
    return keys.name(f"presence:index:{lease.edge}:{lease.generation}")


def member_of(roster: str, client: str) -> str:
    """Return what stands for a member in `index_key` and in what is due."""
    return f"{roster}\n{client}"
