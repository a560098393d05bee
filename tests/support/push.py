"""Notifiers that run in the test, step by step, on replicas of persistence."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis.asyncio
from standardwebhooks import Webhook

from services.persistence.notifier.planner import Rules
from services.persistence.notifier.ports import Presence, Way
from services.persistence.notifier.process import Notifier
from services.persistence.notifier.upstream import GrpcPersistence
from services.persistence.notifier.ways.webhook import WebhookWay
from services.shared.errors import ErrorCode, Unavailable
from services.shared.hotlog import keys
from services.shared.process.cancellation import end_task
from services.shared.redis.pipeline import RedisPipeline
from services.shared.webhook_signing import Signer
from tests.support.chat_calls import NAMESPACE, CallRefused, Replica, Site
from tests.support.http_server import Asked
from tests.support.push_server import PushServer
from tests.support.webhooks import SECRET
from thalamus.chat.v1 import chat_pb2 as pb

Json = dict[str, Any]
RULES: Mapping[str, Rules] = {NAMESPACE: Rules()}


class DirectPersistence(GrpcPersistence):
    """Persistence in the same process: the same messages, without a connection.

    `pick` says which replica answers.
    """

    def __init__(self, pick: Callable[[], Replica]) -> None:
        self._pick = pick
        self.asked: list[str] = []

    async def _asked(self, request: pb.CallRequest) -> pb.CallResponse:
        self.asked.append(request.method)
        return await self._pick().methods.call(pb.CallRequest.FromString(request.SerializeToString()))


class WhoIsThere:
    """Presence as a test says it; `users` are active."""

    def __init__(self, *users: str) -> None:
        self.users, self.away = set(users), False
        self.asked: list[list[str]] = []

    async def active(self, users: Sequence[str]) -> set[str]:
        self.asked.append(list(users))
        if self.away:
            raise Unavailable("presence does not answer")
        return self.users & set(users)


async def do(replica: Replica, user: str, method: str, /, **params: Any) -> Json:
    """Call a method; again with the same key while the store is too slow."""
    key = uuid.uuid4().hex
    while True:
        try:
            return await replica.call(user, method, key, **params)
        except CallRefused as error:
            if error.code != ErrorCode.INTERNAL:
                raise


async def make_due(conn: redis.asyncio.Redis, key: str, at_ms: int) -> None:
    """Give all members of a sorted set the same time."""
    members: list[Any] = await conn.zrange(key, 0, -1)
    if members:
        await conn.zadd(key, dict.fromkeys(members, at_ms))


class Backend:
    """The backend of a webhook, which checks every signature."""

    def __init__(self, server: PushServer) -> None:
        self.server = server

    def way(self, **options: Any) -> WebhookWay:
        return WebhookWay(self.server.url + "/push", Signer([SECRET]), timeout_s=1.0, **options)

    @property
    def notes(self) -> list[Json]:
        """What came, in order."""
        return [_verified(one) for one in self.server.asked]

    def take(self) -> list[Json]:
        """What came since the last call."""
        notes = self.notes
        self.server.asked.clear()
        return notes


def _verified(asked: Asked) -> Json:
    note: Json = Webhook(SECRET).verify(asked.body, asked.headers)
    return {**note, "request": asked.headers["webhook-id"]}


class Run:
    """A notifier whose steps the test makes."""

    def __init__(
        self,
        redis_url: str,
        conn: redis.asyncio.Redis,
        site: Site,
        ways: Sequence[Way],
        presence: Presence,
        rules: Mapping[str, Rules] = RULES,
        pause: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        self.conn, self.ways = conn, ways
        self.redis = RedisPipeline(redis_url)
        self.persistence = DirectPersistence(lambda: site.replicas[0])
        self.notifier = Notifier(redis_url, self.redis, self.persistence, presence, ways, rules, pause=pause)
        self._site = site

    async def begin(self) -> None:
        """Have the group begin before anything is told."""
        await self.notifier.reader.next(1, 0.0)

    async def read(self) -> None:
        """Note all that the feed has."""
        while await self.notifier.take(0.02):
            pass

    async def pass_time(self) -> None:
        """Let the time come at which everything noted is due."""
        for name in ("due", "watch"):
            await make_due(self.conn, keys.push(name), 0)

    async def decide(self) -> None:
        """Look at all conversations that are due."""
        while await self.notifier.planner.look():
            pass

    async def look_again(self) -> None:
        """Look at what devices show, where something moved."""
        for replica in self._site.replicas:
            await replica.chat.shown_marks.tell()
        while await self.notifier.planner.look_again():
            pass

    async def send(self) -> None:
        """Send until nothing is due."""
        for courier in self.notifier.couriers:
            while True:
                await courier.step()
                if not courier.sending.under_way:
                    break
                await asyncio.wait(list(courier.sending.under_way), timeout=5)

    async def all(self) -> None:
        """All of it, once the delay has passed."""
        await self.read()
        await self.pass_time()
        await self.decide()
        await self.send()
        await self.look_again()
        await self.send()

    async def close(self) -> None:
        for courier in self.notifier.couriers:
            for task in list(courier.sending.under_way):
                await end_task(task)
        for way in self.ways:
            await way.close()
        await self.notifier.reader.close()
        await self.redis.aclose()


def push_file(folder: Path, url: str, *more: str, **rules: Any) -> Path:
    """A file with rules for conversations, and a backend whose secret is `SECRET`.

    `more`: other tables.
    """
    (folder / "push.secret").write_text(SECRET)
    lines = [f"{name} = {json.dumps(value)}" for name, value in rules.items()]
    webhook = f'[webhook]\nurl = "{url}"\nsecret_files = ["push.secret"]'
    (folder / "push.toml").write_text("\n".join(["[namespaces.conv]", *lines, webhook, *more, ""]))
    return folder / "push.toml"
