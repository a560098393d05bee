"""What a notification says, by the setting `preview`."""

from __future__ import annotations

from services.persistence.notifier.letter import Errand
from services.persistence.notifier.ports import Note, Shown

_BODY = 240  # characters; phones show fewer
_NEW = "New message"
_ATTACHMENT = "Attachment"


def note_of(errand: Errand, shown: Shown | None, preview: str) -> Note:
    """Return what goes out: a message, or without `shown` that it is taken back.

    `preview`: `text` says what was written, `sender` who wrote, `none` nothing of both.
    """
    note = Note(
        id=errand.notification, kind=errand.kind, user=errand.user, channel=errand.channel, offset=errand.offset
    )
    if shown is None:
        return note
    title, body = _NEW, ""
    if preview != "none":
        title = shown.author_name if shown.type == "direct" or not shown.title else shown.title
        body = _NEW if preview == "sender" else _text(shown)
        if title is shown.title:
            body = f"{shown.author_name}: {body}"
    return Note(
        id=note.id,
        kind=note.kind,
        user=note.user,
        channel=note.channel,
        offset=note.offset,
        title=title,
        body=body,
        type=shown.type,
        author=shown.author if preview != "none" else "",
        mention=shown.is_mention,
        time=shown.time_ms,
        badge=shown.badge,
    )


def _text(shown: Shown) -> str:
    text = " ".join(shown.text.split())
    if len(text) > _BODY:
        text = text[: _BODY - 1].rstrip() + "…"
    return text or (_ATTACHMENT if shown.attachments else _NEW)
