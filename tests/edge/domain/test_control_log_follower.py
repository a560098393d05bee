"""How an edge follows the control log: from pub/sub or read, each once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.edge.domain.control.command_log import ControlLogFollower
from services.edge.domain.model import ControlCommand, ControlCommandId, ControlLogPage
from services.shared.errors import Unavailable
from services.shared.process.cancellation import end_task
from tests.support.edge import settle


class MemoryLog:
    """Control commands numbered 1, 2, 3 …; pages of two."""

    def __init__(self) -> None:
        self.kept: list[ControlCommand] = []
        self.down = False
        self.reads = 0

    def command(self) -> ControlCommand:
        newest = self.kept[-1].id if self.kept else (0, 0)
        self.kept.append(ControlCommand((newest[0] + 1, 0), newest, b""))
        return self.kept[-1]

    async def append(self, payload: bytes) -> int:
        raise NotImplementedError

    async def read(self, after: ControlCommandId) -> ControlLogPage:
        self.reads += 1
        if self.down:
            raise Unavailable("away")
        found = [command for command in self.kept if command.id > after]
        return ControlLogPage(found[:2], self.kept[-1].id if self.kept else (0, 0), len(found) <= 2)


class Edge:
    """What one edge executed."""

    def __init__(self, log: MemoryLog, check_s: float = 60) -> None:
        self.done: list[int] = []
        self.missed: list[int] = []
        self.is_busy = False
        self.follower = ControlLogFollower(
            log, self._execute, lambda command: self.missed.append(command.id[0]), check_s=check_s
        )

    def _execute(self, command: ControlCommand) -> bool:
        if not self.is_busy:
            self.done.append(command.id[0])
        return not self.is_busy


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
async def edge(log: MemoryLog) -> AsyncIterator[Edge]:
    made = Edge(log)
    running = asyncio.create_task(made.follower.run())
    yield made
    await end_task(running)


async def test_what_is_heard_in_order_is_executed_at_once_without_a_read(edge: Edge, log: MemoryLog) -> None:
    for _ in range(3):
        edge.follower.on_command(log.command())
    assert edge.done == [1, 2, 3]
    await settle()
    assert log.reads == 0


async def test_what_comes_twice_or_late_is_executed_once(edge: Edge, log: MemoryLog) -> None:
    one, two = log.command(), log.command()
    for command in (one, two, one, two):
        edge.follower.on_command(command)
    await settle()
    assert edge.done == [1, 2]


async def test_what_did_not_come_is_read_before_what_did(edge: Edge, log: MemoryLog) -> None:
    for _ in range(4):
        log.command()
    edge.follower.on_command(log.command())
    await settle()
    assert edge.done == [1, 2, 3, 4, 5]
    assert not edge.missed


async def test_a_new_connection_reads_what_came_meanwhile(edge: Edge, log: MemoryLog) -> None:
    edge.follower.on_command(log.command())
    log.command()
    edge.follower.poll()
    await settle()
    assert edge.done == [1, 2]


async def test_what_pub_sub_lost_without_a_sign_is_found_by_looking_now_and_then(log: MemoryLog) -> None:
    edge = Edge(log, check_s=0)
    log.command()
    running = asyncio.create_task(edge.follower.run())
    async with asyncio.timeout(30):
        while not edge.done:
            await asyncio.sleep(0)
    await end_task(running)
    assert edge.done == [1]


async def test_an_order_comes_again_while_redis_is_away_or_too_much_runs(edge: Edge, log: MemoryLog) -> None:
    edge.is_busy = log.down = True
    command = log.command()
    edge.follower.on_command(command)
    await settle()
    log.down = False
    reads = log.reads
    async with asyncio.timeout(30):
        while log.reads == reads:
            await asyncio.sleep(0.01)
    assert not edge.done
    edge.is_busy = False
    async with asyncio.timeout(30):
        while not edge.done:
            await asyncio.sleep(0.01)
    assert edge.done == [1]


async def test_a_gap_in_what_is_kept_is_told(edge: Edge, log: MemoryLog) -> None:
    edge.follower.on_command(log.command())
    for _ in range(3):
        log.command()
    del log.kept[1:3]
    edge.follower.poll()
    await settle()
    assert (edge.done, edge.missed) == ([1, 4], [4])


async def test_after_redis_lost_commands_the_next_one_is_executed_and_none_again(edge: Edge, log: MemoryLog) -> None:
    for _ in range(4):
        edge.follower.on_command(log.command())
    del log.kept[2:]
    edge.follower.poll()
    await settle()
    edge.follower.on_command(log.command())
    assert edge.done == [1, 2, 3, 4, 3]
    assert not edge.missed
