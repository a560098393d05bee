"""Badges are counted anew, once for all who ask meanwhile, within bounds."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.persistence.chat.unread.badge import Badges
from services.persistence.chat.unread.counts import Counts
from tests.support.chat_calls import Replica, Site
from tests.support.full import sized
from tests.support.waiting import until

DEVICES = 25


class HeldBack:
    """Counts that end when the test lets them."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.begun: list[str] = []
        self.go = asyncio.Semaphore(0)

    async def badge(self, user: str, most: int) -> int | None:
        self.begun.append(user)
        found = await self._counts.badge(user, most)
        await self.go.acquire()
        return found


async def said(replica: Replica, channel: str) -> None:
    await replica.call("ann", "messages.send", channel=channel, text="hi")


async def group(site: Site, *users: str) -> str:
    channel = str((await site.replicas[0].call("ann", "conversations.create", users=list(users)))["channel"])
    await site.settle(channel)
    return channel


async def test_all_devices_of_a_user_share_a_count(site: Site) -> None:
    a = site.replicas[0]
    await said(a, await group(site, "bob", "cid"))
    held = HeldBack(a.chat.counts)
    badges = Badges(held)  # type: ignore[arg-type]
    first = [asyncio.create_task(badges.of("bob")) for _ in range(DEVICES)]
    await until(lambda: held.begun)
    later = [asyncio.create_task(badges.of("bob")) for _ in range(DEVICES)]
    other = asyncio.create_task(badges.of("cid"))
    await until(lambda: len(held.begun) == 2)
    assert held.begun == ["bob", "cid"], "one count of a user at a time"
    for _ in range(3):
        held.go.release()
    assert await asyncio.gather(*first, *later, other) == [1] * (2 * DEVICES + 1)
    assert held.begun == ["bob", "cid", "bob"]


async def test_a_badge_has_what_was_written_before_it_was_asked_for(site: Site) -> None:
    """Whoever asks while others count, and whoever of them gives up."""
    seed = 18
    print(f"seed {seed}")
    rng, a = random.Random(seed), site.replicas[0]
    channels, written = [await group(site, "bob") for _ in range(3)], 0
    held = HeldBack(a.chat.counts)
    badges = Badges(held)  # type: ignore[arg-type]
    asked: list[tuple[int, asyncio.Task[int | None]]] = []
    for _ in range(sized(60, 1_500)):
        step = rng.random()
        if step < 0.3:
            await said(a, rng.choice(channels))
            written += 1
        elif step < 0.7:
            asked.append((written, asyncio.create_task(badges.of("bob"))))
        elif step < 0.75 and asked:
            rng.choice(asked)[1].cancel()
        else:
            held.go.release()
            await asyncio.sleep(rng.choice([0, 0.001]))
    for _ in asked:
        held.go.release()
    await asyncio.wait([task for _, task in asked])
    found = [(least, task.result()) for least, task in asked if not task.cancelled()]
    wrong = [(least, badge) for least, badge in found if badge is None or not least <= badge <= written]
    assert wrong == []
    assert len(held.begun) < len(asked)
    assert await Badges(a.chat.counts).of("bob") == written


@pytest.mark.parametrize("most", [2, 3])
async def test_users_with_too_many_conversations_have_no_badge(site: Site, most: int) -> None:
    a = site.replicas[0]
    channels = [await group(site, "bob") for _ in range(3)]
    for channel in channels:
        await said(a, channel)
    badges = Badges(a.chat.counts, most=most)
    assert await badges.of("bob") == (3 if most == 3 else None)
    await a.call("bob", "conversations.leave", channel=channels[0])
    await site.settle(channels[0])
    assert await badges.of("bob") == 2, "those that were left don't count"


async def test_a_count_that_takes_too_long_is_no_answer_and_delays_only_the_next_one(site: Site) -> None:
    a = site.replicas[0]
    await said(a, await group(site, "bob"))
    held = HeldBack(a.chat.counts)
    badges = Badges(held, longest_s=0.05)  # type: ignore[arg-type]
    assert await asyncio.gather(*(badges.of("bob") for _ in range(2))) == [None, None]
    held.go.release()
    assert await Badges(held).of("bob") == 1  # type: ignore[arg-type]


async def test_a_count_that_fails_fails_for_all_who_share_it_and_not_for_the_next(site: Site) -> None:
    a = site.replicas[0]
    await said(a, await group(site, "bob"))
    is_broken = True

    class Broken(HeldBack):
        async def badge(self, user: str, most: int) -> int | None:
            if is_broken:
                raise OSError("the store is gone")
            return await self._counts.badge(user, most)

    badges = Badges(Broken(a.chat.counts))  # type: ignore[arg-type]
    failed = await asyncio.gather(badges.of("bob"), badges.of("bob"), return_exceptions=True)
    assert [type(one) for one in failed] == [OSError, OSError]
    is_broken = False
    assert await badges.of("bob") == 1
