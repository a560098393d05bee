"""B34: each service has a Redis user that can do its work, and no more.

The users are those of deploy/redis/users.acl.template, filled in as `thalamus secrets init` does it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis.asyncio
from redis import exceptions

from cli.bundled import ROOT
from cli.secrets.files import REDIS_USERS, SecretFiles
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.domain.model import Publication
from services.persistence.adapters.redis.hotlog import RedisHotLog
from services.persistence.domain.ports import ChannelState
from services.shared.feed.reader import FeedReader
from services.shared.hotlog import keys
from services.shared.hotlog.hotlog import Batch, Item
from services.shared.hotlog.scripts import TOP, Call, load
from services.shared.incarnation.calls import parse_incarnation
from services.shared.process.secrets import redis_address
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from tests.contract.test_broker import Listener
from tests.support.push import push_file
from tests.support.redis import RedisServer
from tests.support.stack import Stack
from tests.support.webhooks import tell, webhooks_file
from tests.support.wire_client import WireClient, WireError

TEMPLATE = ROOT / "deploy" / "redis" / "users.acl.template"
SERVICES = ("auth", "presence", "persistence", "webhooks", "notifier")
PROCESSES = {**{service: service for service in SERVICES}, "edge-1": "edge", "edge-2": "edge"}
LEASE_S = 5.0
NOBODY = "http://127.0.0.1:9/"  # an endpoint of webhooks where nobody listens


@dataclass
class Guarded:
    """A Redis for the users of the template alone, and one of the test's own."""

    server: RedisServer
    secrets: Path

    def url(self, user: str) -> str:
        return f"redis://{user}@127.0.0.1:{self.server.port}/0"

    def client(self, user: str) -> redis.asyncio.Redis:
        return redis_client(redis_address(self.url(user), self.secrets / f"redis_{user}"))

    @property
    def auditor_url(self) -> str:
        return f"redis://auditor:auditor@127.0.0.1:{self.server.port}/0"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("secrets")
    SecretFiles(folder, TEMPLATE).init(["localhost"])
    acl = folder / "running.acl"
    acl.write_text("user default on nopass ~* &* +@all\n")  # `RedisServer` says as this user that it has lost nothing
    server = RedisServer("--aclfile", str(acl))
    try:
        server.start()
        acl.write_text((folder / "redis_acl").read_text() + "user auditor on >auditor ~* &* +@all\n")
        with redis.Redis(port=server.port) as client:
            client.acl_load()
        yield Guarded(server, folder)
    finally:
        server.close()


@pytest.fixture(scope="module")
def stack(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment_of = {
        process: {"REDIS_URL": guarded.url(user), "REDIS_PASSWORD_FILE": str(guarded.secrets / f"redis_{user}")}
        for process, user in PROCESSES.items()
    }
    environment = {"PRESENCE_LEASE_TTL_S": str(LEASE_S)}
    folder = tmp_path_factory.mktemp("webhooks")
    file = webhooks_file(folder, NOBODY, tries=2, timeout_s=0.5, max_dead=1)
    push = push_file(folder, NOBODY, notify_delay_s=0.1)
    with Stack(environment=environment, environment_of=environment_of, webhooks_file=file, push_file=push) as running:
        yield running


@pytest.fixture
async def auditor(guarded: Guarded) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis_client(guarded.auditor_url)
    yield client
    await client.aclose()


async def denied(auditor: redis.asyncio.Redis) -> list[str]:
    """What Redis refused anybody since its log of that was emptied."""
    entries = await auditor.acl_log()
    return [f"{entry['username']} {entry['reason']} {entry['object']} in {entry['context']}" for entry in entries]


async def chat(stack: Stack, channel: str, *, logged: bool = True) -> None:
    """Two users on two edges: publish, hear, recover, page, look, leave."""
    async with WireClient(stack.ws_urls[0]) as ann, WireClient(stack.ws_urls[1]) as bob:
        for client, user in ((ann, "ann"), (bob, "bob")):
            await client.connect(stack.token(user))
            await client.subscribe(channel)
        await ann.publish(channel, {"n": 1})
        assert (await bob.publication(channel))["data"] == {"n": 1}
        if not logged:
            return
        page = await bob.call(history={"channel": channel, "limit": 10, "reverse": True})
        assert page["publications"][0]["data"] == {"n": 1}
        await bob.call(unsubscribe={"channel": channel})
        await ann.publish(channel, {"n": 2})
        back = await bob.subscribe(channel, recover=True, offset=page["offset"], epoch=page["epoch"])
        assert back["recovered"] is True
        # In the answer, or right behind it where this edge has not heard of it yet.
        missed = back.get("publications") or [await bob.publication(channel)]
        assert [publication["data"] for publication in missed] == [{"n": 2}]


async def chat_soon(stack: Stack, channel: str) -> None:
    """The same, while edges learn of a new incarnation.

    Until then they refuse, or end a subscription again.
    """
    async with asyncio.timeout(20):
        while True:
            try:
                return await chat(stack, channel)
            except WireError:
                await asyncio.sleep(0.2)


async def test_everything_works_for_users_that_may_do_nothing_else(
    stack: Stack, guarded: Guarded, auditor: redis.asyncio.Redis
) -> None:
    await auditor.acl_log_reset()
    room = f"chat:{secrets.token_hex(4)}"
    await chat(stack, room)
    await chat(stack, f"live:{secrets.token_hex(4)}")
    await chat(stack, f"tick:{secrets.token_hex(4)}", logged=False)

    # Accounts: their limits are counted in Redis.
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as http:
        body = {"username": f"user-{secrets.token_hex(4)}", "password": "correct horse battery"}
        assert (await http.post("/auth/register", json=body)).status_code == 200
        assert (await http.post("/auth/login", json=body)).status_code == 200
        assert (await http.post("/auth/login", json=body | {"password": "wrong horse"})).status_code == 401
        headers = {"X-API-Key": stack.api_key}
        for name, request in (
            ("history_remove", {"channel": room}),
            ("history_remove", {"channel": f"live:{secrets.token_hex(4)}"}),
            ("presence_stats", {"channel": room}),
            ("channels", {}),
            ("disconnect", {"user": "nobody"}),  # every edge is told
        ):
            response = (await http.post(f"/api/{name}", json=request, headers=headers)).json()
            assert "result" in response, (name, response)
    assert [key async for key in auditor.scan_iter("t:auth:limit:*")]

    # Webhooks: nobody takes them, so they are sent again, and given up.
    for user in ("ann", "bob"):
        await tell(auditor, "connect", user)
    async with asyncio.timeout(20):
        while not await auditor.zcard("t:webhooks:{crm}:dead") or await auditor.zcard("t:webhooks:{crm}:due"):
            await asyncio.sleep(0.05)

    # Notifications: nobody takes it, so it waits, and what bob would see is noted; then he reads it.
    api = {"X-API-Key": stack.api_key}
    async with httpx.AsyncClient(base_url=stack.http_urls[0], headers=api) as http:
        sent = (await http.post("/api/messages_send", json={"as": "ann", "to": "bob", "text": "hi"})).json()["result"]
        async with asyncio.timeout(30):
            while not await auditor.zcard("t:push:{push}:watch"):
                await asyncio.sleep(0.05)
        listed = (await http.post("/api/inbox_list", json={"as": "bob"})).json()
        assert [one["channel"] for one in listed["result"]["conversations"]] == [sent["channel"]], listed
        read = {"as": "bob", "channel": sent["channel"], "offset": sent["offset"]}
        assert "result" in (await http.post("/api/markers_read", json=read)).json()
        async with asyncio.timeout(30):
            while await auditor.zcard("t:push:{push}:watch"):
                await asyncio.sleep(0.05)

    # An edge dies: its members leave by the sweeps of presence.
    async with WireClient(stack.ws_urls[0]) as ann, WireClient(stack.ws_urls[1]) as bob:
        await ann.connect(stack.token("ann"))
        await bob.connect(stack.token("bob"))
        await ann.subscribe(room, join_leave=True)
        await bob.subscribe(room)
        assert len((await ann.call(presence={"channel": room}))["presence"]) == 2
        await asyncio.to_thread(stack.kill9, "edge-2")
        await ann.push(room, "leave", LEASE_S + 60)
        assert len((await ann.call(presence={"channel": room}))["presence"]) == 1
    await asyncio.to_thread(stack.start, "edge-2")

    # Redis loses everything: `stored` channels come back from the store, `hot` ones begin anew.
    generation = await generation_of(auditor)
    await auditor.flushall()
    async with asyncio.timeout(20):
        while await generation_of(auditor) <= generation:
            await asyncio.sleep(0.05)
    await chat_soon(stack, room)
    await chat_soon(stack, f"live:{secrets.token_hex(4)}")
    assert await denied(auditor) == []
    async with httpx.AsyncClient() as http:
        text = (await http.get(stack.internal_urls["persistence"] + "/metrics")).text
    assert "thalamus_redis_up 1.0" in text
    assert "thalamus_redis_uptime_seconds " in text


async def generation_of(auditor: redis.asyncio.Redis) -> int:
    """Of the incarnation that Redis is told it has; -1: of none."""
    said = await auditor.get(keys.incarnation())
    incarnation = parse_incarnation(said if isinstance(said, bytes) else None)
    return -1 if incarnation is None else incarnation.generation


async def test_b34_without_a_password_and_with_a_wrong_one_nobody_is_let_in(guarded: Guarded) -> None:
    without = redis_client(f"redis://127.0.0.1:{guarded.server.port}/0")
    with pytest.raises(exceptions.AuthenticationError, match="Authentication required"):
        await without.get("t:life")
    await without.aclose()
    for user in ("default", *REDIS_USERS):
        wrong = redis_client(f"redis://{user}:wrong@127.0.0.1:{guarded.server.port}/0")
        with pytest.raises(exceptions.AuthenticationError, match="invalid username-password pair or user is disabled"):
            await wrong.ping()
        await wrong.aclose()


@pytest.mark.parametrize("user", [*REDIS_USERS, "health"])
@pytest.mark.parametrize(
    "command",
    [
        *(
            "CONFIG GET *",
            "KEYS *",
            "FLUSHALL",
            "FLUSHDB",
            "SHUTDOWN",
            "DEBUG SLEEP 0",
            "ACL LIST",
            "SCAN 0",
            "MONITOR",
        ),
        *("SCRIPT FLUSH", "CLIENT LIST", "EVAL return(1) 0", "PSUBSCRIBE *", "GET other", "SET t:mine 1"),
    ],
)
async def test_b34_what_is_none_of_a_service_s_work_is_refused(guarded: Guarded, user: str, command: str) -> None:
    url = guarded.url(user).replace("health@", "health:health@")
    client = guarded.client(user) if user in REDIS_USERS else redis_client(url)
    with pytest.raises(exceptions.NoPermissionError):
        await client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    await client.aclose()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("edge", ("GET", "t:auth:limit:x")),
        ("edge", ("GET", "t:beacon")),
        ("auth", ("XRANGE", "t:orders", "-", "+")),
        ("presence", ("XADD", "t:orders", "*", "order", "x")),
        ("persistence", ("XADD", "t:orders", "*", "order", "x")),
        ("edge", ("HGET", "t:presence:{chat:1}", "x")),
        ("edge", ("SUBSCRIBE", "other")),
        ("auth", ("GET", "t:{chat:1}:log")),
        ("auth", ("GET", "t:life")),
        ("auth", ("PUBLISH", "t:{chat:1}:pub", "x")),
        ("presence", ("HGET", "t:{chat:1}:meta", "epoch")),
        ("presence", ("PUBLISH", "t:control", "x")),
        ("presence", ("SUBSCRIBE", "t:{chat:1}:pub")),
        ("persistence", ("HGET", "t:presence:{chat:1}", "x")),
        ("persistence", ("PUBLISH", "t:control", "x")),
        ("persistence", ("GET", "t:auth:limit:x")),
        ("webhooks", ("HGET", "t:presence:{chat:1}", "x")),
        ("webhooks", ("HGET", "t:{chat:1}:meta", "epoch")),
        ("webhooks", ("SUBSCRIBE", "t:{chat:1}:pub")),
        ("edge", ("HGET", "t:webhooks:{crm}:letters", "x")),
        ("edge", ("HGET", "t:push:{fcm}:letters", "x")),
        ("persistence", ("HGET", "t:push:{fcm}:letters", "x")),
        ("notifier", ("HGET", "t:{chat:1}:meta", "epoch")),
        ("notifier", ("HGET", "t:webhooks:{crm}:letters", "x")),
        ("presence", ("HGET", "t:webhooks:{crm}:letters", "x")),
        ("feed", ("SET", "t:life", "x")),
        ("feed", ("GET", "t:{chat:1}:log")),
        ("feed", ("HGET", "t:presence:{chat:1}", "x")),
        ("presence", ("XADD", "t:feed:{0}", "*", "c", "x")),
        ("auth", ("XADD", "t:events:{0}", "*", "k", "x")),
    ],
)
async def test_b34_a_service_reaches_neither_keys_nor_channels_of_another(
    guarded: Guarded, user: str, command: tuple[str, ...]
) -> None:
    client = guarded.client(user)
    with pytest.raises(exceptions.NoPermissionError):
        await client.execute_command(*command)  # type: ignore[no-untyped-call]
    await client.aclose()


async def test_the_health_check_s_user_may_ping(guarded: Guarded) -> None:
    client = redis_client(f"redis://health:health@127.0.0.1:{guarded.server.port}/0")
    assert await client.ping()
    await client.aclose()


async def test_who_writes_the_feed_and_who_reads_it_may_do_so(
    stack: Stack, guarded: Guarded, auditor: redis.asyncio.Redis, tmp_path: Path
) -> None:
    await auditor.acl_log_reset()
    feed = redis_address(guarded.url("feed"), guarded.secrets / "redis_feed")
    reader = FeedReader(feed, "acl", claim_after_s=0.01)
    await reader.done(await reader.next(wait_s=0))
    broker = RedisBroker(redis_address(guarded.url("edge"), guarded.secrets / "redis_edge"))
    await broker.start(Listener(), lambda payload: None)
    async with asyncio.timeout(20):
        while not broker.is_ready:
            await asyncio.sleep(0.05)
    await broker.append("live:f", Publication(b"1"), key_user="", key="", history_size=9, history_ttl_s=60, feed=True)
    await broker.close()
    hot = RedisPipeline(redis_address(guarded.url("persistence"), guarded.secrets / "redis_persistence"))
    log = RedisHotLog(hot, lambda: "incarnation")
    await log.init("chat:f", ChannelState("epoch", 0), 0, [])
    await log.append([Batch("chat:f", 9, 60, [Item(bytes(16), b"1", "u", "k", "ann")])], 9)
    assert await log.commit([("chat:f", "epoch", 1, 9)], "incarnation") == [1]
    await hot.aclose()
    presence = RedisPipeline(redis_address(guarded.url("presence"), guarded.secrets / "redis_presence"))
    (tmp_path / "end.lua").write_text("return tell(KEYS[1], ARGV[1], KEYS[2], 'vacated', 'chat:f', '')")
    script = load(ROOT / "services/shared/feed/lifecycle.lua", tmp_path / "end.lua")
    call = Call(script, [keys.lifecycle(0), "t:presence:n"], [9])
    assert int((await presence.run([call], timeout_s=2))[0]) > 1
    await presence.aclose()
    found: list[tuple[str, str]] = []
    while len(found) < 3:
        events = await reader.next(wait_s=5)
        await reader.keep(events)
        await reader.done(events)
        found += [(event.type.value, event.channel) for event in events]
    assert sorted(found) == [("publication", "chat:f"), ("publication", "live:f"), ("vacated", "chat:f")]
    assert (await reader.backlog()).pending == 0
    await reader.forget()
    await reader.close()
    assert await denied(auditor) == []


async def test_a_script_has_no_more_rights_than_who_runs_it(guarded: Guarded) -> None:
    client = guarded.client("auth")
    with pytest.raises(exceptions.NoPermissionError):
        await client.evalsha(TOP.sha, 2, keys.log("chat:1"), keys.meta("chat:1"), "stored", "", 0, "")
    await client.aclose()


def test_the_template_holds_no_password() -> None:
    text = TEMPLATE.read_text()
    assert not re.search(r"[ ][>#]", text)
    assert set(re.findall(r"\$\{(\w+)\}", text)) == {f"{user.upper()}_PASSWORDS" for user in REDIS_USERS} | {"PREFIX"}


async def test_what_users_wrote_in_transactions_is_there_after_a_restart(tmp_path: Path) -> None:
    """Redis 8 loads its file with the rights of the default user.

    Without them every transaction in it is skipped.
    """
    SecretFiles(tmp_path, TEMPLATE).init(["localhost"])
    acl = tmp_path / "running.acl"
    acl.write_text((tmp_path / "redis_acl").read_text())
    server = RedisServer("--aclfile", str(acl))
    try:
        server.start(whole=False)
        address = redis_address(f"redis://auth@127.0.0.1:{server.port}/0", tmp_path / "redis_auth")
        async with redis_client(address) as client, client.pipeline(transaction=True) as pipeline:
            pipeline.incrby("t:auth:limit:x", 7)
            pipeline.expire("t:auth:limit:x", 60)
            await pipeline.execute()
        server.kill()
        server.start(whole=False)
        async with redis_client(address) as client:
            assert await client.get("t:auth:limit:x") == b"7"
    finally:
        server.close()


async def test_with_a_prefix_the_users_are_those_of_that_platform_alone(tmp_path: Path) -> None:
    SecretFiles(tmp_path, TEMPLATE, "staging").init(["localhost"])
    acl = tmp_path / "running.acl"
    acl.write_text((tmp_path / "redis_acl").read_text())
    server = RedisServer("--aclfile", str(acl))
    try:
        server.start(whole=False)
        address = redis_address(f"redis://edge@127.0.0.1:{server.port}/0", tmp_path / "redis_edge")
        async with redis_client(address) as client:
            assert await client.get("staging:life") is None
            assert await client.publish("staging:control", b"x") == 0
            with pytest.raises(exceptions.NoPermissionError):
                await client.get("t:life")
            with pytest.raises(exceptions.NoPermissionError):
                await client.publish("t:control", b"x")
    finally:
        server.close()
    patterns = re.findall(r"[~&](\S+)", re.sub(r"user default .*", "", acl.read_text()))
    assert patterns
    assert all(pattern.startswith("staging:") for pattern in patterns)
