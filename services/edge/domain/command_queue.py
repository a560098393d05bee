"""Commands of one client that wait for those before them; publications among them count for the whole edge."""

from __future__ import annotations

from services.edge.domain import commands as c
from services.edge.domain.publisher import Publisher

_SHARE = 16  # one client's publications count for no more (it holds up itself), and under strain it may not have more


class CommandQueue:
    """First in, first out."""

    __slots__ = ("_held", "_publications", "_publisher", "commands")

    def __init__(self, publisher: Publisher) -> None:
        self.commands: list[c.Command] = []  # to look at; nearly always empty: less memory than a deque
        self._publisher = publisher
        self._publications = 0  # up to `_SHARE` of them are in `publisher.queued`, unless held
        self._held = False

    def add(self, command: c.Command) -> bool:
        """Put it at the end; False: a publication, and too many wait on this edge already."""
        if type(command.request) is c.Publish:
            publisher = self._publisher
            too_many = self._publications >= _SHARE and publisher.is_strained()
            if too_many or not publisher.has_room():
                publisher.refused += 1
                return False
            if self._publications < _SHARE and not self._held:
                publisher.queued += 1
            self._publications += 1
        self.commands.append(command)
        return True

    def next(self) -> c.Command:
        """Take the first."""
        command = self.commands.pop(0)
        if type(command.request) is c.Publish:
            self._publications -= 1
            if self._publications < _SHARE and not self._held:
                self._publisher.queued -= 1
        return command

    def hold(self, held: bool) -> None:
        """While the client itself keeps its commands from running, they take no room from other clients."""
        if held is not self._held:
            self._held = held
            counted = min(self._publications, _SHARE)
            self._publisher.queued += -counted if held else counted

    def clear(self) -> None:
        """Forget all: nobody waits for their replies any more."""
        self.commands.clear()
        if not self._held:
            self._publisher.queued -= min(self._publications, _SHARE)
        self._publications = 0
