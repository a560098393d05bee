"""Appends that are under way while Redis goes back in the same run.

No place is acknowledged twice, no loss is untold.

Scripts, gate and numbers are the real ones, on a real server. Calls of one edge are executed and answered in any order,
as over two connections, or where one waits for a script to be loaded. Each edge has a channel of its own: what another
edge may do to it within half a second is not promised (docs/decisions/0020), and its writes make up for lost ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.adapters.redis.own_appends import OwnAppends
from services.shared.hotlog import hot, hotlog
from services.shared.hotlog.scripts import Call, Script
from services.shared.incarnation import calls
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.redis.client import redis_client
from tests.properties.test_went_back import _SETTINGS, _SIMULATED, Edge, World, _end, changed
from tests.support.full import sized

_EXAMPLES = sized(60, 3_000)


class PipeliningEdge(Edge):
    """Sends several appends before the first one is answered."""

    def __init__(self, world: UnderWay, number: int) -> None:
        super().__init__(world, number)
        self.channel = f"live:{number}"
        self.sent: list[tuple[Incarnation, bytes, Call]] = []
        self.answers: list[tuple[Incarnation, bytes, Any]] = []
        self.acknowledged: dict[tuple[str, int], bytes] = {}

    def send(self) -> None:
        incarnation = self.gate.incarnation
        if incarnation is None or len(self.sent) + len(self.answers) >= 4:
            return
        publication = f"{self.name} {next(self.world.numbers)}".encode()
        call = hot.append_call(
            [hot.HotBatch(self.channel, 100, 3_600, [(publication, "")])],
            edge=self.name,
            fresh_epoch=hotlog.new_epoch(incarnation.generation),
            now_s=self.world.now_s,
            writes=self.gate.writes,
            number=self.appends.highest,
        )
        self.appends.began()
        self.sent.append((incarnation, publication, call))

    async def execute(self, which: int) -> None:
        if self.sent:
            incarnation, publication, call = self.sent.pop(which % len(self.sent))
            self.answers.append((incarnation, publication, await self.world.call(call)))

    async def take(self, which: int) -> None:
        if self.answers:
            await self._settle(*self.answers.pop(which % len(self.answers)))
            self.appends.ended()

    async def _settle(self, incarnation: Incarnation, publication: bytes, said: Any) -> None:
        """As `RedisBroker` does it."""
        if self.gate.token != incarnation.token:
            return
        reply = hot.appended(said)
        if reply is None:
            await self.look()
            return
        if not self.appends.is_new(reply.number):
            self.gate.close()
            renew = calls.new_generation_call(incarnation.run_id, incarnation.generation, only_other_run=False)
            await self.world.call(renew)
            await self.look()
            return
        (appended,) = reply.batches
        if not isinstance(appended, hot.HotAppended):
            await self.look()
            return
        self.gate.saw(Known(incarnation.generation, reply.writes))
        place = (appended.epoch, appended.offsets[0])
        assert place not in self.acknowledged, f"{place} was given twice"
        self.acknowledged[place] = publication

    async def check(self) -> None:
        """All that was acknowledged in the present epoch is there."""
        incarnation = self.gate.incarnation
        assert incarnation is not None
        read = hotlog.read_call(
            self.channel,
            stored=False,
            incarnation=incarnation.generation,
            since_offset=0,
            limit=1_000,
            reverse=False,
            writes=self.gate.writes,
        )
        page = hotlog.page(await self.world.call(read))
        if page is not None:
            found = dict(page.entries)
            for (epoch, offset), publication in self.acknowledged.items():
                if epoch == page.epoch:
                    assert found.get(offset, b"").startswith(publication), f"{offset} was lost, and nobody was told"


class UnderWay(World):
    """Two edges that send ahead."""

    async def edge_starts(self, number: int) -> None:
        self.edges[number] = edge = PipeliningEdge(self, next(self.edge_numbers))
        await edge.look()

    def of(self, number: int) -> PipeliningEdge:
        edge = self.edges[number]
        assert isinstance(edge, PipeliningEdge)
        return edge

    async def send(self, edge: int) -> None:
        self.of(edge).send()

    async def execute(self, edge: int, which: int) -> None:
        await self.of(edge).execute(which)

    async def take(self, edge: int, which: int) -> None:
        await self.of(edge).take(which)

    async def whole(self, edge: int) -> None:
        """One that is sent, executed and answered."""
        one = self.of(edge)
        one.send()
        await one.execute(-1)
        await one.take(-1)

    async def look(self, edge: int) -> None:
        await self.of(edge).look()

    async def settle(self) -> None:
        for number in range(2):
            one = self.of(number)
            while one.sent or one.answers:
                await one.execute(0)
                await one.take(0)
        for number in (0, 1, 0):
            await self.look(number)
        for number in range(2):
            await self.of(number).check()


edge, which = st.integers(0, 1), st.integers(0, 3)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), edge),
        st.tuples(st.just("send"), edge),
        st.tuples(st.just("execute"), edge, which),
        st.tuples(st.just("execute"), edge, which),
        st.tuples(st.just("take"), edge, which),
        st.tuples(st.just("whole"), edge),
        st.tuples(st.just("look"), edge),
        st.tuples(st.just("copy")),
        st.tuples(st.just("back"), st.integers(1, 2), st.just(False), st.just(0)),
    ),
    min_size=6,
    max_size=24,
)


@pytest.fixture
def play(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    for name in ("CHECK", "HEARTBEAT", "ORDERLY_END"):
        monkeypatch.setattr(calls, name, changed(getattr(calls, name), *_SIMULATED))
    with asyncio.Runner() as runner:
        client: redis.asyncio.Redis = redis_client(redis_url)

        async def live(schedule: Sequence[tuple[Any, ...]]) -> None:
            world = UnderWay(client)
            await world.begin()
            for name, *arguments in schedule:
                await getattr(world, name)(*arguments)
            await world.settle()

        yield lambda schedule: runner.run(live(schedule))
        runner.run(_end(client))


def test_no_place_is_acknowledged_twice_and_no_loss_is_untold(play: Callable[[Any], Any]) -> None:
    @settings(max_examples=_EXAMPLES, derandomize=True, **_SETTINGS)
    @given(steps)
    def check(schedule: Any) -> None:
        play(schedule)

    check()


BACK = ("back", 1, False, 0)
BETWEEN_TWO = [
    ("whole", 0),
    ("copy",),
    ("send", 0),
    ("send", 0),
    ("execute", 0, 0),
    ("take", 0, 0),
    BACK,
    ("execute", 0, 0),
    ("take", 0, 0),
]
SCHEDULES = {
    "between two that are under way": BETWEEN_TWO,
    "the other edge makes up for what is lost": [*BETWEEN_TWO[:7], ("whole", 1), *BETWEEN_TWO[7:]],
    "the answers come in the other order": [
        ("whole", 0),
        ("copy",),
        ("send", 0),
        ("send", 0),
        ("execute", 0, 0),
        BACK,
        ("execute", 0, 0),
        ("take", 0, 1),
        ("take", 0, 0),
    ],
    "nothing more is sent": [("whole", 0), ("whole", 1), ("copy",), ("whole", 0), BACK, ("whole", 1)],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_these_schedules_too(name: str, play: Callable[[Any], Any]) -> None:
    play(SCHEDULES[name])


def _twice_is_new(appends: OwnAppends, number: int) -> bool:
    appends.highest = max(appends.highest, number)
    return True


@pytest.mark.parametrize("name", list(SCHEDULES)[:3])
def test_a_number_that_is_not_compared_is_found(
    name: str, play: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnAppends, "is_new", _twice_is_new)
    with pytest.raises(AssertionError, match=r"given twice|was lost"):
        play(SCHEDULES[name])


def test_a_look_that_does_not_compare_own_appends_is_found(
    play: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check: Script = vars(calls)["CHECK"]
    old = "(known_writes > writes or tonumber(ARGV[7]) > appends)"
    assert old in check.text.decode()
    monkeypatch.setattr(calls, "CHECK", changed(check, (old, "known_writes > writes")))
    with pytest.raises(AssertionError, match="was lost"):
        play(SCHEDULES["nothing more is sent"])
