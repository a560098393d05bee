"""What is decided about an event before it gets its offset.

The rules of the fold come first: what would be void is refused. Some are added, which the fold does not know, so that
they may change without changing what logs mean.

* Silence and bans are decided with a time that is 100 ms earlier than the clock says, the windows of edits and deletes
  with one that is 3 s later: the time of an event is known only once it has its offset, and what was accepted must not
  be void because of it. If it takes longer, an event with a window gets no offset (`latest_ms`): what a delete names is
  erased before anybody can fold it.
* Users may purge what they wrote also where they are no members any more; that they were the method checks, as lists
  of users know it (`queries.py`). Nobody leaves a direct conversation, so there
  a stranger has written nothing, and is refused: its name follows from its users, and must not tell whether they talk.
* What was said before a member may look is as if it were not there, apart from the member's own messages.
* A message has a bounded number of edits.
"""

from __future__ import annotations

from services.persistence.chat.domain import events
from services.persistence.chat.domain.access import history_from
from services.persistence.chat.domain.rights import Right
from services.persistence.chat.domain.rules import Why, decide, has_right
from services.persistence.chat.domain.state import PLATFORM, Conversation, Message, Type
from services.persistence.chat.live import Event, names

EARLIER_MS = 100  # for silence and bans
MAX_EDITS = 5_000  # of one message: all are kept with it, and a delete erases them
_LATER_MS = 3_000  # for the windows of edits and deletes
_PROBE = events.Message(text="-")


def why_not(state: Conversation, event: Event, author: str, now_ms: int) -> Why | None:
    """Return why an event is refused; None if it is accepted.

    `now_ms`: Redis' clock, Unix ms. The messages that the event names must be in `state`, if there are any.
    """
    if isinstance(event, events.Message) and event.thread is None:  # most events: it names no other message
        return decide(state, event, author, now_ms - EARLIER_MS)
    if isinstance(event, events.Purge) and state.type is Type.DIRECT and author not in (PLATFORM, *state.members):
        return Why.NOT_ALLOWED
    if any(_is_hidden(state, author, offset) for offset in names(event)):
        return Why.NO_MESSAGE
    why = decide(state, _PROBE if isinstance(event, events.Custom) else event, author, now_ms - EARLIER_MS)
    if why is None and isinstance(event, (events.Edit, events.Delete)):
        why = decide(state, event, author, now_ms + _LATER_MS)
    if why is None and isinstance(event, events.Edit):
        target = state.messages[event.of]
        why = Why.TOO_MANY if isinstance(target, Message) and len(target.edits) >= MAX_EDITS else None
    return why


def latest_ms(state: Conversation, event: Event, author: str, now_ms: int) -> int | None:
    """Return the time (Unix ms) after which an event would be void; None: never.

    The arguments are those of `why_not`.
    """
    if not isinstance(event, (events.Edit, events.Delete)):
        return None
    window_s = state.settings.edit_window_s
    if isinstance(event, events.Delete):
        moderates = has_right(state, author, Right.MODERATE, now_ms - EARLIER_MS)
        window_s = None if moderates else state.settings.delete_window_s
    target = state.messages[event.of]
    return max(0, target.time_ms + window_s * 1_000) if window_s is not None and isinstance(target, Message) else None


def _is_hidden(state: Conversation, author: str, offset: int) -> bool:
    """Whether a message is from before what a member may see, and of somebody else."""
    if offset > history_from(state, author):
        return False
    found = state.messages.get(offset)
    return not isinstance(found, Message) or found.author != author
