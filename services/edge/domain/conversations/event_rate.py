"""Which limit an event counts for that a client publishes to a conversation.

Only the kind is looked at; persistence reads the event as a whole. Reactions and pins have a limit of their own. What
else there is counts as a message: edits, deletions, the application's own kinds, and what is no event and refused.

Nearly every client writes `kind` first, and then nothing is parsed. An event that names it twice is refused by
persistence, so the first one may be believed.
"""

from __future__ import annotations

import re

import msgspec

from services.shared.chat_methods import Rate

_KIND_FIRST = re.compile(rb'\s*\{\s*"kind"\s*:\s*"([a-z]+)"')
_MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class _Event(msgspec.Struct):
    kind: str = ""


_DECODER = msgspec.json.Decoder(_Event)
OF_EVENTS = frozenset({Rate.MESSAGES, Rate.REACTIONS})
_RATES = {"reaction": Rate.REACTIONS, "pin": Rate.REACTIONS}


def rate_of(data: bytes) -> Rate:
    """Return the limit for which an event counts; `data` may be anything."""
    found = _KIND_FIRST.match(data)
    if found is not None:
        kind = found[1].decode()
    else:
        try:
            kind = _DECODER.decode(data).kind
        except _MALFORMED:
            kind = ""
    return _RATES.get(kind, Rate.MESSAGES)
