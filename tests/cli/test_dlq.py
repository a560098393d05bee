"""`thalamus dlq` on moto's SQS."""

from __future__ import annotations

import asyncio
import json
import os
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from cli import main
from services.persistence.domain.ports import Row
from services.persistence.queue import dead
from services.persistence.queue.messages import encode
from services.persistence.queue.settings import SqsSettings
from services.persistence.queue.sqs import Message, SqsQueue
from tests.support.sqs import environment_of
from tests.support.sqs import sqs_address as sqs_address
from tests.support.sqs import sqs_settings as sqs_settings


async def put_aside(settings: SqsSettings, bodies: list[str]) -> None:
    """Put messages into the dead-letter queue: nobody can store them."""
    queue = SqsQueue(settings)
    await queue.prepare()
    assert all(await queue.send(bodies))
    while (await queue.counts())[1] < len(bodies):
        await queue.put_back(await queue.receive(wait_s=0), 0)
    assert (await queue.counts()) == (0, len(bodies))
    await queue.close()


async def waiting(settings: SqsSettings) -> tuple[int, int]:
    queue = SqsQueue(settings)
    try:
        return await queue.counts()
    finally:
        await queue.close()


def test_what_was_put_aside_is_listed_shown_replayed_and_dropped(
    sqs_settings: SqsSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment_of(sqs_settings).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str]:
        return main.run(["dlq", *arguments]), capsys.readouterr().out

    body = encode("epoch", [Row("post:a", offset, os.urandom(16), b"x", "0:k") for offset in (4, 5)])
    asyncio.run(put_aside(sqs_settings, [body, "no message", "nor this"]))
    listed = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    (good,) = [one["id"] for one in listed if one.get("channel") == "post:a" and (one["first"], one["last"]) == (4, 5)]
    bad = [one["id"] for one in listed if "error" in one]
    assert len(bad) == 2
    assert run("show", good) == (0, body + "\n")
    assert run("replay")[0] == 2
    assert run("drop", "--all", good)[0] == 2
    assert run("replay", good) == (0, f"replayed: {good}\n")
    assert asyncio.run(waiting(sqs_settings)) == (1, 2)
    assert run("drop", bad[0]) == (0, f"dropped: {bad[0]}\n")
    assert run("drop", bad[0])[0] == 1
    assert run("drop", "--all") == (0, f"dropped: {bad[1]}\n")
    assert asyncio.run(waiting(sqs_settings)) == (1, 0)


class Body(str):
    __slots__ = ("__weakref__",)


def test_only_ten_letters_are_in_memory_at_once(sqs_settings: SqsSettings) -> None:
    held: list[weakref.ref[str]] = []
    most = 0

    class Watched(SqsQueue):
        async def receive(self, **options: Any) -> list[Message]:
            found = [one._replace(body=Body(one.body)) for one in await super().receive(**options)]
            held.extend(weakref.ref(one.body) for one in found)
            return found

    async def see(some: Sequence[Message]) -> dead.Seen:
        nonlocal most
        most = max(most, sum(one() is not None for one in held))
        return dead.Seen()

    async def run() -> None:
        queue = Watched(sqs_settings)
        assert await dead.look_through(queue, see) == 35
        assert await dead.look_through(queue, see) == 35, "they are seen again"
        gone: list[str] = []
        assert await dead.change(queue, None, replay=True, done=gone.append) == set()
        assert len({*gone}) == 35
        assert await queue.counts() == (35, 0)
        await queue.close()

    asyncio.run(put_aside(sqs_settings, ["no message"] * 35))
    asyncio.run(run())
    assert most <= 20
