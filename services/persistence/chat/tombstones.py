"""What takes the place of an event whose content is erased."""

from __future__ import annotations

from typing import Any

import msgspec

from services.persistence.chat.domain import events
from thalamus.common.v1 import common_pb2


def tombstone(publication: bytes, *, offset: int, of: int, by: int, again: bool = True) -> bytes | None:
    """Return the publication that takes the place of one; None: it stays.

    Replaced are the message at offset `of`, its edits and its reactions. The author, tags and content go; id, time and
    flags stay. `by`: offset of the event because of which it is erased. `again`: so is a tombstone that names another.
    """
    found = common_pb2.Publication.FromString(publication)
    event = events.read(found.data)
    erased: dict[str, Any] = {"kind": "erased", "by": by}
    match event:
        case events.Message() if offset == of:
            erased |= {"was": "message", "counts": event.counts}
            if event.thread is not None:
                erased["thread"] = event.thread
        case events.Edit() if event.of == of:
            erased["was"] = "edit"
        case events.Reaction() if event.of == of:
            erased["was"] = "reaction"
        case events.Erased() if again and event.by != by and (offset == of) == (event.was == "message"):
            return _like(found, msgspec.structs.asdict(event) | {"kind": "erased", "by": by})
        case _:
            return None
    return _like(found, erased)


def void_tombstone(publication: bytes, *, offset: int, why: str) -> bytes | None:
    """Return what takes the place of a void message or edit; None: it is neither."""
    found = common_pb2.Publication.FromString(publication)
    if not isinstance(events.read(found.data), events.Message | events.Edit):
        return None
    return _like(found, {"kind": "erased", "was": "void", "by": offset, "why": why})


def emptied(publication: bytes, *, offset: int, of: int, rev: int) -> bytes | None:
    """Return an older version without its content; None: it stays.

    Of a message at offset `of`, and of its edits. The author stays. `rev`: offset of the version that has the content.
    """
    found = common_pb2.Publication.FromString(publication)
    event = events.read(found.data)
    match event:
        case events.Message() if offset == of:
            kept: dict[str, Any] = {"reply_to": event.reply_to, "thread": event.thread, "silent": event.silent or None}
        case events.Edit() if event.of == of:
            kept = {"of": of, "if_rev": event.if_rev}
        case _:
            return None
    if event.erased:
        return None
    kind = "message" if offset == of else "edit"
    made = common_pb2.Publication.FromString(_like(found, {"kind": kind, "erased": True, "next": rev} | kept))
    if found.HasField("info"):
        made.info.CopyFrom(found.info)
    return made.SerializeToString()


def _like(found: common_pb2.Publication, event: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({name: value for name, value in event.items() if value is not None})
    made = common_pb2.Publication(data=data, id=found.id, time_ms=found.time_ms, flags=found.flags)
    return made.SerializeToString()
