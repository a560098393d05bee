"""Examples of requests on conversations, with which Swagger UI is prefilled.

One after the other they work, but for those about a group: its channel is random. `DIRECT` is that of alice and the
other user.
"""

from __future__ import annotations

from typing import Any

_OTHER = "urn:example:bob"
GROUP = "conv:g.the26randomcharactersof1t"
LOBBY = {"channel": "conv:o.lobby"}
DIRECT = {"channel": "conv:d.6bhr7ezf3p6t2d5jdt5zhe6f4i"}
IN_GROUP = {"as": "alice", "channel": GROUP}
_LUNCH = {"type": "group", "name": "Lunch", "users": [_OTHER]}

EXAMPLES: dict[str, dict[str, Any]] = {
    "conversations_create": {"type": "open", "id": "lobby", "name": "Lobby"},
    "conversations_get": LOBBY,
    "conversations_list": {"as": "alice"},
    "inbox_list": {"as": "alice", "limit": 30},
    "conversations_directory": {"prefix": "Lo"},
    "conversations_search": {"as": "alice", "query": "lun"},
    "messages_search": {"as": "alice", "query": 'lunch "see you" -tomorrow'},
    "conversations_update": {**LOBBY, "name": "The lobby"},
    "conversations_close": LOBBY,
    "conversations_reopen": LOBBY,
    "conversations_delete": {"channel": GROUP},
    "conversations_join": IN_GROUP,
    "conversations_leave": IN_GROUP,
    "conversations_decline": IN_GROUP,
    "members_list": LOBBY,
    "members_add": {**IN_GROUP, "user": "carol"},
    "members_invite": {**IN_GROUP, "user": "carol"},
    "members_remove": {**IN_GROUP, "user": "carol"},
    "members_role": {**LOBBY, "user": "alice", "role": "moderator"},
    "members_silence": {**LOBBY, "as": "alice", "user": "carol", "until": 4_102_444_800_000},
    "members_ban": {**LOBBY, "user": "mallory"},
    "members_unban": {**LOBBY, "user": "mallory"},
    "messages_send": {"as": "alice", "to": _OTHER, "text": "See you at 8"},
    "messages_edit": {"as": "alice", **DIRECT, "of": 2, "text": "See you at 9"},
    "messages_delete": {"as": "alice", **DIRECT, "of": 2},
    "messages_purge": {**LOBBY, "user": "mallory", "upto": 100},
    "messages_get": {"as": "alice", **DIRECT, "offset": 2},
    "messages_list": {"as": "alice", **DIRECT, "limit": 25},
    "messages_between": {"from": "alice", "to": _OTHER, "limit": 25},
    "messages_thread": {"as": "alice", **DIRECT, "thread": 2},
    "messages_versions": {"as": "alice", **DIRECT, "offset": 2},
    "reactions_add": {"as": _OTHER, **DIRECT, "of": 2, "name": "👍"},
    "reactions_remove": {"as": _OTHER, **DIRECT, "of": 2, "name": "👍"},
    "reactions_list": {"as": "alice", **DIRECT, "offset": 2},
    "pins_add": {**DIRECT, "of": 2},
    "pins_remove": {**DIRECT, "of": 2},
    "pins_list": DIRECT,
    "markers_get": {"as": "alice", **DIRECT},
    "typing_start": {"as": "alice", **DIRECT},
    "typing_stop": {"as": "alice", **DIRECT},
    "devices_set": {"as": "alice", "id": "phone", "platform": "fcm", "token": "fMEP0vJqS0:APA91bHqX"},
    "devices_remove": {"as": "alice", "id": "phone"},
    "devices_list": {"as": "alice"},
    "markers_read": {"as": "alice", **DIRECT, "offset": 2},
    "markers_unread": {"as": "alice", **DIRECT, "offset": 2, "generation": 0},
    "markers_delivered": {"as": "alice", **DIRECT, "offset": 2},
    "receipts_list": {"as": "alice", **DIRECT, "offset": 2},
    "conversations_preferences": {"as": "alice", **DIRECT, "muted": True, "archived": False, "notify": "mentions"},
    "me_preferences": {"as": "alice", "receipts": "private"},
    "me_export": {"as": "alice"},
    "me_erase": {"as": "mallory"},
}
OF_USERS: dict[str, dict[str, Any]] = {
    "conversations.create": _LUNCH,
    "conversations.update": {"name": "Dinner", "settings": {"history": "joined"}},
    "members.add": {"user": "carol"},
    "members.invite": {"user": "carol"},
    "members.role": {"role": "moderator"},
    "members.silence": {"until": 4_102_444_800_000},
    "members.ban": {},
    "messages.purge": {"user": "mallory", "upto": 100},
    "messages.send": {"text": "See you at 8"},
    "devices.set": {"platform": "fcm", "token": "fMEP0vJqS0:APA91bHqX"},
    "messages.edit": {"text": "See you at 9", "if_rev": 2},
    "markers.read": {"offset": 2},
    "markers.unread": {"offset": 2, "generation": 0},
    "markers.delivered": {"offset": 2},
    "conversations.preferences": {"muted": True, "archived": False, "notify": "mentions"},
    "me.preferences": {"receipts": "private"},
}
