"""Changes of stored grants when Redis, auth or other edges are slow or away."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.edge.domain.access.grants import NEVER, Operation
from services.edge.domain.access.revocations import Revocation, RevokedKind
from services.edge.domain.control import granter as module
from services.edge.domain.control.granter import Granter
from services.edge.domain.session.node import Node
from services.shared.errors import Busy, Unavailable
from services.shared.namespaces import Namespace, Permission
from tests.support.edge import Client, Cluster, connected, settle

GRANT = frozenset({Permission.GRANT})
PRIVATE = Namespace(name="private", subscribe=GRANT, publish=GRANT)
BOTH = [Operation.SUBSCRIBE, Operation.PUBLISH]


class Log:
    """The list of revocations.

    Redis answers after `takes_s`. The other edge reads an entry at once.
    """

    def __init__(self, cluster: Cluster, takes_s: float = 0.0) -> None:
        self.cluster, self.takes_s = cluster, takes_s
        self.other: Granter | None = None
        self.entries: list[Revocation] = []

    async def append(self, entry: Revocation) -> None:
        self.entries.append(entry)
        if self.other is not None:
            self.other.heard([entry], first=False)
        if self.takes_s:
            await self.cluster.advance(self.takes_s)


class Commands:
    """The control channel: it fails with `error`, if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[Any] = []

    async def everywhere(self, operation: Any) -> list[Any]:
        self.asked.append(operation)
        if self.error is not None:
            raise self.error
        return []


class Two:
    """An edge that changes grants, and one that has a client of the user."""

    def __init__(self, *, append_s: float = 0.0, command: Exception | None = None) -> None:
        self.cluster = Cluster(private=PRIVATE)
        self.one, self.two = (self.cluster.edge(ping_interval_s=0.0) for _ in range(2))
        self.log = Log(self.cluster, append_s)
        self.commands = Commands(command)
        self.auth = self.cluster.grants
        self.one_granter = self._granter(self.one)
        self.two_granter = self._granter(self.two)
        self.log.other = self.two_granter

    def _granter(self, node: Node) -> Granter:
        return Granter(node, cast(Any, self.commands), cast(Any, self.log), cast(Any, self.auth))

    async def subscribed(self) -> Client:
        await self.auth.give_grants("ann", ["private:*"], BOTH, NEVER)
        client = await connected(self.cluster, self.two, "ann", claims={"ttl_s": None})
        await client.call(subscribe={"channel": "private:a"})
        return client

    async def pass_(self, seconds: float) -> None:
        """Let time pass while the second edge reads the list, and finds nothing."""
        for _ in range(round(seconds * 10)):
            await self.cluster.advance(0.1)
            self.two.grants.list_was_read()
            self.two_granter.tick()
        await settle()


def unsubscribed(client: Client) -> list[int]:
    return [push["unsubscribe"]["code"] for push in client.pushes if "unsubscribe" in push]


async def test_a_change_that_was_answered_late_is_seen_within_5_s_though_the_edge_died() -> None:
    """It dies before the control command.

    The other edge had read the entry before the change.
    """
    two = Two()
    client = await two.subscribed()
    await two.one_granter._announce("ann")  # noqa: SLF001
    await settle()
    await two.pass_(module._CHANGE_S)  # noqa: SLF001
    await two.auth.take_grants("ann", [], [])
    assert unsubscribed(client) == []
    await two.pass_(1.0)
    assert unsubscribed(client) == [2103]
    assert (await client.reply(publish={"channel": "private:a", "data": 1}))["error"]["code"] == 103


async def test_a_change_that_auth_makes_after_its_caller_gave_up_does_not_stay_unknown() -> None:
    two = Two()
    client = await two.subscribed()
    await two.one_granter._announce("ann")  # noqa: SLF001
    await two.pass_(8)
    await two.auth.take_grants("ann", [], [])
    await two.pass_(8)
    assert unsubscribed(client) == [2103]


async def test_the_looks_count_from_when_the_entry_was_read_whatever_the_clock_of_its_writer() -> None:
    """The clock of the edge that wrote it is 6 s behind."""
    two = Two()
    client = await two.subscribed()
    now = two.cluster.clock.wall()
    two.two_granter.heard([Revocation(kind=RevokedKind.GRANTS, id="ann", at=now - 6, until=now + 594)], first=False)
    await settle()
    await two.auth.take_grants("ann", [], [])
    await two.pass_(4.5)
    assert unsubscribed(client) == [2103]


async def test_of_many_users_whose_grants_change_at_once_a_few_are_read_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two = Two()
    users = [f"u{number}" for number in range(3 * module._AT_ONCE)]  # noqa: SLF001
    clients = []
    for user in users:
        await two.auth.give_grants(user, ["private:*"], BOTH, NEVER)
        clients.append(await connected(two.cluster, two.two, user, claims={"ttl_s": None}))
        await clients[-1].call(subscribe={"channel": "private:a"})
    now, read, most = two.cluster.clock.wall(), two.auth.grants_of, 0
    running: set[str] = set()

    async def slow(user: str) -> Any:
        nonlocal most
        running.add(user)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.discard(user)
        return await read(user)

    monkeypatch.setattr(two.auth, "grants_of", slow)
    for user in users:
        await two.auth.take_grants(user, [], [])
    entries = [Revocation(kind=RevokedKind.GRANTS, id=user, at=now, until=now + 600) for user in users]
    two.two_granter.heard(entries, first=False)
    await settle()
    assert 1 < most <= module._AT_ONCE  # noqa: SLF001
    assert [unsubscribed(client) for client in clients] == [[2103]] * len(users)


async def test_auth_is_not_asked_for_a_change_that_would_be_too_late() -> None:
    two = Two(append_s=3.6)
    await two.subscribed()
    with pytest.raises(Unavailable):
        await two.one_granter.take("ann", [], [])
    assert [grant.channel for grant in await two.auth.grants_of("ann") or ()] == ["private:*"] * 2
    assert two.commands.asked == []


async def test_a_change_that_auth_does_not_answer_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHANGE_S", 60.0)
    two = Two(append_s=59.9)  # a tenth of a second is left
    hangs = asyncio.Event()
    monkeypatch.setattr(two.auth, "take_grants", lambda *_: hangs.wait())
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await two.one_granter.take("ann", [], [])
    assert two.commands.asked == []


@pytest.mark.parametrize("error", [Unavailable("an edge did not answer"), Busy("too many operations")])
async def test_a_change_of_which_not_all_edges_know_is_no_success(error: Exception) -> None:
    two = Two(command=error)
    await two.subscribed()
    with pytest.raises(Unavailable):
        await two.one_granter.take("ann", [], [])
    assert await two.auth.grants_of("ann") == []  # it was made
    assert len(two.log.entries) == 1


async def test_an_edge_that_may_have_missed_changes_does_not_wait_for_auth() -> None:
    two = Two()
    client = await two.subscribed()
    two.auth.hold = asyncio.Event()  # auth takes its time
    await two.cluster.advance(6)  # the list is not read
    two.two_granter.all_may_have_changed()
    assert unsubscribed(client) == [2500]


async def test_an_edge_that_reads_the_list_asks_auth_before_it_ends_anything() -> None:
    two = Two()
    client = await two.subscribed()
    two.two.grants.list_was_read()
    two.two_granter.all_may_have_changed()
    await settle()
    assert two.auth.asked == ["ann", "ann"]
    assert unsubscribed(client) == []


async def test_grants_that_expire_together_are_looked_at_some_at_a_time() -> None:
    two = Two()
    users = [f"u{number}" for number in range(100)]
    for user in users:
        await two.auth.give_grants(user, ["private:*"], BOTH, two.cluster.clock.wall() + 10)
    clients = [await connected(two.cluster, two.two, user, claims={"ttl_s": None}) for user in users]
    for client in clients:
        await client.call(subscribe={"channel": "private:a"})
    two.two.grants.forget_all()
    two.auth.asked.clear()
    two.auth.hold = asyncio.Event()
    await two.pass_(10.1)
    assert len(two.auth.asked) == module._AT_ONCE  # noqa: SLF001
    two.auth.hold.set()
    await two.pass_(1)
    for _ in range(10):
        await settle()
    assert [unsubscribed(client) for client in clients] == [[2103]] * 100
