"""Work runs without a task until it waits, then as it would have in one; sessions connect and subscribe so."""

from __future__ import annotations

import asyncio
import json

import pytest

from services.edge.domain.session.first_step import run_until_it_waits
from services.shared.namespaces import Durability, Namespace
from tests.support.edge import SIGNED_IN, Client, Cluster, settle

NEWS = Namespace(name="", durability=Durability.NONE, subscribe=SIGNED_IN)


async def test_what_waits_for_nothing_has_ended_at_once() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("done")

    assert run_until_it_waits(work()) is None
    assert seen == ["done"]


async def test_what_waits_goes_on_with_what_it_waited_for() -> None:
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    seen: list[object] = []

    async def work() -> None:
        seen.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except ValueError as error:
            seen.append(str(error))

    rest = run_until_it_waits(work())
    assert rest is not None
    task = asyncio.create_task(rest)
    await settle()
    assert not task.done()
    first.set_result("one")
    second.set_exception(ValueError("two"))
    await task
    assert seen == ["one", "two"]


async def test_what_waits_is_cancelled_where_it_waits() -> None:
    seen: list[str] = []

    async def work() -> None:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")

    rest = run_until_it_waits(work())
    assert rest is not None
    task = asyncio.create_task(rest)
    for _ in range(2):
        await settle()
        task.cancel()
    await task
    assert seen == ["cancelled"] * 2


async def test_what_only_let_others_run_is_cancelled_too() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            seen.append("cancelled")

    rest = run_until_it_waits(work())
    assert rest is not None
    task = asyncio.create_task(rest)
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert seen == ["cancelled"]


async def test_an_error_before_the_first_wait_is_raised_at_once() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_until_it_waits(work())


def frame(*commands: object) -> bytes:
    return b"\n".join(json.dumps(command).encode() for command in commands)


async def test_connect_and_subscribe_are_answered_in_the_tick_of_their_message() -> None:
    cluster = Cluster(default=NEWS)
    node = cluster.edge()
    first = Client(cluster, node)
    await first.raw(
        frame({"id": 1, "connect": {"token": cluster.token("ann")}}, {"id": 2, "subscribe": {"channel": "a"}})
    )
    second = Client(cluster, node)
    second.session.message(
        frame({"id": 1, "connect": {"token": cluster.token("bob")}}, {"id": 2, "subscribe": {"channel": "a"}}),
        binary=False,
    )
    assert [next(name for name in line if name != "id") for line in second.lines] == ["connect", "subscribe"]


async def test_many_commands_of_one_message_are_answered_in_order_and_not_in_one_tick() -> None:
    cluster = Cluster(default=NEWS)
    node = cluster.edge(commands_per_s=0.0)
    await Client(cluster, node).raw(
        frame({"id": 1, "connect": {"token": cluster.token("ann")}}, {"id": 2, "subscribe": {"channel": "a"}})
    )
    client = Client(cluster, node)
    subscribes = [{"id": number, "subscribe": {"channel": "a"}} for number in range(2, 900)]
    client.session.message(frame({"id": 1, "connect": {"token": cluster.token("bob")}}, *subscribes), binary=False)
    assert len(client.lines) == 16
    for _ in range(100):
        await settle()
    assert [line["id"] for line in client.lines] == list(range(1, 900))
