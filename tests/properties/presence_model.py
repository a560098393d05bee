"""What presence should do, without Redis: rosters, what is told, lifecycle events.

Times are seconds of the model's own clock.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

LEASE_S = 3_000
MOST_UNSEEN = 8  # so many places of others a client takes unseen


class Options(NamedTuple):
    """How a roster's members are told of; `channel` is "" for a user's connections."""

    channel: str
    announce: bool = False
    by_user: bool = False
    events: bool = False


@dataclass
class Member:
    """One entry of a roster."""

    client: str
    user: str
    edge: str
    generation: int
    data: bytes
    grace_s: float
    due: float | None = None  # when its grace ends


class Told(NamedTuple):
    """A lifecycle event: kind, channel or user, and client or, by user, user."""

    kind: str
    of: str
    who: str


@dataclass
class Model:
    """The rosters, as they should be."""

    options: dict[str, Options]
    unseen: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # whose places a client took unseen
    now: float = 0.0
    rosters: dict[str, dict[str, Member]] = field(default_factory=dict)
    leases: dict[str, tuple[int, float]] = field(default_factory=dict)  # edge: generation, end
    ending: list[tuple[float, str, int]] = field(default_factory=list)  # when a generation that was left ends
    pushes: list[tuple[str, str]] = field(default_factory=list)  # channel; "+c", "~c=data" or "-c"
    events: list[Told] = field(default_factory=list)

    def of(self, roster: str) -> dict[str, Member]:
        return self.rosters.setdefault(roster, {})

    def who(self, roster: str, client: str, user: str) -> str:
        """How a member is named: by user, any client of the user may be told of."""
        return f"@{user}" if self.options[roster].by_user and user else client

    def renew(self, edge: str, generation: int) -> None:
        known = self.leases.get(edge)
        if known is not None and known[0] != generation:
            self.ending.append((self.now + LEASE_S, edge, known[0]))
        self.leases[edge] = (generation, self.now + LEASE_S)

    def takes(self, edge: str, generation: int) -> bool:
        """Whether members may enter under this generation."""
        return edge in self.leases and self.leases[edge][0] == generation

    def enter(
        self, roster: str, new: Member, *, updated: bool = False, known: bool = False, there: Collection[str] = ()
    ) -> None:
        """Enter; `there` are the clients that are on the roster afterwards."""
        if not self.takes(new.edge, new.generation):
            return
        members, options = self.of(roster), self.options[roster]
        by_user = options.by_user and new.user != ""
        old = members.get(new.client)
        if old is not None:
            members[new.client] = new
            if updated and old.data != new.data:
                self.tell_unseen(roster, new.client)
                self.push(roster, f"~{self.who(roster, new.client, new.user)}={new.data.decode()}")
                self.event(roster, "update", new)
            return
        waiting = [one for one in members.values() if one.due is not None and one.user == new.user != ""]
        if waiting:
            (place,) = [one for one in waiting if one.client not in there]
            del members[place.client]
            members[new.client] = new
            if by_user:
                if new.data != place.data:
                    self.push(roster, f"~@{new.user}={new.data.decode()}")
                    self.event(roster, "update", new)
            else:
                before = [*self.unseen.pop((roster, place.client), []), place.client]
                self.unseen[roster, new.client] = before
                if new.data != place.data or len(before) > MOST_UNSEEN:
                    self.tell_unseen(roster, new.client)
                    self.push(roster, f"+{new.client}")
                self.event(roster, "leave" if options.channel else "disconnect", place)
                self.event(roster, "join" if options.channel else "connect", new)
            return
        if options.channel and not members:
            self.event(roster, "occupied", None)
        first = not by_user or all(one.user != new.user for one in members.values())
        members[new.client] = new
        if known and updated:
            self.push(roster, f"~{self.who(roster, new.client, new.user)}={new.data.decode()}")
            self.event(roster, "update", new)
        if first and not known:
            self.push(roster, f"+{self.who(roster, new.client, new.user)}")
            self.event(roster, "join" if options.channel else "connect", new)

    def leave(self, roster: str, client: str, edge: str, generation: int, *, clean: bool, at_most_s: float) -> None:
        member = self.of(roster).get(client)
        if member is None or member.edge != edge or member.generation > generation:
            return
        grace_s = min(member.grace_s, at_most_s or member.grace_s)
        if clean or not grace_s or (member.due is not None and member.due <= self.now):
            self.remove(roster, member)
        elif member.due is None:
            member.due = self.now + grace_s

    def leave_lost(self, roster: str, lost: Member) -> None:
        """Leave a roster that Redis lost."""
        members, options = self.of(roster), self.options[roster]
        if not (options.by_user and any(one.user == lost.user != "" for one in members.values())):
            self.push(roster, f"-{self.who(roster, lost.client, lost.user)}")
            self.event(roster, "leave" if options.channel else "disconnect", lost)
        if options.channel and not members:
            self.event(roster, "vacated", None)

    def tell_unseen(self, roster: str, client: str) -> None:
        for before in self.unseen.pop((roster, client), []):
            self.push(roster, f"-{before}")

    def remove(self, roster: str, member: Member) -> None:
        members, options = self.of(roster), self.options[roster]
        self.tell_unseen(roster, member.client)
        del members[member.client]
        by_user = options.by_user and member.user != ""
        if not (by_user and any(one.user == member.user for one in members.values())):
            self.push(roster, f"-{self.who(roster, member.client, member.user)}")
            self.event(roster, "leave" if options.channel else "disconnect", member)
        if options.channel and not members:
            self.event(roster, "vacated", None)

    def sweep(self) -> None:
        over = {(edge, generation) for edge, (generation, end) in self.leases.items() if end < self.now}
        for edge, _ in over:
            del self.leases[edge]
        over |= {(edge, generation) for end, edge, generation in self.ending if end <= self.now}
        self.ending = [one for one in self.ending if one[0] > self.now]
        for roster, members in self.rosters.items():
            for member in list(members.values()):
                ended = (member.edge, member.generation) in over
                if ended or (member.due is not None and member.due <= self.now):
                    self.remove(roster, member)

    def lose(self) -> dict[str, dict[str, Member]]:
        """Lose everything, as Redis does; return the rosters of before."""
        before, self.rosters = self.rosters, {}
        self.unseen.clear()
        self.leases.clear()
        self.ending.clear()
        return before

    def push(self, roster: str, what: str) -> None:
        if self.options[roster].announce:
            self.pushes.append((roster, what))

    def event(self, roster: str, kind: str, member: Member | None) -> None:
        options = self.options[roster]
        if options.events:
            of = options.channel or (member.user if member else "")
            self.events.append(Told(kind, of, self.who(roster, member.client, member.user) if member else ""))
