"""The conversations in memory: so many at most, with so many members in all.

The one that was unused for the longest time goes first. A conversation that is in use outlives its place here: who
holds it goes on with it, and who asks next has it read anew.
"""

from __future__ import annotations

from collections import OrderedDict

from services.persistence.chat.live import Live
from services.persistence.chat.metrics import CONVERSATIONS

MAX_CHANNELS = 10_000
MAX_PEOPLE = 500_000


class Lives:
    """Conversations by channel."""

    def __init__(self, max_channels: int, max_people: int) -> None:
        """Create it; `max_people` is of members in all."""
        self._max_channels, self._max_people = max_channels, max_people
        self._lives: OrderedDict[str, Live] = OrderedDict()  # the one unused for the longest time first
        self._members: dict[str, int] = {}  # channel → members, as of when they were counted
        self._people = 0  # their sum

    def get(self, channel: str) -> Live | None:
        """Return a conversation, which counts as used now."""
        live = self._lives.get(channel)
        if live is not None:
            self._lives.move_to_end(channel)
        return live

    def add(self, live: Live) -> Live:
        """Keep a conversation; return the one that is there, which may be another."""
        kept = self._lives.setdefault(live.channel, live)
        self.weigh(kept)
        return kept

    def forget(self, channel: str) -> None:
        """Let a conversation go."""
        if self._lives.pop(channel, None) is not None:
            self._people -= self._members.pop(channel, 0)

    def weigh(self, live: Live) -> None:
        """Count a conversation's members anew, and let others go if there is too much."""
        if self._lives.get(live.channel) is not live:
            return
        members = len(live.state.members)
        self._people += members - self._members.get(live.channel, 0)
        self._members[live.channel] = members
        while (len(self._lives) > self._max_channels or self._people > self._max_people) and len(self._lives) > 1:
            channel, _ = self._lives.popitem(last=False)
            self._people -= self._members.pop(channel, 0)
        CONVERSATIONS.set(len(self._lives))
