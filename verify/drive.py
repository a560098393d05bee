"""Runs a plan against a stack, records what happens, then lets everything settle and asks what is kept."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from verify import events as e
from verify.context import Run
from verify.events import Recorder
from verify.plan import Plan, PublisherPlan
from verify.progress import Progress
from verify.publisher import Publisher
from verify.subscriber import Subscriber
from verify.target import ApiError, Target, call_api

SETTLE_S = 60.0
PRESENCE_S = 60.0  # a half-open client is noticed after a ping and its timeout, 33 s, and a grace
_CONNECTS_AT_ONCE = 50
_PAGE = 300
_MARKER = "marker"
_NOT_AVAILABLE = ("108", "103")


class Unreachable(Exception):
    """There is nothing to be judged: nobody got in."""


Trouble = Callable[[Run], Awaitable[None]]


def names(plan: Plan) -> list[str]:
    """The users that a run connects as; the target makes their tokens."""
    return [*(one.name for one in plan.subscribers), *(one.name for one in plan.publishers), _MARKER]


async def drive(
    plan: Plan,
    target: Target,
    path: Path,
    *,
    what: str,
    stored: Sequence[str],
    trouble: Trouble | None = None,
    slow: Sequence[str] = (),
    padding: int = 0,
    settle_s: float = SETTLE_S,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the history of one run to `path`. `slow` names subscribers that read 1 KiB/s at first.

    `settle_s`: how long clients may take at the end to come as far as they should. `say` is told how it goes, every
    5 s.

    Raises:
        Unreachable: no client got in at the start.
    """
    with path.open("wb") as file:
        recorder = Recorder(file)
        progress = Progress(say, recorder)
        run = Run(f"{plan.seed}-{os.urandom(3).hex()}", target, recorder, random.Random(plan.seed))
        run.note(e.Started(at=0.0, seed=plan.seed, what=what, stored=list(stored)))
        subscribers = [Subscriber(one, run, slow=one.name in slow) for one in plan.subscribers]
        publishers = [Publisher(one, run, padding=padding) for one in plan.publishers]
        tasks = [asyncio.create_task(progress.run())]
        try:
            progress.stage("connecting")
            for start in range(0, len(subscribers), _CONNECTS_AT_ONCE):
                some = subscribers[start : start + _CONNECTS_AT_ONCE]
                tasks += [asyncio.create_task(one.run()) for one in some]
                await _until(lambda some=some: all(one.whole for one in some), SETTLE_S)  # type: ignore[misc]
                if not any(one.whole for one in some):
                    why = next((f"; {one.refusal}" for one in some if one.refusal), "")
                    raise Unreachable(f"no client could connect and subscribe within {SETTLE_S:g} s{why}")
            progress.stage("publishing")
            run.started += run.now()  # the plan begins when everyone is there
            for one in subscribers:
                one.begin()
            working = [asyncio.create_task(one.run()) for one in publishers]
            tasks += working
            if trouble is not None:
                await trouble(run)
            await asyncio.gather(*working)
            progress.stage("waiting until everyone has everything")
            await _settle(plan, run, subscribers, publishers, settle_s)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            for publisher in publishers:
                publisher.close()
            recorder.flush()
        for error in ended:
            if isinstance(error, Exception):
                raise error


async def _settle(
    plan: Plan, run: Run, subscribers: list[Subscriber], publishers: list[Publisher], settle_s: float
) -> None:
    for one in subscribers:
        one.stay = True
    markers = await _markers(plan, run)

    def there(one: Subscriber) -> bool:
        """It has come as far as it should."""
        marked = [channel for channel in one.channels if channel in markers]
        return bool(one.given_up) or (one.whole and all(one.reached(channel, *markers[channel]) for channel in marked))

    await _until(lambda: all(map(there, subscribers)), settle_s)
    async with AsyncExitStack() as exits:
        client = await exits.enter_async_context(httpx.AsyncClient(trust_env=False))
        for channel in plan.channels:
            await _kept(run, client, channel)
        await asyncio.gather(*(one.come_back() for one in publishers))
        for channel in plan.channels:
            await _present(run, client, channel, subscribers, publishers)
    pairs = [(one.name, channel) for one in subscribers for channel in one.channels]
    run.note(e.Finished(at=run.now(), subscribers=pairs))


async def _markers(plan: Plan, run: Run) -> dict[str, tuple[str, int]]:
    """One last publication per channel: channel → (epoch, offset)."""
    marker = Publisher(PublisherPlan(_MARKER, plan.channels, ()), run)
    found: dict[str, tuple[str, int]] = {}
    try:
        for channel in plan.channels:
            id_ = run.new_id()
            run.note(e.Marker(at=run.now(), id=id_, channel=channel))
            place = await marker.publish(channel, id_)
            if place is not None:
                found[channel] = (place[1], place[0])
    finally:
        marker.close()
    return found


async def _kept(run: Run, client: httpx.AsyncClient, channel: str) -> None:
    """Page through the whole history, oldest first."""
    entries: list[tuple[int, str]] = []
    epoch, since = "", 0
    try:
        while True:
            body: dict[str, object] = {"channel": channel, "limit": _PAGE}
            if since:
                body["since"] = {"offset": since, "epoch": epoch}
            page = await call_api(client, run.target.https[0], run.target.api_key, "history", **body)
            epoch = page.get("epoch", "")
            found = page.get("publications", [])
            for publication in found:
                data = publication.get("data")
                entries.append((publication["offset"], data.get("id", "") if isinstance(data, dict) else ""))
            if not found or entries[-1][0] >= page.get("offset", 0):
                break
            since = entries[-1][0]
    except ApiError:
        return  # the judge misses it
    whole = bool(entries) and entries[0][0] == 1
    run.note(e.Kept(at=run.now(), channel=channel, epoch=epoch, entries=entries, whole=whole))


async def _present(
    run: Run, client: httpx.AsyncClient, channel: str, subscribers: list[Subscriber], publishers: list[Publisher]
) -> None:
    """Ask every edge until it says what is so; the last answer counts."""
    for url in run.target.https:
        deadline = run.now() + PRESENCE_S
        while True:
            everyone: list[Subscriber | Publisher] = [*subscribers, *publishers]
            members = [one for one in everyone if channel in one.channels]
            expected = sorted(one.client_id for one in members if not getattr(one, "given_up", 0))
            try:
                answer = await call_api(client, url, run.target.api_key, "presence", channel=channel)
                roster = sorted(answer.get("presence", {}))
            except ApiError as error:
                if any(code in str(error) for code in _NOT_AVAILABLE):
                    return  # the channel keeps no presence
                roster = []
            if roster == expected or run.now() > deadline:
                run.note(e.Present(at=run.now(), channel=channel, asked=url, roster=roster, expected=expected))
                break
            await asyncio.sleep(0.25)


async def _until(true: Callable[[], bool], limit_s: float) -> None:
    """Wait; what is not so by then, the judge will see."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not true() and loop.time() < deadline:
        await asyncio.sleep(0.05)
