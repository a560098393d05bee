"""Group commit against real gRPC servers.

Batches, order, deadlines, broken and silent replicas.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.shared.errors import Busy, Unavailable
from services.shared.rpc.batch_stream import BatchStream
from tests.support.grpc import Rig, ScriptedServer
from tests.support.lateness import Lateness
from tests.support.linger import BusyThread
from tests.support.waiting import until
from thalamus.persistence.v1 import persistence_pb2 as pb

Stream = BatchStream[pb.AppendItem, pb.AppendResult]
MakeRig = Callable[[int], Awaitable[Rig]]


@pytest.fixture
async def make_rig() -> AsyncIterator[MakeRig]:
    rigs: list[Rig] = []

    async def make(replicas: int) -> Rig:
        servers = [ScriptedServer() for _ in range(replicas)]
        for server in servers:
            await server.start()
        rigs.append(Rig(*servers))
        return rigs[-1]

    yield make
    for rig in rigs:
        await rig.close()


def item(key: object, size: int = 0) -> pb.AppendItem:
    return pb.AppendItem(channel="chat:1", key=str(key), publication=b"x" * size)


async def submit(stream: Stream, key: object, size: int = 0) -> str:
    return (await stream.submit(item(key, size))).position.epoch


async def test_what_is_submitted_in_one_tick_is_one_batch(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    keys = [str(number) for number in range(100)]
    assert await asyncio.gather(*(submit(stream, key) for key in keys)) == keys
    assert rig.servers[0].log.batches == [keys]


async def test_what_piles_up_while_two_batches_are_in_flight_goes_as_the_third(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    await submit(stream, "connected")
    log = rig.servers[0].log
    log.go.clear()
    waiting = []
    for number in range(50):
        waiting.append(asyncio.ensure_future(submit(stream, number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    log.go.set()
    assert await asyncio.gather(*waiting) == [str(number) for number in range(50)]
    assert [len(batch) for batch in log.batches] == [1, 1, 1, 48]


async def test_while_its_thread_is_busy_a_batch_waits_for_more(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    busy = BusyThread(longest_s=0.2)
    stream = await rig.open_stream(linger=busy.linger)
    await submit(stream, "connected")
    busy.work(1.0)
    await asyncio.gather(*(submit(stream, key) for key in range(100)))  # at once, but from now on much is expected
    waiting = []
    for number in range(5):
        waiting.append(asyncio.ensure_future(submit(stream, number)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert [len(batch) for batch in rig.servers[0].log.batches] == [1, 100, 5]


async def test_a_result_that_is_an_exception_is_raised_to_whoever_waits_for_it(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    outcomes = await asyncio.gather(*(submit(stream, key) for key in ("a", "refused", "b")), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["a", "as the test wants", "b"]
    assert isinstance(outcomes[1], Busy)


async def test_items_keep_their_order_on_one_replica(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(max_items=7)
    keys = [str(number) for number in range(200)]
    await asyncio.gather(*(submit(stream, key) for key in keys))
    assert rig.servers[0].log.keys == keys


async def test_a_batch_ends_at_its_bytes_and_an_item_over_them_goes_alone(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(max_bytes=1000)
    sizes = [400, 400, 400, 5000, 10]
    await asyncio.gather(*(submit(stream, key, size) for key, size in enumerate(sizes)))
    assert rig.servers[0].log.batches == [["0", "1"], ["2"], ["3"], ["4"]]


async def test_batches_go_where_least_is_in_flight(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    stream = await rig.open_stream()
    slow, quick = rig.servers
    await both_connected(stream, rig)
    slow.log.go.clear()
    for number in range(30):
        waiting = asyncio.ensure_future(submit(stream, number))
        await asyncio.wait({waiting}, timeout=0.02)
    assert len(slow.log.batches) <= 1 + 2
    assert len(quick.log.batches) >= 28
    slow.log.go.set()


async def test_a_result_that_comes_late_holds_up_no_other(make_rig: MakeRig) -> None:
    """Neither of its own batch nor of later ones, however many such batches there are.

    They are said to be in hand.
    """
    rig = await make_rig(1)
    stream = await rig.open_stream()
    log = rig.servers[0].log
    log.held = {f"late {number}" for number in range(5)}
    late = []
    for number in range(5):
        late.append(asyncio.ensure_future(submit(stream, f"late {number}")))
        assert await submit(stream, f"with it {number}") == f"with it {number}"
        assert await submit(stream, f"behind it {number}") == f"behind it {number}"
    assert not any(one.done() for one in late)
    await submit(stream, "release")
    assert await asyncio.gather(*late) == [f"late {number}" for number in range(5)]


async def test_of_a_stream_that_breaks_only_what_has_no_result_is_repeated(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    server = rig.servers[0]
    server.log.held = {"late"}
    late = asyncio.ensure_future(submit(stream, "late"))
    await submit(stream, "with it")
    server.log.held = set()
    await server.stop()
    await server.start()
    assert await late == "late"
    assert server.log.keys == ["with it", "late", "late"]


async def test_a_stream_on_which_anything_comes_is_not_silent(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(deadline_s=0.4)
    log = rig.servers[0].log
    log.held = {"late"}
    late = asyncio.ensure_future(submit(stream, "late"))
    while not late.done():
        await submit(stream, "other")
        await asyncio.sleep(0.02)
    with pytest.raises(Unavailable, match="no response in time"):
        await late
    for number in range(15):
        await submit(stream, number)
        await asyncio.sleep(0.02)
    assert log.cancelled == 0


async def test_a_batch_whose_replica_died_is_repeated_on_another(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    stream = await rig.open_stream()
    await both_connected(stream, rig)
    for server in rig.servers:
        server.log.go.clear()
    waiting = asyncio.ensure_future(submit(stream, "precious"))
    await until(lambda: any("precious" in server.log.keys for server in rig.servers))
    first, other = sorted(rig.servers, key=lambda server: "precious" not in server.log.keys)
    other.log.go.set()
    await first.stop()
    assert await waiting == "precious"
    assert "precious" in other.log.keys


async def test_a_batch_whose_only_replica_restarts_is_repeated_there(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    server = rig.servers[0]
    await submit(stream, "before")
    server.log.go.clear()
    waiting = [asyncio.ensure_future(submit(stream, key)) for key in range(5)]
    await until(lambda: "4" in server.log.keys)
    await server.stop()
    server.log.go.set()
    await server.start()
    assert await asyncio.gather(*waiting) == ["0", "1", "2", "3", "4"]
    assert server.log.keys == ["before", *"01234", *"01234"]


async def test_a_repeat_that_is_refused_is_not_told_as_not_done(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    stream = await rig.open_stream()
    await both_connected(stream, rig)
    for server in rig.servers:
        server.log.go.clear()
    waiting = asyncio.ensure_future(submit(stream, "refused"))  # the first replica may do it nevertheless
    await until(lambda: any("refused" in server.log.keys for server in rig.servers))
    first, other = sorted(rig.servers, key=lambda server: "refused" not in server.log.keys)
    other.log.go.set()
    await first.stop()
    with pytest.raises(Unavailable):
        await waiting
    assert "refused" in other.log.keys
    with pytest.raises(Busy):  # one that was sent once
        await submit(stream, "refused")


async def test_a_server_that_stops_gracefully_answers_what_it_has_and_ends_the_stream(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    stream = await rig.open_stream()
    await both_connected(stream, rig)
    for server in rig.servers:
        server.log.go.clear()
    waiting = asyncio.ensure_future(submit(stream, "last"))
    await until(lambda: any("last" in server.log.keys for server in rig.servers))
    busy = next(server for server in rig.servers if "last" in server.log.keys)
    async with Lateness() as late:
        stopping = asyncio.ensure_future(busy.stop(grace_s=5.0))
        await asyncio.sleep(0.05)
        for server in rig.servers:
            server.log.go.set()
        assert await waiting == "last"
        await stopping
    assert late.took_s < 2.0, "the stream was not ended: the whole grace went by"
    assert sum(server.log.keys.count("last") for server in rig.servers) == 1
    assert await submit(stream, "next") == "next"


async def test_no_response_is_unavailable_at_the_deadline_and_the_silent_stream_is_torn_down(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(deadline_s=0.4)
    log = rig.servers[0].log
    await submit(stream, "connected")
    log.go.clear()
    async with Lateness() as late:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="no response in time"):
            await submit(stream, "lost")
        assert time.monotonic() - began > 0.35
        assert late.took_s < 0.8
    await until(lambda: log.cancelled == 1)
    log.go.set()
    await until(lambda: stream.connected)
    assert await submit(stream, "again") == "again"
    assert log.keys.count("lost") == 1, "nobody waited for it any more"


async def test_a_silent_replica_costs_half_a_deadline_where_another_answers(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    stream = await rig.open_stream(deadline_s=2.0)
    await both_connected(stream, rig)
    rig.servers[0].log.go.clear()
    keys = [str(number) for number in range(4)]
    replies = []
    async with Lateness() as late:
        for key in keys:
            replies.append(asyncio.ensure_future(submit(stream, key)))
            await asyncio.sleep(0.01)
        assert await asyncio.gather(*replies) == keys
    assert late.took_s < 1.8


async def test_more_than_the_bound_is_busy_and_room_comes_back(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(max_waiting=10, deadline_s=10)
    log = rig.servers[0].log
    await submit(stream, "connected")
    log.go.clear()
    waiting = [asyncio.ensure_future(submit(stream, key)) for key in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await stream.submit(item("too much"))
    for lost in waiting[:3]:
        lost.cancel()
    await asyncio.sleep(0)
    kept = asyncio.ensure_future(submit(stream, "fits"))
    await asyncio.sleep(0)
    log.go.set()
    assert await kept == "fits"
    assert "too much" not in log.keys
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_its_caller_gave_up_is_not_sent(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    await submit(stream, "connected")
    given_up = asyncio.ensure_future(submit(stream, "given up"))
    kept = asyncio.ensure_future(submit(stream, "kept"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await kept == "kept"
    assert rig.servers[0].log.keys == ["connected", "kept"]


async def test_nobody_there_fails_at_once_and_works_when_somebody_comes(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    server = rig.servers[0]
    await server.stop()
    stream = await rig.open_stream(deadline_s=3.0)
    with pytest.raises(Unavailable):
        await submit(stream, "first attempt under way")
    async with Lateness() as late:
        with pytest.raises(Unavailable, match="nobody answers"):
            await submit(stream, "broken")
    assert late.took_s < 0.3
    await server.start()
    await until(lambda: stream.connected)
    assert await submit(stream, "back") == "back"


async def test_a_name_without_addresses_fails_at_once(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    rig.addresses.clear()
    stream = await rig.open_stream()
    with pytest.raises(Unavailable, match="nobody answers"):
        await submit(stream, "x")


async def test_addresses_that_come_are_used_and_those_that_go_finish_first(make_rig: MakeRig) -> None:
    rig = await make_rig(2)
    old, new = rig.servers
    rig.addresses = {old.address}
    stream = await rig.open_stream()
    await submit(stream, "connected")
    old.log.go.clear()
    waiting = asyncio.ensure_future(submit(stream, "in flight"))
    await until(lambda: "in flight" in old.log.keys)
    rig.addresses = {new.address}
    await rig.replicas.refresh()
    assert await submit(stream, "elsewhere") == "elsewhere"
    assert new.log.keys == ["elsewhere"]
    old.log.go.set()
    assert await waiting == "in flight"
    assert old.log.keys == ["connected", "in flight"]


async def test_an_answer_that_does_not_fit_breaks_the_stream_not_the_caller(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(deadline_s=1.0)
    log = rig.servers[0].log
    log.answers_wrongly = True
    waiting = asyncio.ensure_future(submit(stream, "x"))
    await until(lambda: len(log.batches) >= 2)
    log.answers_wrongly = False
    assert await waiting == "x"


async def test_a_servicer_that_fails_is_asked_again_within_the_deadline(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream(deadline_s=1.0)
    log = rig.servers[0].log
    log.failure = Unavailable("store")
    async with Lateness() as late:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await submit(stream, "x")
        assert time.monotonic() - began > 0.9
        assert late.took_s < 1.6
    log.failure = None
    await until(lambda: stream.connected)
    assert await submit(stream, "y") == "y"


async def test_a_fault_in_packing_reaches_its_caller_and_nobody_else(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    await submit(stream, "connected")
    with pytest.raises(TypeError):
        await stream.submit(pb.OpenRequest())  # type: ignore[arg-type]
    assert await submit(stream, "fine") == "fine"


async def test_closing_tells_whoever_waits(make_rig: MakeRig) -> None:
    rig = await make_rig(1)
    stream = await rig.open_stream()
    rig.servers[0].log.go.clear()
    waiting = asyncio.ensure_future(submit(stream, "x"))
    await until(lambda: rig.servers[0].log.keys == ["x"])
    await stream.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    with pytest.raises(Unavailable):
        await submit(stream, "y")


async def test_many_at_once_are_answered_each_with_its_own(make_rig: MakeRig) -> None:
    rig = await make_rig(3)
    stream = await rig.open_stream()
    await both_connected(stream, rig)
    keys = [str(number) for number in range(5000)]
    assert await asyncio.gather(*(submit(stream, key) for key in keys)) == keys
    assert sorted(key for server in rig.servers for key in server.log.keys if key.isdigit()) == sorted(keys)
    assert all(len(server.log.batches) > 2 for server in rig.servers)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_replicas_do_each_caller_gets_its_own_answer_or_a_clear_no_in_time(
    make_rig: MakeRig, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    rig = await make_rig(3)
    stream = await rig.open_stream(deadline_s=1.0, max_items=16)
    await both_connected(stream, rig)
    answered = refused = 0
    over = time.monotonic() + 2.5

    async def publisher(name: int) -> None:
        nonlocal answered, refused
        for number in itertools.count():
            began, before_s = time.monotonic(), late.total_s
            if began > over:
                return
            key = f"{name}/{number}"
            try:
                assert await submit(stream, key) == key
                answered += 1
            except Unavailable:
                refused += 1
                await asyncio.sleep(0.01)
            assert time.monotonic() - began - (late.total_s - before_s) < 1.5

    async def trouble() -> None:
        while time.monotonic() < over:
            server = chance.choice(rig.servers)
            match chance.randrange(3):
                case 0:
                    await server.stop(grace_s=chance.choice([0.0, 0.1]))
                    await asyncio.sleep(chance.uniform(0, 0.1))
                    await server.start()
                case 1:
                    server.log.go.clear()
                    await asyncio.sleep(chance.uniform(0, 0.3))
                    server.log.go.set()
                case 2:
                    server.log.failure = Unavailable("for a while")
                    await asyncio.sleep(chance.uniform(0, 0.1))
                    server.log.failure = None

    async with Lateness() as late:
        await asyncio.gather(trouble(), *(publisher(name) for name in range(40)))
    done = {key for server in rig.servers for key in server.log.keys}
    assert len(done) >= answered
    assert answered > 20 * refused, f"{answered} answered, {refused} refused"
    await until(lambda: stream.connected)
    assert await submit(stream, "after all") == "after all"


async def both_connected(stream: Stream, rig: Rig) -> None:
    """Items until every server has had one."""
    async with asyncio.timeout(30):
        while not all(server.log.batches for server in rig.servers):
            await submit(stream, "warm-up")
    for server in rig.servers:
        server.log.batches.clear()
