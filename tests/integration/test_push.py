"""Notifications of a whole stack: a browser is told, and told to take it back."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from cli.commands import push
from tests.support.full import sized
from tests.support.push import push_file
from tests.support.push_keys import Browser, ec_key, server_tls
from tests.support.push_server import PushServer, Reply
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.wire_client import WireClient

WAIT_S = 30.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    context, _ = server_tls(tmp_path)
    async with PushServer(tls=context) as running:
        yield running


@pytest.fixture(params=["off", "require"][sized(1, 0) :])  # the notifier calls over mTLS, too
async def stack(request: pytest.FixtureRequest, tmp_path: Path, server: PushServer) -> AsyncIterator[Stack]:
    ec_key(tmp_path / "vapid.pem")
    web_push = '[webpush]\nkey_file = "vapid.pem"\nsubject = "mailto:ops@example.com"\nca_file = "server.pem"'
    file = push_file(tmp_path, "http://127.0.0.1:9/", web_push, notify_delay_s=0.5)
    settings = {"WEB_PUSH_HOSTS": f"localhost:{server.port}", "SERVICE_TLS": request.param}
    running = Stack(edges=1, push_file=file, environment=settings)
    await asyncio.to_thread(running.__enter__)
    yield running
    await asyncio.to_thread(running.__exit__, None, None, None)


async def test_c60_a_browser_is_told_and_told_to_take_it_back(stack: Stack, server: PushServer) -> None:
    browser = Browser(f"{server.url}/bob")
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=20) as http:

        async def api(method: str, **params: Any) -> dict[str, Any]:
            answer = (await http.post(f"/api/{method}", json=params, headers={"X-API-Key": stack.api_key})).json()
            assert "result" in answer, answer
            result: dict[str, Any] = answer["result"]
            return result

        bearer = {"Authorization": f"Bearer {stack.token('bob')}"}
        device = {"platform": "webpush", "endpoint": browser.endpoint, "keys": browser.keys}
        said = await http.put("/chat/devices/laptop", json=device, headers=bearer)
        assert said.json() == {"result": {"id": "laptop", "applied": True}}
        wrong = {**device, "endpoint": "https://169.254.169.254/latest"}
        assert (await http.put("/chat/devices/x", json=wrong, headers=bearer)).status_code == 400
        async with WireClient(stack.ws_urls[0]) as bob:
            await bob.connect(stack.token("bob"))
            seen = await api("messages_send", **{"as": "ann", "to": "bob", "text": "you are active"})
            await asyncio.to_thread(_decided, stack, "present")
            await bob.call(rpc={"method": "presence.state", "data": {"state": "away"}})
            sent = await api("messages_send", **{"as": "ann", "to": "bob", "text": "hi bob"})
            await until(lambda: server.asked)
        note = browser.read(server.asked[0].body)
        expected = {"kind": "message", "user": "bob", "body": "hi bob", "offset": sent["offset"], "badge": 2}
        assert note == note | expected
        assert note["channel"] == sent["channel"] == seen["channel"]
        await api("markers_read", **{"as": "bob", "channel": sent["channel"], "offset": sent["offset"]})
        await until(lambda: len(server.asked) > 1)
        back = browser.read(server.asked[1].body)
        assert (back["kind"], back["id"], back["badge"]) == ("dismiss", note["id"], 0)
        server.answer = lambda _: Reply(410)
        await api("messages_send", **{"as": "ann", "to": "bob", "text": "again"})
        async with asyncio.timeout(WAIT_S):
            while (await http.get("/chat/devices", headers=bearer)).json()["result"]["devices"]:
                await asyncio.sleep(0.1)


def _decided(stack: Stack, decision: str) -> None:
    """Wait until the notifier has decided so."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with urllib.request.urlopen(stack.internal_urls["notifier"] + "/metrics", timeout=5) as response:
            text = response.read().decode()
        wanted = f'thalamus_notifier_decisions_total{{decision="{decision}"}} '
        if any(line.startswith(wanted) and float(line.split()[-1]) for line in text.splitlines()):
            return
        time.sleep(0.05)
    raise AssertionError(f"never {decision}")


def test_the_command_line_prints_the_public_key(tmp_path: Path) -> None:
    ec_key(tmp_path / "key")
    result = CliRunner().invoke(push.command, ["key", str(tmp_path / "key")])
    assert (result.exit_code, len(result.output.strip())) == (0, 87)
    (tmp_path / "key").write_text(json.dumps({}))
    assert CliRunner().invoke(push.command, ["key", str(tmp_path / "key")]).exit_code != 0
