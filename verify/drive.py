"""Runs a plan against a stack and records what happens.

At the end it waits until all clients have everything, and asks what history and presence say.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from rich.console import Console

from verify import events as e
from verify.context import Run
from verify.events import Recorder
from verify.plan import Plan, PublisherPlan
from verify.progress import RunProgress
from verify.publisher import Publisher
from verify.subscriber import Subscriber
from verify.target import ApiError, Target, call_api

SETTLE_S = 60.0  # longest time for clients to connect, and to catch up at the end, seconds
PRESENCE_S = 60.0  # longest wait until presence is right, seconds: 33 s to notice a half-open client, and a grace
_CONNECTS_AT_ONCE = 50  # subscribers that connect at the same time
_PAGE = 300  # publications per history request
_MARKER = "marker"
_NOT_AVAILABLE = ("108", "103")


class Unreachable(Exception):
    """No client could connect, so there is nothing to judge."""


Trouble = Callable[[Run], Awaitable[None]]


def names(plan: Plan) -> list[str]:
    """Return the users of a run, for which the target must have tokens."""
    return [*(one.name for one in plan.subscribers), *(one.name for one in plan.publishers), _MARKER]


async def drive(
    plan: Plan,
    target: Target,
    path: Path,
    *,
    what: str,
    stored: Sequence[str],
    trouble: Trouble | None = None,
    after_s: float | None = None,
    slow: Sequence[str] = (),
    padding: int = 0,
    settle_s: float = SETTLE_S,
    console: Console | None = None,
) -> None:
    """Run a plan and write its history to `path`.

    Args:
        plan: What the clients do, and when.
        target: Addresses and credentials of the stack.
        path: File of the history.
        what: Description of the load, for the report.
        stored: Channels whose publications must be in the store.
        trouble: Causes faults while clients publish.
        after_s: How long clients publish after the trouble, seconds, if the plan has so much; None: to its end.
        slow: Names of subscribers that read 1 KiB/s on their first connection.
        padding: Bytes to add to each publication.
        settle_s: Longest time for clients to catch up at the end, seconds.
        console: Where progress is shown; None: nowhere.

    Raises:
        Unreachable: no client could connect and subscribe at the start.
    """
    with path.open("wb") as file:
        recorder = Recorder(file)
        progress = RunProgress(console, recorder)
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
            run.started += run.now()  # the plan's clock begins when all clients are there
            for one in subscribers:
                one.begin()
            working = [asyncio.create_task(one.run()) for one in publishers]
            tasks += working
            if trouble is not None:
                await trouble(run)
                if after_s is not None:
                    await asyncio.wait(working, timeout=after_s)
                    for each in publishers:
                        each.finish()
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
        """Whether the subscriber has come as far as it should."""
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
    """Publish a last publication per channel; return (epoch, offset) by channel."""
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
    """Record the whole history of a channel, read page by page, oldest first."""
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
        return  # the judge reports that it is missing
    whole = bool(entries) and entries[0][0] == 1
    run.note(e.Kept(at=run.now(), channel=channel, epoch=epoch, entries=entries, whole=whole))


async def _present(
    run: Run, client: httpx.AsyncClient, channel: str, subscribers: list[Subscriber], publishers: list[Publisher]
) -> None:
    """Ask every edge for presence until it is right, or the time is over.

    The last response of each edge is recorded.
    """
    for url in run.target.https:
        deadline = run.now() + PRESENCE_S
        while True:
            everyone: list[Subscriber | Publisher] = [*subscribers, *publishers]
            members = [one for one in everyone if channel in one.channels]
            expected = sorted(one.client_id for one in members if not getattr(one, "given_up", 0))
            try:
                response = await call_api(client, url, run.target.api_key, "presence", channel=channel)
                roster = sorted(response.get("presence", {}))
            except ApiError as error:
                if any(code in str(error) for code in _NOT_AVAILABLE):
                    return  # the channel keeps no presence
                roster = []
            if roster == expected or run.now() > deadline:
                run.note(e.Present(at=run.now(), channel=channel, asked=url, roster=roster, expected=expected))
                break
            await asyncio.sleep(0.25)


async def _until(true: Callable[[], bool], limit_s: float) -> None:
    """Wait until `true` holds, for `limit_s` seconds at most.

    Does not report what did not come true: the judge finds it in the history.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not true() and loop.time() < deadline:
        await asyncio.sleep(0.05)
