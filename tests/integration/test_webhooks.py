"""Webhooks of a whole stack: the process, its command line, and deaths."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import redis.asyncio
from click.testing import CliRunner

from cli.commands import webhooks
from cli.errors import CommandError
from tests.support.full import sized
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.webhook_receiver import Manner, WebhookReceiver, at_random
from tests.support.webhooks import SECRET, tell, webhooks_file
from tests.support.wire_client import WireClient

TIMEOUT_S = 1.0


@pytest.fixture
async def receiver() -> AsyncIterator[WebhookReceiver]:
    async with WebhookReceiver(SECRET) as running:
        yield running
        assert running.wrong == []


Run = Callable[..., str]


@pytest.fixture
def thalamus(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stack], Run]:
    """Make what runs `thalamus webhooks …` beside a stack, and returns its output."""
    monkeypatch.delenv("REDIS_URL", raising=False)

    def beside(stack: Stack) -> Run:
        def run(*arguments: str) -> str:
            result = CliRunner().invoke(webhooks.command, [*arguments, "--data", str(stack.data)])
            if isinstance(result.exception, CommandError):
                raise result.exception
            assert result.exit_code == 0, result.output
            return result.output

        return run

    return beside


async def test_a_stack_sends_webhooks_and_the_command_line_has_its_dead_letters(
    receiver: WebhookReceiver, tmp_path: Path, thalamus: Callable[[Stack], Run]
) -> None:
    file = webhooks_file(tmp_path, receiver.url, timeout_s=TIMEOUT_S, tries=1)
    stack = Stack(edges=1, webhooks_file=file)
    await asyncio.to_thread(stack.__enter__)
    try:
        run = thalamus(stack)
        await until(lambda: receiver.events)
        async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
            receiver.choose = lambda _: Manner.FAIL
            number = await tell(client, "connect", "ann")
            await until(lambda: receiver.of(Manner.FAIL))
            receiver.choose = lambda _: Manner.TAKE
            await tell(client, "connect", "bob")
            await until(lambda: "bob" in receiver.history())
        said = await asyncio.to_thread(run, "list", "--json")
        listed = json.loads(said.splitlines()[0])
        letter = receiver.of(Manner.FAIL)[0].id
        assert {**listed, "last_try": 0} == {
            "endpoint": "crm",
            "id": letter,
            "events": 1,
            "tries": 1,
            "last_try": 0,
            "error": "status 500",
        }
        assert letter in await asyncio.to_thread(run, "list", "crm")
        with pytest.raises(CommandError, match="no dead letter of crm: msg_none"):
            await asyncio.to_thread(run, "replay", "crm", "msg_none")
        with pytest.raises(CommandError, match="give ids of dead letters, or --all"):
            await asyncio.to_thread(run, "drop", "crm")
        async with httpx.AsyncClient() as http:
            text = (await http.get(stack.internal_urls["webhooks"] + "/metrics")).text
            assert (await http.get(stack.internal_urls["webhooks"] + "/readyz")).json()["ready"] is True
        assert 'thalamus_webhooks_requests_total{endpoint="crm",outcome="refused"} 1.0' in text
        assert 'thalamus_webhooks_given_up_total{endpoint="crm"} 1.0' in text
        assert "replayed" in await asyncio.to_thread(run, "replay", "crm", letter)
        await until(lambda: "ann" in receiver.history())
        assert receiver.requests[-1].id == letter
        assert receiver.history()["ann"][0]["number"] == number
        assert "0 dropped" in await asyncio.to_thread(run, "drop", "crm", "--all")
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)


def test_without_an_endpoint_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "webhooks.toml").write_text("")
    with Stack(edges=1, webhooks_file=tmp_path / "webhooks.toml") as stack:
        assert "webhooks" not in stack.plan.internal_urls()
        assert "webhooks" not in stack.supervisor.pids()


CHANNELS = """\
[namespaces.told]
durability = "{durability}"
presence = true
subscribe = ["authenticated"]
publish = ["subscriber"]
events = ["publication", "join", "leave", "occupied", "vacated"]
[namespaces.untold]
subscribe = ["authenticated"]
publish = ["subscriber"]
"""


@pytest.mark.parametrize("durability", ["hot", "stored"])
async def test_a_backend_hears_what_happens_in_channels_that_ask_for_it(
    receiver: WebhookReceiver, tmp_path: Path, durability: str
) -> None:
    channels = tmp_path / "channels.toml"
    channels.write_text(CHANNELS.format(durability=durability))
    kinds = ["connect", "disconnect", "join", "leave", "occupied", "vacated", "publication"]
    file = webhooks_file(tmp_path, receiver.url, events=kinds)
    stack = Stack(edges=1, environment={"EDGE_CONNECTION_EVENTS": "true"}, channels_file=channels, webhooks_file=file)
    await asyncio.to_thread(stack.__enter__)
    try:
        await until(lambda: receiver.events, 20)
        async with WireClient(stack.ws_urls[0]) as ann:
            await ann.connect(stack.token("ann"))
            for channel in ("told:1", "untold:1"):
                await ann.subscribe(channel)
                for number in range(3):
                    await ann.publish(channel, {"n": number})
        await until(lambda: len(receiver.history()["ann"]) >= 2 if "ann" in receiver.history() else False)
        await until(lambda: len(receiver.history(by="channel").get("told:1", ())) == 7)
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)
    by_channel = receiver.history(by="channel")
    assert by_channel.keys() == {"told:1"}
    offsets = [event["number"] for event in by_channel["told:1"] if event["type"] == "publication"]
    assert offsets == [1, 2, 3]
    assert {event["user"] for event in by_channel["told:1"] if event["type"] == "publication"} == {"ann"}
    others = [event["type"] for event in by_channel["told:1"] if event["type"] != "publication"]
    assert (sorted(others[:2]), sorted(others[2:])) == (["join", "occupied"], ["leave", "vacated"])
    connection = [event["type"] for event in receiver.history()["ann"] if "channel" not in event]
    assert connection == ["connect", "disconnect"]


@pytest.mark.slow
async def test_the_process_is_killed_again_and_again_and_nothing_is_lost(
    receiver: WebhookReceiver, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    receiver.choose = at_random(rng, {Manner.FAIL: 0.1, Manner.HANG: 0.02, Manner.LOSE: 0.05})
    stack = Stack(edges=1, webhooks_file=webhooks_file(tmp_path, receiver.url, timeout_s=TIMEOUT_S))
    await asyncio.to_thread(stack.__enter__)
    try:
        await until(lambda: receiver.events, 20)
        true: dict[str, list[tuple[int, str]]] = {}
        async with redis.asyncio.Redis.from_url(stack.redis_url) as client:
            for _ in range(sized(3, 20)):
                for each in range(100):
                    user = f"u{rng.randrange(10)}"
                    kind = "connect" if each % 2 else "disconnect"
                    true.setdefault(user, []).append((await tell(client, kind, user), kind))
                    if each == 50:
                        await asyncio.sleep(rng.uniform(0, 0.5))
                        await asyncio.to_thread(stack.kill9, "webhooks")
                await asyncio.to_thread(stack.start, "webhooks")
        await until(lambda: sum(map(len, receiver.history().values())) >= sum(map(len, true.values())), 60)
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)
    found = {
        user: [(event["number"], event["type"]) for event in events] for user, events in receiver.history().items()
    }
    assert found == true
