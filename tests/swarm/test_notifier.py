"""Two notifiers of the deployed stack tell a backend, once, and take it back."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.swarm.docker import until
from tests.swarm.stack import SwarmStack
from verify.target import ApiError, call_api

FILES = "dev-stack.yml dev-ports.yml"
WITHIN_S = 20.0
USERS = 6  # several, so that both replicas have something to do


@pytest.fixture(scope="module")
def told(stack: SwarmStack) -> Iterator[SwarmStack]:
    """The stack with two notifiers and a backend."""
    stack.up(STACK_FILES=f"{FILES} tests/swarm/notified.yml")
    try:
        until(
            lambda: {"notifier": "2/2", "backend": "1/1"}.items() <= stack.replicas().items(),
            60.0,
            lambda: f"replicas: {stack.replicas()}\n{stack.logs('notifier', 20)}\n{stack.logs('backend', 20)}",
        )
        yield stack
    finally:
        stack.up(STACK_FILES=FILES)
        until(lambda: stack.replicas().get("notifier") == "0/0", 60.0, lambda: f"replicas: {stack.replicas()}")


def notes(stack: SwarmStack) -> list[dict[str, Any]]:
    """What the backend was told, each with a good signature."""
    webhook = Webhook((stack.secrets / "webhook_secret").read_text().strip())
    lines = [json.loads(line) for line in stack.logs("backend", 1_000).splitlines() if line.startswith("{")]
    return [webhook.verify(line["body"], line["headers"]) for line in lines]


async def test_two_notifiers_tell_a_backend_once_and_take_it_back_once(told: SwarmStack) -> None:
    users = [f"bob-{secrets.token_hex(4)}" for _ in range(USERS)]

    def counted() -> Counter[tuple[str, str]]:
        return Counter((note["kind"], note["user"]) for note in notes(told))

    async def wait_for(kind: str) -> None:
        wanted = {(kind, user) for user in users}
        await asyncio.to_thread(
            until,
            lambda: wanted <= counted().keys(),
            WITHIN_S,
            lambda: f"{counted()}\n{told.logs('notifier', 40)}",
        )

    async with httpx.AsyncClient() as client:

        async def call(method: str, **params: Any) -> dict[str, Any]:
            if method == "messages_send":
                params["key"] = secrets.token_hex(8)  # so that a repeat writes nothing again
            async with asyncio.timeout(WITHIN_S):
                while True:
                    try:
                        return await call_api(client, told.http, told.api_key, method, **params)
                    except ApiError as error:  # 401: an edge that does not know the new key yet; 100: come again
                        if " 401 " not in str(error) and "'code': 100," not in str(error):
                            raise
                    await asyncio.sleep(0.5)

        sent = {user: await call("messages_send", **{"as": "ann", "to": user, "text": f"hi {user}"}) for user in users}
        await wait_for("message")
        for user, one in sent.items():
            await call("markers_read", **{"as": user, "channel": one["channel"], "offset": one["offset"]})
        await wait_for("dismiss")
    assert counted() == {(kind, user): 1 for kind in ("message", "dismiss") for user in users}
    shown = {note["user"]: note for note in notes(told) if note["kind"] == "message"}
    assert {user: (note["body"], note["badge"]) for user, note in shown.items()} == {
        user: (f"hi {user}", 1) for user in users
    }
    ids = {(note["user"], note["id"]) for note in notes(told)}
    assert len(ids) == USERS, "what takes back names what was shown"
