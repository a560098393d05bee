"""The events that methods append to conversations, made of their requests.

One place for both services: persistence appends them, and an edge shows them to the hook of the namespace first.
"""

from __future__ import annotations

from typing import Any

from services.shared import chat_requests as r

_ADDRESS = ("channel", "to", "namespace", "key")  # members of requests that are not members of their events
_EVENTS: dict[str, dict[str, Any]] = {
    "messages.send": {"kind": "message"},
    "messages.edit": {"kind": "edit"},
    "messages.delete": {"kind": "delete"},
    "messages.purge": {"kind": "purge"},
    "reactions.add": {"kind": "reaction", "op": "add"},
    "reactions.remove": {"kind": "reaction", "op": "remove"},
    "pins.add": {"kind": "pin", "op": "add"},
    "pins.remove": {"kind": "pin", "op": "remove"},
}
APPEND = "events.append"  # the method by which an edge has an event appended that a hook made; not for callers


def event_of(method: str, request: r.Write) -> dict[str, Any]:
    """Return the event that a request asks for, for JSON.

    `messages.purge` without `upto` gives an event without it, which persistence adds.
    """
    members = {name: value for name, value in request.given().items() if name not in _ADDRESS}
    return {**_EVENTS[method], **members}
