"""What is not to be shown any more stays on no device, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.persistence.chat.devices.device import Device
from services.persistence.chat.markers.record import Preferences
from services.persistence.notifier.courier import Courier
from services.persistence.notifier.letter import FAMILY
from services.persistence.notifier.ports import Note
from services.persistence.notifier.timers import OnDevice, Timers
from services.persistence.webhooks.http import Answer, Outcome
from services.persistence.webhooks.letters import Letter, Letters
from services.shared.errors import Unavailable
from tests.persistence.notifier.test_who_is_told import group, prefer, say, told
from tests.support.chat_calls import Site
from tests.support.push import Backend, Run, do, make_due

DUE = "t:push:{webhook}:due"


async def send_all(run: Run) -> None:
    """Send until nothing waits, also what could not be sent at once."""
    while await run.conn.zcard(DUE):
        await make_due(run.conn, DUE, 0)
        await run.send()


async def test_what_a_planner_that_died_had_stored_is_taken_back(
    site: Site, run: Run, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = await group(site, "bob")
    first = await say(site, channel, text="hi")
    await run.all()
    assert told(backend.take()) == [("message", "bob", first)]
    offset = await say(site, channel, text="secret")
    await run.read()
    await run.pass_time()

    store = Letters.store
    with monkeypatch.context() as patch:

        async def stores_and_dies(self: Letters, letter: Letter) -> bool:
            await store(self, letter)
            raise Unavailable("the process is gone")

        patch.setattr(Letters, "store", stores_and_dies)
        await run.decide()
    await send_all(run)
    assert told(backend.take()) == [("message", "bob", offset)]
    await do(site.replicas[0], "ann", "messages.delete", channel=channel, of=offset)
    await run.all()
    assert told(backend.take()) == [("dismiss", "bob", first), ("dismiss", "bob", offset)], "either may be shown"


async def test_nothing_is_taken_back_before_it_has_arrived(site: Site, run: Run, backend: Backend) -> None:
    channel = await group(site, "bob")
    offset = await say(site, channel, text="secret")
    way = Slow()
    courier = Courier(way, Letters(run.redis, "webhook", FAMILY), run.persistence, lambda _: "text", pause=lambda _: 0)
    await run.read()
    await run.pass_time()
    await run.decide()
    await courier.step()
    await way.has_begun.wait()
    await do(site.replicas[0], "ann", "messages.delete", channel=channel, of=offset)
    await run.read()
    await run.decide()
    await run.look_again()
    async with asyncio.timeout(30):
        await courier.step()
        while len(courier.sending.under_way) > 1:
            await asyncio.sleep(0.01)
    assert way.ended == []
    way.may_end.set()
    async with asyncio.timeout(30):
        while len(way.ended) < 2:
            await make_due(run.conn, DUE, 0)
            await courier.step()
            await asyncio.sleep(0.01)
    assert way.ended == ["message", "dismiss"]
    await courier.sending.drain(1.0)


class Slow:
    """A way out on which messages take as long as the test says."""

    platform, concurrency = "webhook", 4

    def __init__(self) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.ended: list[str] = []

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        if note.is_message:
            self.has_begun.set()
            await self.may_end.wait()
        self.ended.append(note.kind)
        return Answer(Outcome.TAKEN)

    async def close(self) -> None:
        pass


WANTED: list[tuple[Preferences, dict[str, Any], bool]] = [
    (Preferences(notify="none"), {"mentions": ["bob"]}, False),
    (Preferences(notify="mentions"), {}, False),
    (Preferences(notify="mentions"), {"mentions": ["bob"]}, True),
    (Preferences(notify="mentions"), {"mention_all": True}, True),
    (Preferences(notify="mentions"), {"reply_to": True}, True),
    (Preferences(muted_until_ms=4_102_444_800_000), {}, False),
]


async def test_who_wants_no_more_meanwhile_is_not_told(site: Site, run: Run, backend: Backend) -> None:
    expected: list[tuple[str, str, str]] = []
    for preferences, params, is_told in WANTED:
        channel = await group(site, "bob")
        own = await say(site, channel, "bob", text="mine", silent=True)
        await say(site, channel, text="hi", **({"reply_to": own} if "reply_to" in params else params))
        await run.read()
        await run.pass_time()
        await run.decide()
        await prefer(site, channel, "bob", preferences)
        expected += [("message", "bob", channel)] if is_told else []
    await send_all(run)
    assert sorted((note["kind"], note["user"], note["channel"]) for note in backend.take()) == sorted(expected)


async def test_what_is_shown_of_another_epoch_holds_up_nothing(run: Run) -> None:
    timers = Timers(run.redis)
    await timers.show("conv:g.x", {"bob": OnDevice(100, 0, 100, "old")})
    await timers.show("conv:g.x", {"bob": OnDevice(3, 0, 3, "new")})
    await timers.show("conv:g.x", {"bob": OnDevice(2, 0, 2, "new")})
    (one,) = (await timers.shown("conv:g.x", ["bob"])).values()
    assert (one.rev, one.offset, one.epoch) == (3, 3, "new")
