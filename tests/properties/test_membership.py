"""Invariant: nobody is sent what is not theirs to see, and others miss nothing.

Members come and go in one conversation while clients subscribe, recover, read history and stop reading on three edges,
which lose pub/sub for a while, and persistence answers late. Every offset that a client is sent is compared with the
membership of its user. Mutants of the code are found.
"""

# ruff: noqa: SLF001  # mutants change what is inside

from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from services.edge.domain.access import authorize
from services.edge.domain.access import membership as access_membership
from services.edge.domain.channels.channel import Channel, Subscription
from services.edge.domain.channels.conversation_channel import ConversationChannel
from services.edge.domain.channels.hub import Hub
from services.edge.domain.channels.log_reader import LogReader
from services.edge.domain.chat.ports import Access
from services.edge.domain.model import HistoryPage, Publication
from services.edge.domain.session import membership
from services.edge.domain.session.handlers import recovery
from services.edge.domain.session.session import Session
from services.shared.errors import Unavailable
from services.shared.namespaces import Delta, Mode
from tests.support.edge import Client, Cluster, settle
from tests.support.edge_chat import CONV, GROUP, MemoryChat
from tests.support.full import sized

USERS = ("bob", "cid", "dan")
UNKNOWN = -1  # the position of a subscription that has none, before it gets anything
GOES_ON = {100, 103, 105}  # errors that a client may get


class LateChat(MemoryChat):
    """An answer is true when it is made, and arrives a little later."""

    rng: random.Random

    async def check(self, channel: str, user: str) -> Access:
        if self.down:
            raise Unavailable("down")
        access = self.access(channel, user)
        for _ in range(self.rng.choice((0, 0, 1, 3, 9))):
            await asyncio.sleep(0)
        return access


@dataclass
class Span:
    """A membership: what lies above `above`, up to `last`, may be seen."""

    above: int
    last: float = math.inf


class Reader:
    """One client, and what it has been sent."""

    def __init__(self, play: Play, user: str) -> None:
        self.play, self.user = play, user
        self.edge = play.rng.randrange(3)
        self.client = Client(play.cluster, play.nodes[self.edge])
        self.position: int | None = None  # of its subscription; None: it has none
        self.known = 0  # where it would recover from
        self._read = 0
        self._ids = 1

    async def connect(self) -> None:
        await self.client.call(connect={"token": self.play.cluster.token(self.user, ttl_s=None)})
        self._read = len(self.client.lines)

    def ask(self, **request: Any) -> None:
        self._ids += 1
        self.client.send(json.dumps({"id": self._ids + 100, **request}))

    def subscribe(self) -> None:
        asks: dict[str, Any] = {"channel": GROUP}
        if self.play.delta and self.play.rng.random() < 0.5:
            asks["delta"] = "fossil"
        if self.play.rng.random() < 0.7:
            epoch = self.play.chat.position(GROUP).epoch
            known = self.play.rng.choice((self.known, self.known, 0, self.play.top // 2))
            asks.update(recover=True, epoch=epoch, offset=known)
        self.ask(subscribe=asks)

    def history(self) -> None:
        rng = self.play.rng
        asks: dict[str, Any] = {"channel": GROUP, "limit": rng.choice((1, 3, 100)), "reverse": rng.random() < 0.5}
        if rng.random() < 0.6:
            asks["since"] = {"offset": rng.randint(1, self.play.top + 1), "epoch": self.play.chat.position(GROUP).epoch}
        self.ask(history=asks)

    def look(self) -> None:
        """Check what has come since the last time."""
        lines = self.client.lines
        for line in lines[self._read :]:
            self._take(line)
        self._read = len(lines)

    def _take(self, line: dict[str, Any]) -> None:
        seen = self.play.seen
        if "error" in line:
            assert line["error"]["code"] in GOES_ON, line
            seen[f"error {line['error']['code']}"] += 1
        elif "subscribe" in line:
            result = line["subscribe"]
            self.position = result.get("offset", 0) if result.get("positioned") else UNKNOWN
            for publication in result.get("publications", []):
                self._next(publication["offset"])
            seen["recovered" if result.get("recovered") else "subscribed"] += 1
        elif "history" in line:
            for publication in line["history"].get("publications", []):
                self._may_see(publication["offset"])
                seen["read"] += 1
        elif "unsubscribe" in line:
            self.position = None
        elif "push" in line and "pub" in line["push"]:
            self._next(line["push"]["pub"]["offset"])
            seen["delivered"] += 1
        elif "push" in line and "unsubscribe" in line["push"]:
            code = line["push"]["unsubscribe"]["code"]
            seen[str(code)] += 1
            if code == 2100:
                last = {span.last for span in self.play.spans[self.user]}
                assert self.position in last, f"{self.user} ended at {self.position}, removed at {last}"
            self.position = None

    def _next(self, offset: int) -> None:
        assert self.position is not None, f"{offset} without a subscription"
        assert offset == self.position + 1 or self.position == UNKNOWN, (
            f"{self.user} got {offset} behind {self.position}"
        )
        self._may_see(offset)
        self.position = self.known = offset

    def _may_see(self, offset: int) -> None:
        spans = self.play.spans[self.user]
        assert any(span.above < offset <= span.last for span in spans), f"{self.user} was sent {offset}: {spans}"


class Play:
    """Random steps from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.delta = rng.random() < 0.4
        self.joined = rng.random() < 0.5
        recovery = Mode.OFF if rng.random() < 0.15 else Mode.FORCE
        delta = Delta.FOSSIL if self.delta else Delta.OFF
        self.cluster = Cluster(conv=replace(CONV, delta=delta, recovery=recovery))
        self.chat = LateChat(self.cluster.bus)
        self.chat.rng = rng
        self.cluster.chat = self.chat
        limits = {"recovery_limit": rng.choice((3, 1_000)), "ring_size": rng.choice((2, 256))}
        self.nodes = [self.cluster.edge(commands_per_s=0, ping_interval_s=0, **limits) for _ in range(3)]
        self.spans: dict[str, list[Span]] = {user: [] for user in USERS}
        self.readers: list[Reader] = []
        self.seen: Counter[str] = Counter()

    @property
    def top(self) -> int:
        return self.chat.position(GROUP).offset

    async def run(self, steps: int) -> Counter[str]:
        settings = {"history": "joined" if self.joined else "all"}
        self.chat.does(GROUP, "", kind="conversation", op="create", settings=settings)
        for user in USERS:
            self._add(user)
        for user in (*USERS, *USERS):
            await self._come(Reader(self, user))
        for _ in range(steps):
            await self._step()
            for _ in range(self.rng.choice((0, 0, 1, 2, 5, 40))):
                await asyncio.sleep(0)
            for reader in self.readers:
                reader.look()
        await self._end()
        return self.seen

    async def _come(self, reader: Reader) -> None:
        await reader.connect()
        self.readers.append(reader)

    async def _step(self) -> None:
        rng, reader = self.rng, self.rng.choice(self.readers)
        match rng.choices(range(10), (9, 6, 6, 3, 3, 2, 3, 3, 1, 2))[0]:
            case 0:
                for _ in range(rng.choice((1, 1, 2, 8))):
                    self.chat.does(GROUP, "", kind="message", text=f"{self.top} and more")
            case 1:
                self._change(rng.choice(USERS))
            case 2 | 3:
                reader.subscribe()
            case 4:
                reader.history()
            case 5:
                reader.ask(unsubscribe={"channel": GROUP})
            case 6:
                self.cluster.bus.brokers[rng.randrange(3)].stalled = True
            case 7:
                self._hear_again(rng.randrange(3))
            case 8:
                self.chat.down = not self.chat.down and rng.random() < 0.5
            case 9:
                self._read_again(reader) if reader.client.connection.replies_wait else self._read_no_more(reader)

    def _read_no_more(self, reader: Reader) -> None:
        reader.client.connection.replies_wait = True

    def _read_again(self, reader: Reader) -> None:
        reader.client.connection.replies_wait = False
        reader.client.session.replies_taken()

    def _hear_again(self, edge: int) -> None:
        self.cluster.bus.brokers[edge].stalled = False
        self.nodes[edge].hub.reconnected()

    def _add(self, user: str) -> None:
        j = self.chat.does(GROUP, "", kind="member", op="add", user=user)
        self.spans[user].append(Span(j if self.joined else 0))

    def _change(self, user: str) -> None:
        if user not in self.chat.state(GROUP).members:
            self._add(user)
            return
        how = self.rng.choice(("remove", "remove", "ban", "leave", "role"))
        if how == "role":
            owner = self.chat.state(GROUP).owner()
            if user != owner:
                role = "moderator" if self.rng.random() < 0.5 else "admin"
                if self.chat.state(GROUP).members[user].role != role:
                    self.chat.does(GROUP, "", kind="member", op="role", user=user, role=role)
            return
        if how == "leave":
            k = self.chat.does(GROUP, user, kind="member", op="leave")
        else:
            k = self.chat.does(GROUP, "", kind="member", op=how, user=user)
        self.spans[user][-1].last = k
        if how == "ban":
            self.chat.does(GROUP, "", kind="member", op="unban", user=user)

    async def _end(self) -> None:
        """All works again: who may be there is level with the log; nobody else is there."""
        self.chat.down = False
        for edge in range(3):
            self._hear_again(edge)
        for reader in self.readers:
            self._read_again(reader)
        for _ in range(20):
            await settle()
            await self.cluster.advance(0.2)
        for reader in self.readers:
            reader.look()
            subscription = reader.client.session.subscriptions.get(GROUP)
            assert (subscription is not None) is (reader.position is not None)
            if subscription is not None:
                assert reader.user in self.chat.state(GROUP).members, f"{reader.user} stays"
                assert reader.position in (self.top, UNKNOWN)
                self.seen["level"] += 1
            elif reader.user in self.chat.state(GROUP).members:
                self.seen["away"] += 1


def play(seed: int, steps: int = 60) -> Counter[str]:
    """Play one schedule; a failure names its seed."""
    try:
        return asyncio.run(Play(seed).run(steps))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error


def test_nobody_is_sent_what_is_not_theirs_and_nobody_misses_any() -> None:
    first = random.SystemRandom().randrange(1 << 32)
    for seed in range(first, first + sized(120, 3_000)):
        play(seed)


def test_the_schedules_reach_what_they_are_for() -> None:
    reached: Counter[str] = Counter()
    for seed in range(60):
        reached.update(play(seed))
    wanted = {"2100": 30, "2500": 3, "error 103": 50, "error 100": 5, "recovered": 50, "read": 100, "level": 50}
    assert all(reached[what] >= least for what, least in wanted.items()), reached


# Mutants.


def answers_are_kept_for_a_while(patch: pytest.MonkeyPatch) -> None:
    """A cache with a time to live, of 50 answers."""
    kept: dict[tuple[int, str], tuple[int, Access]] = {}
    count = 0
    ask = access_membership.ask

    async def cached(session: Session, channel: str) -> Access:
        nonlocal count
        count += 1
        key = (id(session.node), session.user)
        if key in kept and count - kept[key][0] < 50:
            access = kept[key][1]
            opened = session.node.hub.channels.get(channel)
            position = access.as_of if opened is None or opened.log is None else opened.log.position
            return access._replace(as_of=position)
        access = await ask(session, channel)
        kept[key] = count, access
        return access

    for module in (membership, authorize, sys.modules["services.edge.domain.session.handlers.subscribe"]):
        patch.setattr(module, "ask", cached)


def the_end_comes_by_a_timer(patch: pytest.MonkeyPatch) -> None:
    original = ConversationChannel._end_those_of

    def later(self: ConversationChannel, publication: Publication) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, original, self, publication)

    patch.setattr(ConversationChannel, "_end_those_of", later)


def the_end_comes_behind_the_whole_repair(patch: pytest.MonkeyPatch) -> None:
    def fan_out(self: ConversationChannel, publications: Iterable[Publication]) -> None:
        publications = list(publications)
        Channel.fan_out(self, publications)
        for publication in publications:
            if publication.flags & 2:
                self._end_those_of(publication)

    patch.setattr(ConversationChannel, "fan_out", fan_out)


def the_join_is_not_compared_with_the_answer(patch: pytest.MonkeyPatch) -> None:
    async def confirm(session: Session, channel: Channel, subscription: Subscription, access: Access) -> None:
        subscription.history_from, subscription.checked_at = access.history_from, access.as_of.offset

    patch.setattr(membership, "confirm", confirm)


def who_is_being_subscribed_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    original = ConversationChannel._end_one

    def end(self: ConversationChannel, subscription: Subscription, offset: int) -> None:
        if subscription.live:
            original(self, subscription, offset)

    patch.setattr(ConversationChannel, "_end_one", end)


def who_catches_up_goes_on(patch: pytest.MonkeyPatch) -> None:
    def push(session: Session, subscription: Subscription, page: list[Publication]) -> bool:
        session.push_recovered(subscription, page)
        return False

    patch.setattr(recovery, "_push_to_the_end", push)


def who_catches_up_is_ended_at_once(patch: pytest.MonkeyPatch) -> None:
    def end(self: ConversationChannel, subscription: Subscription, offset: int) -> None:
        if subscription.live:
            subscription.session.no_longer_member(subscription)
        else:
            subscription.ends_at, subscription.broken = offset, True

    patch.setattr(ConversationChannel, "_end_one", end)


def a_page_is_not_compared_with_the_answer(patch: pytest.MonkeyPatch) -> None:
    async def history(session: Session, namespace: Any, request: Any, access: Access | None, limit: int) -> HistoryPage:
        access = membership._of_subscription(session, GROUP) or access or await access_membership.ask(session, GROUP)
        return await session.node.reader.history(
            GROUP, namespace, limit=limit, since=request.since, reverse=request.reverse, above=access.history_from
        )

    patch.setattr(membership, "history", history)


def pages_backwards_are_not_cut(patch: pytest.MonkeyPatch) -> None:
    original = LogReader.history

    async def history(self: LogReader, *args: Any, above: int = 0, **options: Any) -> HistoryPage:
        return await original(self, *args, above=0 if options["reverse"] else above, **options)

    async def uncut(session: Session, namespace: Any, request: Any, access: Access | None, limit: int) -> HistoryPage:
        page = await visible(session, namespace, request, access, limit)
        if not request.reverse or not page.publications:
            return page
        return await session.node.reader.history(
            GROUP, namespace, limit=limit, since=request.since, reverse=True, above=0
        )

    visible = membership.history
    patch.setattr(LogReader, "history", history)
    patch.setattr(membership, "history", uncut)


def recovery_is_not_cut(patch: pytest.MonkeyPatch) -> None:
    original = membership.confirm

    async def confirm(session: Session, channel: Channel, subscription: Subscription, access: Access) -> None:
        await original(session, channel, subscription, access)
        subscription.history_from = 0

    patch.setattr(membership, "confirm", confirm)


def the_view_is_not_repaired_before_a_join(patch: pytest.MonkeyPatch) -> None:
    async def catch_up(self: Hub, view: Channel, timeout_s: float) -> None: ...

    original = membership.confirm

    async def confirm(session: Session, channel: Channel, subscription: Subscription, access: Access) -> None:
        await original(session, channel, subscription, access._replace(history_from=0))
        subscription.history_from = access.history_from

    patch.setattr(Hub, "catch_up", catch_up)
    patch.setattr(membership, "confirm", confirm)


def a_gap_lets_go_on_unasked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "_is_member_only", lambda *_: False)


def everybody_is_ended(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConversationChannel, "_of", lambda self, _: self.subscriptions)


MUTANTS = [
    answers_are_kept_for_a_while,
    the_end_comes_by_a_timer,
    the_end_comes_behind_the_whole_repair,
    the_join_is_not_compared_with_the_answer,
    who_is_being_subscribed_is_passed_over,
    who_catches_up_goes_on,
    who_catches_up_is_ended_at_once,
    a_page_is_not_compared_with_the_answer,
    pages_backwards_are_not_cut,
    recovery_is_not_cut,
    the_view_is_not_repaired_before_a_join,
    a_gap_lets_go_on_unasked,
    everybody_is_ended,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.__name__)
def test_a_mutant_is_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        _play_all(range(1_500))


def _play_all(seeds: range) -> None:
    for seed in seeds:
        play(seed)
