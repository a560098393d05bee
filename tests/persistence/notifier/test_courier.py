"""C62: services that throttle, fail, hang, or do not know a device."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.notifier.ways.webpush import WebPushWay
from services.persistence.webhooks.letters import Letters
from tests.support.chat_calls import Site
from tests.support.full import sized
from tests.support.push import Run, WhoIsThere, do, make_due
from tests.support.push_keys import Browser, ec_key, server_tls
from tests.support.push_server import PushServer, Reply

USERS = [f"u{number}" for number in range(6)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    context, _ = server_tls(tmp_path)
    async with PushServer(tls=context) as made:
        yield made


@pytest.fixture
async def browsers(
    redis_url: str, redis_conn: redis.asyncio.Redis, site: Site, server: PushServer, tmp_path: Path
) -> AsyncIterator[tuple[Run, dict[str, Browser]]]:
    """A notifier that sends Web Push, and a browser of each user."""
    hosts = [f"localhost:{server.port}"]
    for replica in site.replicas:
        tools = dataclasses.replace(replica.methods._tools, web_push_hosts=hosts)  # noqa: SLF001
        replica.methods._tools = tools  # noqa: SLF001
    ec_key(tmp_path / "vapid.pem")
    way = WebPushWay(
        tmp_path / "vapid.pem", "mailto:ops@example.com", hosts, ca_file=tmp_path / "server.pem", timeout_s=20.0
    )
    run = Run(redis_url, redis_conn, site, [way], WhoIsThere())
    await run.begin()
    found = {user: Browser(f"{server.url}/{user}") for user in USERS}
    for user, browser in found.items():
        await do(
            site.replicas[0],
            user,
            "devices.set",
            id="browser",
            platform="webpush",
            endpoint=browser.endpoint,
            keys=browser.keys,
        )
    yield run, found
    await run.close()


async def sent_until_done(run: Run, most: int = 60) -> None:
    """Send, again and again, until nothing waits."""
    letters = Letters(run.redis, "webpush", "push")
    for _ in range(most):
        await make_due(run.conn, "t:push:{webpush}:due", 0)
        await run.send()
        if (await letters.counts())[0] == 0:
            return
    raise AssertionError("letters wait for ever")


async def test_c62_every_browser_is_told_in_the_end_whatever_fails(
    site: Site, browsers: tuple[Run, dict[str, Browser]], server: PushServer
) -> None:
    seed = 621
    print(f"seed {seed}")
    rng, (run, all_browsers) = random.Random(seed), browsers
    for way in run.ways:
        way._timeout_s = 0.5  # type: ignore[attr-defined]  # noqa: SLF001
    channel = (await do(site.replicas[0], "ann", "conversations.create", users=USERS))["channel"]
    for _ in range(sized(2, 20)):
        server.asked.clear()
        taken: Counter[str] = Counter()

        def answer(asked: object, taken: Counter[str] = taken) -> Reply:
            bad = [Reply(429, {"retry-after": "1"}), Reply(503), Reply(500), Reply(hangs=True), Reply(loses=True)]
            if rng.random() < 0.4:
                return rng.choice(bad)
            taken[asked.path] += 1  # type: ignore[attr-defined]
            return Reply()

        server.answer = answer
        offset = (await do(site.replicas[0], "ann", "messages.send", channel=channel, text="hi"))["offset"]
        await run.read()
        await run.pass_time()
        await run.decide()
        await sent_until_done(run)
        assert taken.keys() == {f"/{user}" for user in USERS}
        notes = [all_browsers[one.path[1:]].read(one.body) for one in server.asked]
        assert {note["offset"] for note in notes} == {offset}
        assert len({note["id"] for note in notes}) == len(USERS)


async def test_c62_a_device_that_is_not_known_is_removed_and_one_set_anew_stays(
    site: Site, browsers: tuple[Run, dict[str, Browser]], server: PushServer
) -> None:
    (run, all_browsers), a = browsers, site.replicas[0]
    channel = (await do(a, "ann", "conversations.create", users=["u0", "u1"]))["channel"]
    gone = {"/u0"}
    server.answer = lambda asked: Reply(410 if asked.path in gone else 201)
    await do(a, "ann", "messages.send", channel=channel, text="hi")
    await run.all()
    assert (await do(a, "u0", "devices.list"))["devices"] == []
    assert len((await do(a, "u1", "devices.list"))["devices"]) == 1
    server.asked.clear()
    await do(a, "ann", "messages.send", channel=channel, text="again")
    await run.all()
    assert [one.path for one in server.asked] == ["/u1"]
    browser = all_browsers["u0"]
    await do(a, "u0", "devices.set", id="new", platform="webpush", endpoint=f"{server.url}/new", keys=browser.keys)
    offset = (await do(a, "ann", "messages.send", channel=channel, text="third"))["offset"]
    await run.all()
    (mine,) = [one for one in server.asked if one.path == "/new"]
    assert browser.read(mine.body)["offset"] == offset


async def test_a_device_that_was_removed_gets_nothing_that_waits_for_it(
    site: Site, browsers: tuple[Run, dict[str, Browser]], server: PushServer
) -> None:
    (run, _), a = browsers, site.replicas[0]
    channel = (await do(a, "ann", "conversations.create", users=["u0"]))["channel"]
    await do(a, "ann", "messages.send", channel=channel, text="hi")
    await run.read()
    await run.pass_time()
    await run.decide()
    await do(a, "u0", "devices.remove", id="browser")
    await sent_until_done(run)
    assert server.asked == []


async def test_what_is_refused_for_good_or_too_often_is_a_dead_letter_and_can_be_sent_again(
    site: Site, browsers: tuple[Run, dict[str, Browser]], server: PushServer
) -> None:
    (run, _), a = browsers, site.replicas[0]
    channel = (await do(a, "ann", "conversations.create", users=["u0", "u1"]))["channel"]
    server.answer = lambda asked: Reply(400 if asked.path == "/u0" else 500)
    await do(a, "ann", "messages.send", channel=channel, text="hi")
    await run.read()
    await run.pass_time()
    await run.decide()
    await sent_until_done(run)
    assert Counter(one.path for one in server.asked) == {"/u0": 1, "/u1": 10}
    letters = Letters(run.redis, "webpush", "push")
    dead = await letters.dead_ones()
    assert sorted(letter.error for letter, _ in dead) == ["status 400", "status 500"]
    assert sorted(letter.owner for letter, _ in dead) == ["u0", "u1"]
    server.answer = lambda _: Reply()
    for letter, _ in dead:
        assert await letters.revive(letter)
    await sent_until_done(run)
    assert Counter(one.path for one in server.asked) == {"/u0": 2, "/u1": 11}


async def test_retry_after_is_waited_for(
    site: Site, browsers: tuple[Run, dict[str, Browser]], server: PushServer
) -> None:
    (run, _), a = browsers, site.replicas[0]
    channel = (await do(a, "ann", "conversations.create", users=["u0"]))["channel"]
    server.answer = lambda _: Reply(429, {"retry-after": "120"})
    await do(a, "ann", "messages.send", channel=channel, text="hi")
    await run.read()
    await run.pass_time()
    await run.decide()
    await run.send()
    claimed = await Letters(run.redis, "webpush", "push").claim(1, 1.0)
    assert claimed.next_s is not None
    assert 60 < claimed.next_s <= 120
