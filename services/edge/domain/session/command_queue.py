"""Commands of one client that wait for those before them; publications among them count for the whole edge."""

from __future__ import annotations

from services.edge.domain import commands as c
from services.edge.domain.channels.backlog import Backlog
from services.edge.domain.channels.publisher import Publisher


class CommandQueue:
    """First in, first out."""

    __slots__ = ("_backlogs", "_bytes", "_held", "_publisher", "commands")

    def __init__(self, publisher: Publisher) -> None:
        self.commands: list[c.Command] = []  # to look at; nearly always empty: less memory than a deque
        self._publisher = publisher
        self._backlogs: list[Backlog | None] = []  # of the publications among them; None: not counted
        self._bytes = 0  # of these
        self._held = False

    @property
    def others(self) -> int:
        """How many are no publications: nothing else bounds them."""
        return len(self.commands) - len(self._backlogs)

    def add(self, command: c.Command, *, running: bool) -> bool:
        """Put it at the end; False: a publication, and too many wait. `running`: so is a command of this client."""
        request = command.request
        if type(request) is c.Publish:
            publisher, admission = self._publisher, self._publisher.admission
            backlog = publisher.backlog_of(request.channel)
            if backlog is not None:
                size = len(request.data or b"")
                own = len(self._backlogs) + running
                if not admission.admit(backlog, size, publisher.monotonic(), own, self._bytes):
                    return False
                if not (running or self.commands):
                    backlog = None  # it runs at once: the publisher counts it
                else:
                    self._bytes += size
                    if not self._held:
                        backlog.waiting += 1
                        admission.bytes += size
            self._backlogs.append(backlog)
        self.commands.append(command)
        return True

    def next(self) -> c.Command:
        """Take the first."""
        command = self.commands.pop(0)
        request = command.request
        if type(request) is c.Publish:
            backlog = self._backlogs.pop(0)
            if backlog is not None:
                size = len(request.data or b"")
                self._bytes -= size
                if not self._held:
                    backlog.waiting -= 1
                    self._publisher.admission.bytes -= size
        return command

    def hold(self, held: bool) -> None:
        """While the client itself keeps its commands from running, they take no room from other clients."""
        if held is not self._held:
            self._held = held
            self._count(-1 if held else 1)

    def clear(self) -> None:
        """Forget all: nobody waits for their replies any more."""
        if not self._held:
            self._count(-1)
        self.commands.clear()
        self._backlogs.clear()
        self._bytes = 0

    def _count(self, sign: int) -> None:
        for backlog in self._backlogs:
            if backlog is not None:
                backlog.waiting += sign
        self._publisher.admission.bytes += sign * self._bytes
