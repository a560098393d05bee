"""Process of the notifier: reads settings, wires parts, runs, stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.persistence.chat.domain.names import namespace_of
from services.persistence.notifier.config import NotifierConfig
from services.persistence.notifier.courier import Courier
from services.persistence.notifier.letter import FAMILY
from services.persistence.notifier.options import load_options
from services.persistence.notifier.planner import Planner, Rules
from services.persistence.notifier.ports import Persistence, Presence, Way
from services.persistence.notifier.timers import Timers
from services.persistence.notifier.upstream import GrpcPersistence, GrpcPresence
from services.persistence.notifier.ways.make import ways_of
from services.persistence.webhooks.letters import Letters
from services.persistence.webhooks.sending import pause_s
from services.shared.errors import Unavailable
from services.shared.feed.events import EventType
from services.shared.feed.reader import FeedReader
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.process.secrets import read_service_tokens
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.startup.service import run_service

logger = logging.getLogger("services.persistence.notifier")

GROUP = "notifier"  # of the feed
_CLAIM_AFTER_S = 10.0  # after that time another process notes events that one has read
_READ_AT_ONCE = 500  # events
_IDLE_S = 0.5  # between two looks at what is due, seconds
_GRACE_S = 3.0  # for requests that are under way when the process stops, seconds
_PAUSES_S = (0.1, 2.0)  # before Redis is asked again


class Notifier:
    """The parts of a process, and its loops."""

    def __init__(
        self,
        address: str,
        redis: RedisPipeline,
        persistence: Persistence,
        presence: Presence,
        ways: Sequence[Way],
        rules: Mapping[str, Rules],
        *,
        pause: Callable[[int], float] = pause_s,
    ) -> None:
        """Put the parts together; `pause` as in `Courier`."""
        self.reader = FeedReader(
            address, GROUP, types=[EventType.PUBLICATION], claim_after_s=_CLAIM_AFTER_S, hidden=True
        )
        letters = {way.platform: Letters(redis, way.platform, FAMILY) for way in ways}
        self.planner = Planner(Timers(redis), persistence, presence, letters, rules)

        def preview_of(channel: str) -> str:
            found = rules.get(namespace_of(channel))
            return found.preview if found else "none"

        self.couriers = [Courier(way, letters[way.platform], persistence, preview_of, pause=pause) for way in ways]
        self.answers = dict.fromkeys(("feed", "due", "shown", *(way.platform for way in ways)), False)

    async def read(self) -> float:
        """Note the next events of the feed."""
        await self.take(_IDLE_S)
        return 0.0

    async def take(self, wait_s: float) -> bool:
        """Note events, and only then acknowledge them; return whether there were any."""
        events = await self.reader.next(_READ_AT_ONCE, wait_s)
        await self.planner.take(events)
        await self.reader.done(events)
        return bool(events)

    async def look(self) -> float:
        """Look at conversations that are due."""
        return 0.0 if await self.planner.look() else _IDLE_S

    async def look_again(self) -> float:
        """Look at what devices show."""
        return 0.0 if await self.planner.look_again() else _IDLE_S

    def tasks(self) -> list[asyncio.Task[None]]:
        """Start all loops."""
        loops: dict[str, Callable[[], Awaitable[float]]] = {
            "feed": self.read,
            "due": self.look,
            "shown": self.look_again,
            **{name: one.step for name, one in zip(list(self.answers)[3:], self.couriers, strict=True)},
        }
        return [asyncio.create_task(self._repeat(name, step)) for name, step in loops.items()]

    async def drain(self, grace_s: float) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*(one.sending.drain(grace_s) for one in self.couriers))

    async def _repeat(self, name: str, step: Callable[[], Awaitable[float]]) -> None:
        """Repeat a step until cancelled. While Redis does not answer, try again."""
        backoff = Backoff(*_PAUSES_S)
        while True:
            try:
                pause_s = await step()
                self.answers[name] = True
                backoff.reset()
                await asyncio.sleep(pause_s)
            except Unavailable as error:
                if not backoff.failures:
                    logger.warning("Redis does not answer", extra={"loop": name, "error": str(error)})
                self.answers[name] = False
                await asyncio.sleep(backoff.next_s())


async def main(config: NotifierConfig, stopping: asyncio.Event) -> None:
    """Run the notifier until `stopping` is set."""
    options = load_options(config.file)
    ways = ways_of(options, config.web_push_hosts)
    if not ways or not options.rules:
        logger.warning("nobody is notified: no namespace, or no way out", extra={"file": str(config.file)})
    token, identity = read_service_tokens(config.service_token_file).current, config.identity()
    async with contextlib.AsyncExitStack() as opened:
        for way in ways:
            opened.push_async_callback(way.close)
        replicas = {
            name: Replicas(
                target,
                service_token=token,
                service="notifier",
                identity=identity if config.calls_over_tls else None,
                server_name=name,
            )
            for name, target in config.addresses().items()
        }
        for one in replicas.values():
            await one.start()
            opened.push_async_callback(one.close)
        redis = RedisPipeline(config.redis_address())
        opened.push_async_callback(redis.aclose)
        notifier = Notifier(
            config.redis_address(),
            redis,
            GrpcPersistence(replicas["persistence"]),
            GrpcPresence(replicas["presence"]),
            ways,
            options.rules,
        )
        opened.push_async_callback(notifier.reader.close)
        checks = {"running": True}
        internal = await start_internal_http(
            config.internal_host,
            config.internal_port,
            ready=lambda: checks | {"redis": all(notifier.answers.values())},
        )
        opened.push_async_callback(internal.close)
        tasks = notifier.tasks()
        try:
            told = {"ways": [way.platform for way in ways], "namespaces": list(options.rules)}
            logger.info("started", extra={**told, "internal_port": internal.port})
            await until_stopped(stopping, *tasks)
            checks["running"] = False
        finally:
            for task in tasks:
                await end_task(task)
            await notifier.drain(_GRACE_S)


def run() -> None:
    """Run the process until it ends."""
    run_service("notifier", NotifierConfig, main)
