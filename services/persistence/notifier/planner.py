"""Decides who is told of what, and what is taken back.

**Purpose.** A user who is absent hears of messages on phone, browser or backend: soon, once, and not of what was read.

**Rules.**

1. The feed tells that a conversation has something new. It is noted in Redis (`timers.py`) and only then acknowledged.
2. `delay_s` later persistence says whom there is to notify (`services/persistence/chat/notifications.py`): who has
   something unread, wants to hear of it, and has a way out. What was read meanwhile is not there any more.
3. Of those, whoever sees a notification of that event already is left out, then whoever is present: a client in the
   state `active`. A client that is connected and away does not silence the phone. Presence is asked for 1,000 users at
   a time. While it does not answer the conversation stays due; after 60 s all count as absent.
4. It is noted what users are about to see, then a letter for each device is stored, then it is noted that they see it,
   then the timer ends. A death in between repeats it with the same ids. What was stored before a death is known, and
   taken back, even if there is nothing to repeat.
5. What users see is looked at again once markers move or something was deleted. What is not to be shown any more is
   taken back by a letter to each device, with the same key.

**Example.** At 10:00:00 u1 writes to u2, whose laptop is away. At 10:00:10 u2 has not read it: a letter for the phone.
At 10:03 u2 reads it on the laptop, so the marker moves, and the phone is told to take it back.

**Trade-offs.** Whoever is present and does not look is not told later, until something more is written. What a timer
finds is decided for the whole conversation by one process; a slow one delays no other conversation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.persistence.chat.domain.names import namespace_of, type_of
from services.persistence.notifier.letter import Errand
from services.persistence.notifier.metrics import DECIDED, DUE, LATE
from services.persistence.notifier.ports import Persistence, Plan, Planned, Presence
from services.persistence.notifier.timers import Grown, OnDevice, Range, Timers
from services.persistence.webhooks.letters import Letters
from services.shared.errors import ThalamusError, Unavailable
from services.shared.feed.events import Event, EventType
from services.shared.hotlog.hotlog import ERASES
from services.shared.process.log_limit import RateLimitedLog

_FAILED = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)

WEBHOOK = "webhook"
LEASE_S = 30.0  # of a conversation that is looked at: longer than it may take
_LOOK_S = 25.0  # longest look at a conversation, seconds
_AT_ONCE = 16  # conversations, and users, that are looked at at the same time
_ASKED_AT_ONCE = 1_000  # users of one question to presence
_ABSENT_AFTER_S = 60.0  # while presence does not answer, all count as absent after that time
_ALL = 1 << 53  # an offset that no log has
_URGENT = ERASES  # flags of events after which something may have to be taken back


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How members of conversations of a namespace are notified; docs/push.md."""

    delay_s: float = 10.0
    when: str = "absent"  # or "always"
    max_members: int = 500
    preview: str = "text"  # or "sender", "none"


class Planner:
    """Takes events of the feed, and looks at what is due.

    Any number of processes may do so.
    """

    def __init__(
        self,
        timers: Timers,
        persistence: Persistence,
        presence: Presence,
        letters: Mapping[str, Letters],
        rules: Mapping[str, Rules],
    ) -> None:
        """Take the parts.

        Args:
            timers: What is kept in Redis.
            persistence: Answers about conversations.
            presence: Says who is present.
            letters: Where letters wait, by platform, or `webhook`.
            rules: By namespace; conversations of others are not looked at.
        """
        self._timers, self._persistence, self._presence = timers, persistence, presence
        self._letters, self._rules = letters, rules

    async def take(self, events: Iterable[Event]) -> None:
        """Note events of the feed; afterwards they may be acknowledged."""
        grown: list[Grown] = []
        for event in events:
            rules = self._rules.get(namespace_of(event.channel))
            if event.type is EventType.PUBLICATION and rules is not None and type_of(event.channel) is not None:
                delay_s = 0.0 if event.flags & _URGENT else rules.delay_s
                grown.append(Grown(event.channel, event.epoch, event.number, delay_s))
        await self._timers.note(grown)

    async def look(self) -> bool:
        """Look at conversations that are due; return whether there may be more."""
        ranges, due = await self._timers.claim(_AT_ONCE, LEASE_S)
        DUE.set(due.waiting)
        LATE.set(due.late_s)
        await asyncio.gather(*(self._safely(one.channel, self._look(one, due.late_s)) for one in ranges))
        return len(ranges) == _AT_ONCE

    async def look_again(self) -> bool:
        """Look at what devices show; return whether there may be more."""
        names = await self._timers.claim_shown(_AT_ONCE * 8, LEASE_S)
        by_channel: dict[str, list[str]] = {}
        for channel, user in names:
            by_channel.setdefault(channel, []).append(user)
        looks = [self._safely(channel, self._look_again(channel, users)) for channel, users in by_channel.items()]
        await asyncio.gather(*looks)
        return len(names) == _AT_ONCE * 8

    async def _safely(self, channel: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something about a conversation; if it fails, its lease runs out."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await work
        except (TimeoutError, ThalamusError) as error:
            _FAILED("a conversation can't be looked at now; it will be", channel=channel, error=str(error))

    async def _look(self, one: Range, late_s: float) -> None:
        rules = self._rules.get(namespace_of(one.channel))
        if rules is None:  # not any more
            await self._timers.settle(one.channel, one.epoch, _ALL, 0.0)
            return
        first, upto = one.first, _ALL
        while True:
            plan = await self._persistence.plan(
                one.channel, first, rules.max_members, everybody=WEBHOOK in self._letters
            )
            if plan.epoch != one.epoch:  # the store was restored: what the range was about is gone
                break
            if plan.users:
                await self._tell(one.channel, plan, rules, late_s)
            if plan.is_changed:
                await self._timers.look_at(one.channel, list(await self._timers.all_shown(one.channel)))
            if plan.upto < first:  # the log does not have it
                break
            first = plan.upto + 1
            if not plan.more:
                upto = plan.upto
                break
        await self._timers.settle(one.channel, one.epoch, upto, rules.delay_s)

    async def _tell(self, channel: str, plan: Plan, rules: Rules, late_s: float) -> None:
        """Store letters for those who are absent, then note what they will see."""
        shown = await self._timers.shown(channel, list(plan.users))
        fresh = {user: one for user, one in plan.users.items() if not _is_shown(one, plan.epoch, shown.get(user))}
        DECIDED.labels("shown").inc(len(plan.users) - len(fresh))
        present = await self._present(list(fresh), late_s) if rules.when == "absent" else set()
        DECIDED.labels("present").inc(len(present))
        errands = {
            user: self._errands("message", channel, plan.epoch, user, one.offset, one.devices)
            for user, one in fresh.items()
            if user not in present
        }
        told = {user: OnDevice(fresh[user].rev, 0, fresh[user].offset, plan.epoch) for user in errands if errands[user]}
        await self._timers.show(channel, {user: _about_to(one, shown.get(user)) for user, one in told.items()})
        for its in errands.values():
            await self._store(its)
            DECIDED.labels("told" if its else "no_way").inc()
        await self._timers.show(channel, told)

    async def _present(self, users: Sequence[str], late_s: float) -> set[str]:
        """Return who is present; after a minute without an answer nobody."""
        found: set[str] = set()
        try:
            for start in range(0, len(users), _ASKED_AT_ONCE):
                found |= await self._presence.active(users[start : start + _ASKED_AT_ONCE])
        except Unavailable:
            if late_s < _ABSENT_AFTER_S:
                raise
            return set()
        return found

    async def _look_again(self, channel: str, users: Sequence[str]) -> None:
        shown = await self._timers.shown(channel, users)
        still: dict[str, bool] = {}
        for epoch in {one.epoch for one in shown.values()}:
            offsets = {user: one.offset for user, one in shown.items() if one.epoch == epoch}
            still |= await self._persistence.still(channel, epoch, offsets)
        over = [user for user in shown if not still[user]]
        devices = await self._persistence.devices(over) if over else {}
        for user in users:
            one = shown.get(user)
            if one is None or still[user]:
                await self._timers.looked(channel, user, one)
                continue
            for offset in filter(None, (one.offset, one.before)):
                await self._store(self._errands("dismiss", channel, one.epoch, user, offset, devices.get(user, ())))
            await self._timers.hide(channel, user, one)

    def _errands(
        self, kind: str, channel: str, epoch: str, user: str, offset: int, devices: Iterable[tuple[str, str]]
    ) -> list[tuple[str, Errand]]:
        """Return the errands for a user, each with its way out."""
        ways = [(platform, address) for platform, address in devices if platform in self._letters]
        ways += [(WEBHOOK, "")] if WEBHOOK in self._letters else []
        made: list[tuple[str, Errand]] = []
        for way, address in ways:
            errand = Errand(
                kind="message" if kind == "message" else "dismiss",
                user=user,
                channel=channel,
                epoch=epoch,
                offset=offset,
                address=address,
            )
            made.append((way, errand))
        return made

    async def _store(self, errands: Iterable[tuple[str, Errand]]) -> None:
        for way, errand in errands:
            await self._letters[way].store(errand.letter())


def _about_to(one: OnDevice, before: OnDevice | None) -> OnDevice:
    """Return what is noted before the letters are stored: it does not count as shown."""
    if before is None or before.epoch != one.epoch:
        return one._replace(rev=0)
    return one._replace(rev=before.rev, before=before.offset if before.offset != one.offset else before.before)


def _is_shown(planned: Planned, epoch: str, shown: OnDevice | None) -> bool:
    return shown is not None and shown.epoch == epoch and shown.rev >= planned.rev
