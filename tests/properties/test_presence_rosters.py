"""Rosters on a real Redis against a model, in random schedules of several edges.

Who is there, counts, channels of users and who is online; what subscribers are told; lifecycle events.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.presence.adapters.redis_roster import RedisRoster
from services.presence.domain.ports import ALL_EVENTS, Enter, Lease, Leave, Lost, connections_of
from services.presence.domain.sweeper import sweep
from services.shared.feed.events import Event, decode
from services.shared.hotlog import keys
from services.shared.redis.pipeline import RedisPipeline
from tests.properties.presence_model import LEASE_S, Member, Model, Options, Told
from tests.support.full import sized
from tests.support.redis import RedisServer
from thalamus.common.v1 import common_pb2

USERS = ("ann", "bob", "")
OPTIONS = {
    "a": Options("a", announce=True, events=True),
    "b": Options("b", announce=True, by_user=True, events=True),
    "c": Options("c"),
    "d": Options("d", announce=True),
    **{connections_of(user): Options("", events=True) for user in USERS if user},
}
USER_OF = {connections_of(user): user for user in USERS if user}
CHANNELS = tuple(name for name in OPTIONS if name not in USER_OF)
TOLD_BY_CLIENT = tuple(name for name in CHANNELS if OPTIONS[name].announce and not OPTIONS[name].by_user)
STEP_S = 400  # no term ends on a multiple of it: a test may take its time
GRACE_S = 1_000.0
DATA = st.sampled_from([b'"1"', b'"2"', b'"3"'])
ELAPSE = """
for _, key in ipairs(redis.call('KEYS', '*presence*')) do
  local timed = string.match(key, ':leases$') or string.match(key, ':later$') or string.match(key, ':due$')
  if timed or string.match(key, ':gone$') then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
  end
end
return 1
"""


class Rosters(RuleBasedStateMachine):
    """Edges, as they come, change their members and die, and the sweeps of presence."""

    port = 0

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = redis.Redis(port=self.port)
        self.redis.flushall()
        self.runner = asyncio.Runner()
        self.pipeline = RedisPipeline(f"redis://127.0.0.1:{self.port}/0")
        self.roster = RedisRoster(self.pipeline)
        self.model = Model(OPTIONS)
        self.generations: dict[str, int] = {}
        self.dead: set[str] = set()
        self.clients = 0
        self.numbers: dict[str, int] = {}
        self.history: list[Told] = []
        self.read: dict[str, str] = {}
        self.readers: list[dict[str, dict[str, str]]] = []  # of each, by channel: client → user
        self.pubsub: Any = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self.pubsub.subscribe(*map(keys.pub, CHANNELS))
        self.look()
        self.start_edge()
        self.start_edge()

    def teardown(self) -> None:
        self.run(self.pipeline.aclose())
        self.runner.close()
        self.pubsub.close()
        self.redis.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def within() -> Any:
            return await work

        return self.runner.run(within())

    # What edges do.

    @initialize(seed=st.integers(0, 1_000_000))
    def first_members(self, seed: int) -> None:
        self.rng = random.Random(seed)  # hypothesis itself would choose the first ones most of the time
        for roster in OPTIONS:
            self.enter(roster, self.rng.choices(USERS, k=3), b'"1"', self.rng.random() < 0.5, self.rng.random() < 0.5)

    @precondition(lambda self: len(self.alive()) < 3)
    @rule()
    def start_edge(self) -> None:
        name = f"edge{len(self.generations)}"
        self.generations[name] = 0
        self.begin_generation(name)

    def begin_generation(self, edge: str) -> None:
        self.generations[edge] += 1
        lease = Lease(edge, self.generations[edge])
        assert self.run(self.roster.renew(lease, LEASE_S, held=False)).granted
        self.model.renew(edge, lease.generation)

    def alive(self) -> list[str]:
        return sorted(self.generations.keys() - self.dead)

    def enter_all(
        self, edge: str, roster: str, members: Sequence[Member], *, updated: bool, known: bool = False
    ) -> None:
        """One change of an edge, whose members enter in order."""
        for member in members:  # one by one: whose place is taken is asked of the roster
            held = self.run(
                self.roster.change(Lease(edge, member.generation), [self.entering(roster, member, updated, known)])
            )
            assert held == self.model.takes(edge, member.generation)
            self.model.enter(roster, member, updated=updated, known=known, there=self.there(roster))

    def entering(self, roster: str, member: Member, updated: bool, known: bool) -> Enter:
        info = info_of(member)
        _, announce, by_user, events = OPTIONS[roster]
        options: dict[str, Any] = {
            "known": known,
            "by_user": by_user,
            "events": ALL_EVENTS * events,
            "updated": updated,
        }
        return Enter(roster, member.client, member.user, info, announce, member.grace_s, **options)

    def there(self, roster: str) -> set[str]:
        return {client.decode() for client in self.redis.hkeys(f"t:presence:{{{roster}}}")}

    @rule(
        roster=st.sampled_from((*"aabbcd", *USER_OF)),
        users=st.lists(st.sampled_from(USERS), min_size=1, max_size=4),
        data=DATA,
        grace=st.booleans(),
        updated=st.booleans(),
    )
    def enter(self, roster: str, users: list[str], data: bytes, grace: bool, updated: bool) -> None:
        """`updated`: they bring data. An edge of an earlier version never says so."""
        for user in users:
            edge = self.rng.choice(self.alive())
            self.clients += 1
            member = Member(
                f"{edge}.{self.clients}",
                USER_OF.get(roster, user),
                edge,
                self.generations[edge],
                data,
                GRACE_S if grace else 0.0,
            )
            self.enter_all(edge, roster, [member], updated=updated)

    @precondition(lambda self: self.members())
    @rule(times=st.integers(1, 10), same=st.booleans(), updated=st.booleans())
    def come_back(self, times: int, same: bool, updated: bool) -> None:
        """A connection breaks, and its user is back as another client; so many times."""
        roster, old = self.pick()
        for _ in range(times):
            generation = self.generations[old.edge]
            change = Leave(roster, old.client, clean=False)
            self.run(self.roster.change(Lease(old.edge, generation), [change]))
            self.model.leave(roster, old.client, old.edge, generation, clean=False, at_most_s=0.0)
            self.clients += 1
            edge = self.rng.choice(self.alive())
            data = old.data if same else self.rng.choice((b'"1"', b'"2"'))
            new = Member(f"{edge}.{self.clients}", old.user, edge, self.generations[edge], data, GRACE_S)
            self.enter_all(edge, roster, [new], updated=updated)
            old = new

    @precondition(lambda self: self.members())
    @rule(data=DATA, updated=st.booleans())
    def change(self, data: bytes, updated: bool) -> None:
        roster, old = self.pick()
        new = replace(old, data=data, generation=self.generations[old.edge], due=None)
        self.enter_all(old.edge, roster, [new], updated=updated)

    @precondition(lambda self: self.members())
    @rule(clean=st.booleans(), at_most=st.booleans(), late=st.booleans())
    def leave(self, clean: bool, at_most: bool, late: bool) -> None:
        """`late`: it is executed when the edge has a later generation."""
        roster, old = self.pick()
        generation, at_most_s = self.generations[old.edge] - late, 500.0 if at_most else 0.0
        change = Leave(roster, old.client, clean, at_most_s=at_most_s)
        self.run(self.roster.change(Lease(old.edge, generation), [change]))
        self.model.leave(roster, old.client, old.edge, generation, clean=clean, at_most_s=at_most_s)

    @precondition(lambda self: self.members())
    @rule(data=DATA)
    def enter_late(self, data: bytes) -> None:
        """What the edge gave up under an older generation reaches Redis now."""
        roster, old = self.pick()
        new = replace(old, data=data, generation=self.generations[old.edge] - 1, due=None)
        self.enter_all(old.edge, roster, [new], updated=True)

    @precondition(lambda self: self.alive())
    @rule(forgets=st.integers(0, 3))
    def next_generation(self, forgets: int) -> None:
        """An edge enters its members anew; some have left meanwhile."""
        edge = self.rng.choice(self.alive())
        self.begin_generation(edge)
        for number, (roster, old) in enumerate(self.members()):
            if old.edge == edge and old.due is None and number % 4 >= forgets:
                again = replace(old, generation=self.generations[edge])
                self.enter_all(edge, roster, [again], updated=self.rng.random() < 0.5)  # maybe told already

    @precondition(lambda self: len(self.alive()) > 1 and len(self.members()) > 3)
    @rule()
    def die(self) -> None:
        self.dead.add(self.rng.choice(self.alive()))

    def members(self) -> list[tuple[str, Member]]:
        return [(name, one) for name, members in sorted(self.model.rosters.items()) for one in members.values()]

    def pick(self) -> tuple[str, Member]:
        found = self.members()
        waiting = [one for one in found if one[1].due is not None]
        return self.rng.choice(waiting if waiting and self.rng.random() < 0.4 else found)

    # What happens to them.

    @rule(steps=st.integers(1, 4))
    def elapse(self, steps: int) -> None:
        for _ in range(steps):
            self.model.now += STEP_S
            self.redis.eval(ELAPSE, 0, STEP_S * 1_000)
            for edge in self.alive():
                assert self.run(self.roster.renew(Lease(edge, self.generations[edge]), LEASE_S, held=True)).granted
                self.model.renew(edge, self.generations[edge])

    @precondition(lambda self: len(self.readers) < 4)
    @rule()
    def look(self) -> None:
        """A reader lists the members; from now on it sets members by client as it is told."""
        of = self.model.of
        self.readers.append({name: {one.client: one.user for one in of(name).values()} for name in TOLD_BY_CLIENT})

    @rule()
    def sweep(self) -> None:
        self.run(sweep(self.roster))
        self.model.sweep()

    @precondition(lambda self: len(self.members()) > 5)
    @rule(leaves=st.integers(0, 2))
    def lose(self, leaves: int) -> None:
        """Redis loses everything; edges enter anew who was there, and some leave."""
        self.heard()
        self.redis.flushall()
        self.numbers.clear()
        self.read.clear()
        before = self.model.lose()
        for edge in self.alive():
            self.begin_generation(edge)
        for roster, members in sorted(before.items()):
            for number, old in enumerate(members.values()):
                if old.edge in self.dead or old.due is not None:
                    continue
                lease = Lease(old.edge, self.generations[old.edge])
                if number % 3 < leaves:
                    _, announce, by_user, events = OPTIONS[roster]
                    lost = Lost(info_of(old), old.user, announce, ALL_EVENTS * events, by_user)
                    self.run(self.roster.change(lease, [Leave(roster, old.client, True, lost)]))
                    self.model.leave_lost(roster, old)
                else:
                    again = replace(old, generation=lease.generation)
                    self.enter_all(old.edge, roster, [again], updated=self.rng.random() < 0.5, known=True)
        self.compare()
        self.readers.clear()
        self.look()  # what edges tell their subscribers when Redis is lost makes readers list members again
        self.history.clear()  # whether a channel is occupied may have been told again

    # What must hold.

    @invariant()
    def rosters_counts_and_lists_are_right(self) -> None:
        self.run(self.check())

    async def check(self) -> None:
        model = self.model
        for name in OPTIONS:
            expected = {one.client: info_of(one) for one in model.of(name).values()}
            page = await self.roster.page(name, "", 1_000)
            assert page.members == [expected[client] for client in sorted(expected)]
        counts = await self.roster.stats(CHANNELS)
        assert counts == [
            (len(model.of(name)), len({one.user for one in model.of(name).values()})) for name in CHANNELS
        ]
        for user in filter(None, USERS):
            expected_channels = [name for name in CHANNELS if any(one.user == user for one in model.of(name).values())]
            assert (await self.roster.channels(user, "", 100)).channels == expected_channels
        online = await self.roster.online(list(USER_OF.values()))
        assert [one.connections for one in online] == [len(model.of(name)) for name in USER_OF]
        assert all((one.since_ms > 0) == (one.connections > 0) for one in online)

    @invariant()
    def all_is_told_once(self) -> None:
        self.compare()
        check_alternation(self.history)

    @invariant()
    def readers_have_who_is_there(self) -> None:
        """Or, if somebody took a place unseen, another client of the same user."""
        for reader in self.readers:
            for name, found in reader.items():
                assert Counter(found.values()) == Counter(one.user for one in self.model.of(name).values())

    def compare(self) -> None:
        """Compare what was told since the last call with the model."""
        pushes, events = self.heard()
        assert Counter(pushes) == Counter(self.model.pushes)
        for name in CHANNELS:  # in order, but for those who leave in one sweep
            if not any("-" in what for _, what in pushes):
                assert [one for one in pushes if one[0] == name] == [one for one in self.model.pushes if one[0] == name]
        assert Counter(events) == Counter(self.model.events)
        self.model.pushes.clear()
        self.model.events.clear()
        self.history += events

    def heard(self) -> tuple[list[tuple[str, str]], list[Told]]:
        """Return what was told since the last call: to subscribers, and as events."""
        self.redis.publish(keys.pub("d"), b"end")
        pushes: list[tuple[str, str]] = []
        for message in self.pubsub.listen():
            channel, payload = keys.channel_of(message["channel"]), message["data"]
            if payload == b"end":
                break
            found = (
                [common_pb2.ClientInfo.FromString(payload[1:])]
                if payload[:1] == keys.LEAVE
                else list(common_pb2.ClientInfos.FromString(payload[1:]).infos)
            )
            for info in found:
                who = self.model.who(channel, info.client, info.user)
                sign = {keys.JOINS: f"+{who}", keys.LEAVE: f"-{who}", keys.UPDATES: f"~{who}={info.chan_info.decode()}"}
                pushes.append((channel, sign[payload[:1]]))
                for reader in self.readers if channel in TOLD_BY_CLIENT else ():
                    if payload[:1] == keys.LEAVE:
                        reader[channel].pop(info.client, None)
                    else:
                        reader[channel][info.client] = info.user
        return pushes, [self.told(event) for event in self.new_events()]

    def new_events(self) -> list[Event]:
        found = []
        for shard in range(keys.FEED_SHARDS):
            stream = keys.lifecycle(shard)
            for entry_id, fields in self.redis.xrange(stream, f"({self.read.get(stream, '0')}"):
                self.read[stream] = entry_id.decode()
                event = decode(f"events{shard}", entry_id.decode(), fields)
                assert event is not None
                of = event.channel or f"@{event.user}"
                assert event.number > self.numbers.get(of, 0)
                self.numbers[of] = event.number
                found.append(event)
        return found

    def told(self, event: Event) -> Told:
        if event.type in ("occupied", "vacated"):
            return Told(event.type, event.channel, "")
        roster = event.channel or connections_of(event.user)
        return Told(event.type, event.channel or event.user, self.model.who(roster, event.client, event.user))


def info_of(member: Member) -> bytes:
    return common_pb2.ClientInfo(user=member.user, client=member.client, chan_info=member.data).SerializeToString()


def check_alternation(history: Sequence[Told]) -> None:
    """Each who comes and goes by turns; a channel is occupied first and vacated last."""
    there: dict[tuple[str, str, bool], bool] = {}
    for kind, of, who in history:
        comes = {"join": True, "connect": True, "occupied": True, "leave": False, "disconnect": False, "vacated": False}
        if kind in comes:
            key = (of, who, kind in ("connect", "disconnect"))
            assert there.get(key, not comes[kind]) != comes[kind], (kind, of, who)
            there[key] = comes[kind]
        if kind in ("join", "leave", "update"):
            assert there.get((of, "", False), True), f"{kind} in a vacated channel"


@pytest.mark.slow
def test_rosters_agree_with_the_model(redis_server: RedisServer, redis_url: str) -> None:
    Rosters.port = redis_server.port
    run_state_machine_as_test(
        Rosters,
        settings=settings(
            max_examples=sized(40, 1_000),
            stateful_step_count=sized(40, 80),
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # to shrink takes minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
