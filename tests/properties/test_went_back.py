"""Edges, persistence and Redis down and back: no place is given twice.

In every order, Redis from copies of any age.

The scripts are the real ones, on a real server; only its clock and its run id are read from a key, so that a restart
and a second cost nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.edge.adapters.redis.own_appends import OwnAppends
from services.shared.hotlog import hot, hotlog, keys, scripts
from services.shared.hotlog.scripts import Call, Script
from services.shared.incarnation import calls
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate
from services.shared.redis.client import redis_client
from tests.support.full import sized
from tests.support.scripts import run

_EXAMPLES = sized(40, 2_000)
_CHANNELS = ["live:a", "live:b"]
_SIMULATED = [
    ("redis.call('INFO', 'server')", "redis.call('GET', 'server')"),
    ("redis.call('INFO', 'replication')", "redis.call('GET', 'server')"),
    ("redis.call('PUBSUB', 'NUMSUB', ARGV[4])", "{'', tonumber(redis.call('GET', 'edges'))}"),
    ("redis.call('TIME')", "{redis.call('GET', 'clock'), '0'}"),
]
_SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}


def changed(script: Script, *changes: tuple[str, str]) -> Script:
    text = script.text.decode()
    for old, new in changes:
        text = text.replace(old, new)
    folder = Path(tempfile.mkdtemp())
    (folder / "changed.lua").write_text(text)
    made = scripts.load(folder / "changed.lua")
    shutil.rmtree(folder)
    return made


class Edge:
    """What an edge does about Redis: it looks, and it appends with what it knows.

    It says no farewell when it dies.
    """

    def __init__(self, world: World, number: int) -> None:
        self.world, self.name = world, f"edge{number}"
        self.gate = IncarnationGate()
        self.appends = OwnAppends()

    async def look(self) -> None:
        used = self.gate.incarnation.run_id if self.gate.incarnation else ""
        call = calls.check_call(self.name, self.gate.known, used, "", appends=self.appends.highest)
        look = calls.check_result(await self.world.call(call))
        if look.incarnation is None or look.incarnation.run_id != look.run_id:
            self.gate.close()
        else:
            self.appends.use(look.incarnation.token, look.appends)
            self.gate.open(look.incarnation, Known(look.incarnation.generation, look.writes, look.at_ms))

    async def publish(self, channel: str) -> None:
        incarnation: Incarnation | None = self.gate.incarnation
        if incarnation is None or incarnation.run_id != self.world.run_id:  # no connection of an earlier run is left
            return
        call = hot.append_call(
            [hot.HotBatch(channel, 100, 3_600, [(str(next(self.world.numbers)).encode(), "")])],
            edge=self.name,
            fresh_epoch=hotlog.new_epoch(incarnation.generation),
            now_s=self.world.now_s,
            writes=self.gate.writes,
            number=self.appends.highest,
        )
        reply = hot.appended(await self.world.call(call))
        if reply is None or reply.batches == [None]:
            await self.look()
            return
        assert self.appends.is_new(reply.number), "nothing else was under way"
        (appended,) = reply.batches
        assert isinstance(appended, hot.HotAppended)
        self.gate.saw(Known(int(appended.epoch.split(".")[0]), reply.writes))
        (offset,) = appended.offsets
        place = (channel, appended.epoch, offset)
        assert place not in self.world.places, f"{place} was given twice"
        self.world.places[place] = None

    async def read(self, channel: str) -> None:
        """A client at the beginning of the epoch comes back.

        It is told all that was acknowledged in it, or nothing.
        """
        incarnation = self.gate.incarnation
        if incarnation is None or incarnation.run_id != self.world.run_id:
            return
        call = hotlog.read_call(
            channel,
            stored=False,
            incarnation=incarnation.generation,
            since_offset=0,
            limit=1_000,
            reverse=False,
            writes=self.gate.writes,
        )
        page = hotlog.page(await self.world.call(call))
        if page is not None:
            given = {offset for name, epoch, offset in self.world.places if (name, epoch) == (channel, page.epoch)}
            assert given <= {offset for offset, _ in page.entries}, "recovered without what was acknowledged"


class World:
    """Two edges, a persistence and a Redis."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.client = client
        self.numbers, self.runs, self.edge_numbers = itertools.count(1), itertools.count(1), itertools.count(1)
        self.places: dict[tuple[str, str, int], None] = {}  # in the order in which they were given
        self.copies: list[list[tuple[Any, bytes]]] = []
        self.edges: list[Edge | None] = [None, None]
        self.kept = (0, 0)  # in the store: counter and generation
        self.known: Known | None = None  # of the process of persistence; None: it is down
        self.ending: tuple[int, Known] | None = None  # in the store, too: what one that ended in order has seen
        self.run_id, self.now_s = "", 1_000

    async def begin(self) -> None:
        await self.client.flushall()
        await self._run_begins()
        await self.persistence_starts()
        for number in range(2):
            await self.edge_starts(number)

    async def call(self, call: Call) -> Any:
        (found,) = await run(self.client, [call])
        assert not isinstance(found, Exception), found
        return found

    async def _run_begins(self) -> None:
        self.run_id = f"run{next(self.runs)}"
        await self._server()

    async def _server(self) -> None:
        there = sum(edge is not None for edge in self.edges)
        server = f"run_id:{self.run_id} master_replid:{self.run_id}"
        await self.client.mset({"server": server, "clock": str(self.now_s), "edges": str(there)})

    # Steps.

    async def publish(self, edge: int, channel: str) -> None:
        if (one := self.edges[edge]) is not None:
            await one.publish(channel)

    async def read(self, edge: int, channel: str) -> None:
        if (one := self.edges[edge]) is not None:
            await one.read(channel)

    async def wait(self, seconds: int) -> None:
        """Whoever runs looks twice a second; starts and ends take longer."""
        for _ in range(seconds):
            self.now_s += 1
            await self._server()
            await self._all_look()

    async def _all_look(self) -> None:
        for edge in self.edges:
            if edge is not None:
                await edge.look()
        await self.heartbeat(waits=False)
        for edge in self.edges:
            if edge is not None:
                await edge.look()

    async def heartbeat(self, waits: bool) -> None:
        if self.known is None:
            return
        call = calls.heartbeat_call(*self.kept, self.known, kept=self.kept[0], store="store", waits=waits)
        found = calls.heartbeat_result(await self.call(call))
        assert isinstance(found, calls.HeartbeatReply)
        if found.incarnation is not None:
            self.known = found.known
            self.kept = (max(self.kept[0], found.counter), max(self.kept[1], found.generation))

    async def edge_dies(self, number: int) -> None:
        self.edges[number] = None

    async def edge_ends(self, number: int) -> None:
        """In order: it takes its note away."""
        if (one := self.edges[number]) is not None:
            await self.client.hdel(keys.observers(), one.name)
            self.edges[number] = None

    async def edge_starts(self, number: int) -> None:
        await self.wait(1)
        self.edges[number] = Edge(self, next(self.edge_numbers))
        await self.wait(1)

    async def persistence_dies(self) -> None:
        self.known = None

    async def persistence_starts(self) -> None:
        await self.wait(1)
        if self.known is None:
            ending, self.ending = self.ending, None
            self.known = ending[1] if ending and ending[0] == self.kept[0] else Known()
        await self.wait(1)

    async def persistence_ends(self) -> None:
        """In order: it notes what Redis has."""
        if self.known is None:
            return
        await self._server()
        known, self.known = self.known, None
        if known.generation == self.kept[1]:
            left = calls.orderly_end_result(
                await self.call(calls.orderly_end_call(self.kept[0], known)), known.generation
            )
            if left is not None:
                self.kept, self.ending = (left[0], self.kept[1]), left

    async def copy(self) -> None:
        names = [name for name in await self.client.keys("t:*") if name != b"t:said"]
        self.copies.append([(name, value) for name in names if (value := await self.client.dump(name)) is not None])

    async def back(self, age: int, restarts: bool, down_s: int) -> None:
        """From a copy (0: as it was), in a new run or in the same."""
        if age:
            await self._become(self.copies[-age] if age <= len(self.copies) else [])
        if restarts:
            self.now_s += down_s
            await self._run_begins()
            for edge in self.edges:
                if edge is not None:
                    await edge.look()  # says what it knows, before anybody judges
        else:
            await self._server()

    async def _become(self, copy: Sequence[tuple[Any, bytes]]) -> None:
        await self.client.flushall()
        for name, value in copy:
            await self.client.restore(name, 0, value)


edge, channel = st.integers(0, 1), st.sampled_from(_CHANNELS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), edge, channel),
        st.tuples(st.just("publish"), edge, channel),
        st.tuples(st.just("publish"), edge, channel),
        st.tuples(st.just("read"), edge, channel),
        st.tuples(st.just("wait"), st.sampled_from([1, 1, 8])),
        st.tuples(st.just("edge_dies"), edge),
        st.tuples(st.just("edge_starts"), edge),
        st.tuples(st.just("edge_ends"), edge),
        st.tuples(st.just("persistence_dies")),
        st.tuples(st.just("persistence_ends")),
        st.tuples(st.just("persistence_starts")),
        st.tuples(st.just("copy")),
        st.tuples(st.just("back"), st.integers(0, 2), st.just(True), st.sampled_from([0, 5])),
    ),
    min_size=4,
    max_size=16,
)


@pytest.fixture
def play(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    for module, name in ((calls, "CHECK"), (calls, "HEARTBEAT"), (calls, "ORDERLY_END")):
        monkeypatch.setattr(module, name, changed(getattr(module, name), *_SIMULATED))
    with asyncio.Runner() as runner:
        client = redis_client(redis_url)

        async def live(schedule: Sequence[tuple[Any, ...]]) -> list[tuple[str, str, int]]:
            world = World(client)
            await world.begin()
            for name, *arguments in schedule:
                await getattr(world, name)(*arguments)
            for number in range(2):
                for one in _CHANNELS:
                    await world.publish(number, one)
                    await world.read(number, one)
            return list(world.places)

        yield lambda schedule: runner.run(live(schedule))
        runner.run(_end(client))


async def _end(client: redis.asyncio.Redis) -> None:
    await client.flushall()
    await client.aclose()


def test_no_place_is_given_twice_whatever_goes_and_comes_back(play: Callable[[Any], Any]) -> None:
    @settings(max_examples=_EXAMPLES, derandomize=True, **_SETTINGS)
    @given(steps)
    def check(schedule: Any) -> None:
        play(schedule)

    check()


A, B = _CHANNELS
MUTANTS: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    "nobody need have watched": (
        "if watched and not absent then",
        "if not absent then",
        [
            ("publish", 0, A),
            ("edge_dies", 0),
            ("edge_dies", 1),
            ("wait", 8),
            ("persistence_dies",),
            ("copy",),
            ("edge_starts", 0),
            ("publish", 0, A),
            ("edge_dies", 0),
            ("back", 1, True, 5),
            ("edge_starts", 1),
            ("persistence_starts",),
            ("publish", 1, A),
        ],
    ),
    "nobody is missed": (
        "if watched and not absent then",
        "if watched then",
        [
            ("publish", 0, A),
            ("wait", 1),
            ("copy",),
            ("publish", 0, A),
            ("edge_dies", 0),
            ("back", 1, True, 0),
            ("wait", 1),
            ("publish", 1, A),
        ],
    ),
}


def test_an_orderly_stop_keeps_the_epoch_and_a_later_copy_of_it_does_not(play: Callable[[Any], Any]) -> None:
    """Persistence ends when no edge is there.

    An edge that starts behind it begins a generation, in whatever run.
    """
    stop = [("publish", 0, A), ("wait", 1), ("edge_ends", 0), ("edge_ends", 1), ("persistence_ends",)]
    start = [("persistence_starts",), ("edge_starts", 0), ("publish", 0, A)]
    places = play([*stop, ("back", 0, True, 5), *start])
    assert len({epoch for name, epoch, _ in places if name == A}) == 1
    play([*stop, ("copy",), ("edge_starts", 0), ("publish", 0, A), ("edge_ends", 0), ("back", 1, True, 5), *start])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(mutant: str, play: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, schedule = MUTANTS[mutant]
    play(schedule)
    heartbeat: Script = vars(calls)["HEARTBEAT"]
    assert old in heartbeat.text.decode()
    monkeypatch.setattr(calls, "HEARTBEAT", changed(heartbeat, (old, new)))
    with pytest.raises(AssertionError, match="given twice"):
        play(schedule)
