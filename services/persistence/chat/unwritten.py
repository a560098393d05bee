"""What the read model does not have yet of a conversation.

The fold notes here what each event changed, and whose places. Who writes the read model takes all of it at once, and
gives it back if it could not be written; what was folded meanwhile stays newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.persistence.chat.domain.rules import Why
from services.persistence.chat.domain.state import Deleted, Message


class Changed(NamedTuple):
    """What is to be written; see `Unwritten`."""

    touched: Mapping[int, Message | Deleted]
    void: dict[int, Why]
    people: set[str]
    purged: set[str]
    gone: set[str]


class Unwritten:
    """What changed since the read model was written last."""

    __slots__ = ("gone", "people", "purged", "touched", "void")

    def __init__(self) -> None:
        """Nothing has changed."""
        self.touched: dict[int, None] = {}  # offsets of messages
        self.void: dict[int, Why] = {}  # offsets of events that are void
        self.people: set[str] = set()  # whose membership, invitation or ban changed
        self.purged: set[str] = set()  # of them it is only new that they were purged
        self.gone: set[str] = set()  # who had a place in it when it was deleted

    def __len__(self) -> int:
        """How many documents of messages and people are to be written."""
        return len(self.touched) + len(self.void) + len(self.people) + len(self.purged) + len(self.gone)

    def take(self, messages: Mapping[int, Message | Deleted]) -> Changed:
        """Return it all, and have nothing any more; `messages` are those in memory."""
        touched = {offset: messages[offset] for offset in self.touched}
        changed = Changed(touched, self.void, self.people, self.purged, self.gone)
        self.touched, self.void = {}, {}
        self.people, self.purged, self.gone = set(), set(), set()
        return changed

    def give_back(self, changed: Changed) -> None:
        """Take back what could not be written."""
        self.touched = dict.fromkeys(changed.touched) | self.touched
        self.void = changed.void | self.void
        self.people |= changed.people
        self.purged |= changed.purged
        self.gone |= changed.gone

    def touch_deleted(self, offsets: Iterable[int], messages: Mapping[int, Message | Deleted]) -> None:
        """Have the documents of messages written that are deleted and had one."""
        for offset in offsets:
            found = messages.get(offset)
            if isinstance(found, Deleted) and found.about:
                self.touched[offset] = None

    def end(self, users: set[str]) -> None:
        """Have the end of the conversation written, of which no documents stay.

        `users`: who had a place in it; also who has left, where that was not written.
        """
        self.touched.clear()
        self.void.clear()
        self.gone = users | self.people
        self.people.clear()
        self.purged.clear()
