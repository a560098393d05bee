"""Queue of the commands of one client.

Publications in it also count towards the publications that wait on the whole edge (see `publish_admission`). Those that
a hook sees do not: they wait for the hook, not for a log, and are bounded as all other commands are.
"""

from __future__ import annotations

from services.edge.domain import commands as c
from services.edge.domain.channels.backlog import Backlog
from services.edge.domain.channels.publisher import Publisher

_UNBOUNDED = Backlog(1.0, 0.0)  # stands for the publications that admission does not bound; nobody reads it


class CommandQueue:
    """First-in-first-out queue of the commands of one client."""

    __slots__ = ("_backlogs", "_bytes", "_held", "_publisher", "_unbounded", "commands")

    def __init__(self, publisher: Publisher) -> None:
        self.commands: list[c.Command] = []  # read only; a list, because it is nearly always empty: less memory
        self._publisher = publisher
        self._backlogs: list[Backlog | None] = []  # one for each queued publication; None: it is not counted
        self._unbounded = 0  # publications among these that no admission bounds
        self._bytes = 0  # of the counted publications
        self._held = False  # see `hold`

    @property
    def others(self) -> int:
        """Number of queued commands that admission does not bound.

        They are no publications, or a hook sees them. So these must be bounded elsewhere.
        """
        return len(self.commands) - len(self._backlogs) + self._unbounded

    def add(self, command: c.Command, *, running: bool) -> bool:
        """Put a command at the end; return False if it is a publication that is refused.

        `running`: a command of this client is being executed.
        """
        request = command.request
        if type(request) is c.Publish:
            publisher, admission = self._publisher, self._publisher.admission
            backlog = publisher.backlog_of(request.channel)
            if backlog is None:
                backlog = _UNBOUNDED
                self._unbounded += 1
            else:
                size = len(request.data or b"")
                own = len(self._backlogs) - self._unbounded + running
                if not admission.admit(backlog, size, publisher.monotonic(), own, self._bytes):
                    return False
                if not (running or self.commands):
                    backlog = None  # it does not wait: the publisher counts it
                else:
                    self._bytes += size
                    if not self._held:
                        backlog.waiting += 1
                        admission.bytes += size
            self._backlogs.append(backlog)
        self.commands.append(command)
        return True

    def next(self) -> c.Command:
        """Remove the first command and return it."""
        command = self.commands.pop(0)
        request = command.request
        if type(request) is c.Publish:
            backlog = self._backlogs.pop(0)
            if backlog is _UNBOUNDED:
                self._unbounded -= 1
            elif backlog is not None:
                size = len(request.data or b"")
                self._bytes -= size
                if not self._held:
                    backlog.waiting -= 1
                    self._publisher.admission.bytes -= size
        return command

    def hold(self, held: bool) -> None:
        """Stop (or resume) counting the queued publications for the whole edge.

        While the client does not read its replies, its commands do not run. Then its publications must not take room
        from other clients.
        """
        if held is not self._held:
            self._held = held
            self._count(-1 if held else 1)

    def clear(self) -> None:
        """Drop all commands, because the session is over."""
        if not self._held:
            self._count(-1)
        self.commands.clear()
        self._backlogs.clear()
        self._bytes = self._unbounded = 0

    def _count(self, sign: int) -> None:
        for backlog in self._backlogs:
            if backlog is not None:
                backlog.waiting += sign
        self._publisher.admission.bytes += sign * self._bytes
