"""Changed profiles on two edges with a real Redis.

Every edge knows of a change, also one that was cut off.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import msgspec
import pytest

from services.edge.domain.control import cluster, operations
from services.edge.domain.control.operations import ProfilesChanged
from services.edge.domain.control.profile_news import ProfileNews
from services.edge.domain.model import ControlCommand
from services.shared.errors import Unavailable
from tests.support.edge import Cluster, settle
from tests.support.live_edge import LiveEdge
from tests.support.profiles import MemoryProfiles, user_of
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until


async def versions(edge: LiveEdge, *users: str) -> list[int]:
    return [user.version for user in await edge.node.profiles.get(users)]


async def change(auth: MemoryProfiles, by: LiveEdge, user: str, version: int) -> None:
    auth.put(user_of(user, version))
    by.profile_news.changed(user, version)


async def until_versions(edge: LiveEdge, expected: list[int], *users: str) -> None:
    async with asyncio.timeout(30):
        while await versions(edge, *users) != expected:
            await asyncio.sleep(0.01)


async def test_a_change_reaches_every_edge_and_only_what_changed_is_read_again(redis_url: str) -> None:
    tokens, auth = Cluster(), MemoryProfiles(user_of("ann"), user_of("bob"))
    async with LiveEdge(tokens, redis_url, profiles=auth) as one, LiveEdge(tokens, redis_url, profiles=auth) as two:
        for edge in (one, two):
            assert await versions(edge, "ann", "bob") == [1, 1]
        await change(auth, one, "ann", 2)
        assert await versions(one, "ann") == [2], "the edge that changes it knows at once"
        await until_versions(two, [2, 1], "ann", "bob")
        assert auth.calls[2:] == [["ann"], ["ann"]]


async def test_changes_at_once_are_told_together_and_nobody_answers(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, auth = Cluster(), MemoryProfiles()
    told: list[ProfilesChanged] = []
    answers: list[bytes] = []
    async with LiveEdge(tokens, redis_url, profiles=auth) as one, LiveEdge(tokens, redis_url, profiles=auth) as two:
        for edge in (one, two):
            publish = edge.broker.publish_control

            async def counted(payload: bytes, publish: Any = publish) -> int:
                answers.append(payload)
                return int(await publish(payload))

            monkeypatch.setattr(edge.broker, "publish_control", counted)
        tell = one.cluster.tell

        async def noted(command: ProfilesChanged) -> None:
            told.append(command)
            await tell(command)

        monkeypatch.setattr(one.profile_news, "_tell", noted)
        users = [f"user{number}" + "x" * 200 for number in range(300)]
        for version in (1, 2):
            for user in users:
                await change(auth, one, user, version)
        for user in users[::2]:
            one.profile_news.changed(user, 0)
        await until(lambda: sum(len(command.versions) for command in told) >= 300)
        await until_versions(two, [2] * 100, *users[:100])
        assert len(told) <= 4
        assert max(len(msgspec.json.encode(command)) for command in told) < 40_000
        assert {user: version for command in told for user, version in command.versions.items()} == {
            user: 2 * (number % 2) for number, user in enumerate(users)
        }
        await asyncio.sleep(0.2)
        assert answers == []


async def test_an_edge_that_was_cut_off_reads_of_the_change_once_it_is_connected_again() -> None:
    server = RedisServer()
    server.start()
    try:
        tokens, auth = Cluster(), MemoryProfiles(user_of("ann"))
        async with (
            TcpProxy("127.0.0.1", server.port) as proxy,
            LiveEdge(tokens, server.url, profiles=auth) as whole,
            LiveEdge(tokens, f"redis://127.0.0.1:{proxy.port}/0", profiles=auth) as cut,
        ):
            assert await versions(cut, "ann") == [1]
            proxy.cut()
            await change(auth, whole, "ann", 2)
            await asyncio.sleep(0.5)
            assert await versions(cut, "ann") == [1]
            proxy.heal()
            await until_versions(cut, [2], "ann")
            proxy.cut()
            await change(auth, cut, "ann", 3)  # Redis does not take it now
            await asyncio.sleep(0.6)
            proxy.heal()
            assert await versions(cut, "ann") == [3]
            assert await versions(whole, "ann") in ([2], [3])
            async with asyncio.timeout(30):
                while await versions(whole, "ann") != [3]:
                    await asyncio.sleep(0.02)
    finally:
        server.kill()


async def test_an_edge_that_has_missed_commands_for_good_reads_all_profiles_anew(redis_url: str) -> None:
    tokens, auth = Cluster(), MemoryProfiles(user_of("ann"))
    async with LiveEdge(tokens, redis_url, profiles=auth) as edge:
        assert await versions(edge, "ann") == [1]
        auth.put(user_of("ann", 2))
        edge.cluster._on_missed(ControlCommand((2, 0), (1, 0), b""))  # noqa: SLF001
        assert await versions(edge, "ann") == [2]


async def test_an_edge_of_before_logs_a_warning_and_goes_on(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not know the command; the edge of now does not wait for it."""
    known = {name: kind for name, kind in operations.OPERATIONS.items() if kind is not ProfilesChanged}
    tokens, auth = Cluster(), MemoryProfiles(user_of("ann"))
    async with LiveEdge(tokens, redis_url, profiles=auth) as now:
        with caplog.at_level(logging.WARNING):
            monkeypatch.setattr(cluster, "OPERATIONS", known)
            await change(auth, now, "ann", 2)
            await until(lambda: "unreadable control message" in caplog.text)
            monkeypatch.undo()
        client = await now.client("ann")
        await now.cluster.everywhere(operations.Disconnect(user="ann"))
        await settle()
        assert client.closed is not None


async def test_a_user_who_is_enabled_is_shown_at_once_though_auth_was_asked_before(redis_url: str) -> None:
    tokens, auth = Cluster(), MemoryProfiles()
    async with LiveEdge(tokens, redis_url, profiles=auth) as one, LiveEdge(tokens, redis_url, profiles=auth) as two:
        assert await versions(two, "ann") == []  # before it hears that the user is disabled
        auth.put(user_of("ann"))
        await one.cluster.everywhere(operations.SetUser("ann", disabled=False))
        assert await versions(two, "ann") == [1]


async def test_what_redis_does_not_take_is_told_again_with_what_has_changed_meanwhile() -> None:
    told: list[dict[str, int]] = []
    fails = 2

    async def tell(command: ProfilesChanged) -> None:
        nonlocal fails
        if fails:
            fails -= 1
            for user, version in meanwhile.pop(0):
                news.changed(user, version)
            raise Unavailable("Redis is away")
        told.append(command.versions)

    meanwhile = [[("ann", 2), ("bob", 5), ("cid", 3)], [("bob", 4), ("cid", 7), ("dan", 1)]]
    news = ProfileNews(Cluster().edge(), tell, pause_s=0.01)
    news.changed("ann", 1)
    news.changed("cid", 0)
    await until(lambda: told)
    assert told == [{"ann": 2, "bob": 5, "cid": 0, "dan": 1}]


async def test_after_a_minute_without_redis_nothing_is_told_any_more() -> None:
    tokens = Cluster()
    tries: list[float] = []

    async def tell(command: ProfilesChanged) -> None:
        tries.append(tokens.clock.now)
        tokens.clock.now += 25
        raise Unavailable("Redis is away")

    news = ProfileNews(tokens.edge(), tell, pause_s=0.001)
    news.changed("ann", 1)
    await until(lambda: len(tries) == 4)
    await asyncio.sleep(0.05)
    assert tries == [1_000.0, 1_025.0, 1_050.0, 1_075.0]


async def test_between_two_commands_is_a_pause_however_many_profiles_change() -> None:
    """Or users could fill the control log."""
    at: list[float] = []

    async def tell(command: ProfilesChanged) -> None:
        at.append(asyncio.get_running_loop().time())

    news = ProfileNews(Cluster().edge(), tell, pause_s=0.1)
    for number in range(60):
        news.changed("ann", number + 1)
        await asyncio.sleep(0.005)
    await until(lambda: len(at) >= 3)
    assert min(later - earlier for earlier, later in itertools.pairwise(at)) > 0.09
