"""Page and service worker of docs/push.md as they are printed, in Chromium.

The browser subscribes and decrypts by itself. What stands in is Google's service: Chromium's command line names another
one, and its address in subscriptions, which is compiled in, gets another host.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import json
import re
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from services.persistence.chat.devices.device import WEB_PUSH_HOSTS, Device, is_auth, is_key, why_no_endpoint
from services.persistence.notifier.letter import Errand
from services.persistence.notifier.ports import Note, Shown
from services.persistence.notifier.ways.webpush import WebPushWay
from services.persistence.notifier.wording import note_of
from services.persistence.webhooks.http import Outcome
from tests.support.browser_push import BrowserPush
from tests.support.http_server import Asked
from tests.support.push_keys import ec_key, public_text, server_tls
from tests.support.push_server import PushServer, Reply
from tests.support.waiting import until
from tests.web.test_console import chromium, node, playwright  # noqa: F401  # fixtures

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "docs" / "push.md"
CHANNEL = "conv:g.x"
WITHIN_S = 60.0
# Around what is printed: the page keeps what it would send to the platform; the worker says what it has handled.
_BEFORE = """
window.handled = [];
new BroadcastChannel("handled").onmessage = ({ data }) => window.handled.push(data);
const PUBLIC_KEY = "%s";
window.subscribed = async () => {
  let device;
  const client = { rpc: async (method, params) => { device = { method, ...params }; } };
"""
_AFTER = "  return device;\n};\n"
_WATCHED = """
const waitUntil = ExtendableEvent.prototype.waitUntil;
const done = new BroadcastChannel("handled");
ExtendableEvent.prototype.waitUntil = function (work) {
  const text = this.data?.text();
  waitUntil.call(this, Promise.resolve(work).finally(() => text && done.postMessage(JSON.parse(text))));
};
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def served(folder: Path, public_key: str) -> Iterator[str]:
    """The page and the worker, over HTTP."""
    printed = re.findall(r"```js\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (worker,) = [code for code in printed if "self." in code]
    (page,) = [code for code in printed if "pushManager.subscribe" in code]
    (folder / "worker.js").write_text(_WATCHED + worker)
    script = _BEFORE % public_key + page + _AFTER
    (folder / "index.html").write_text(f"<!doctype html><title>page</title><script>{script}</script>")
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Browser:
    """Chromium with the page; `subscription`: what it would send to the platform."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.subscription: dict[str, Any] = {}

    async def line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())

    async def ask(self, what: str) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n".encode())
        found: list[dict[str, Any]] = await self.line()
        return found

    async def shown(self) -> list[dict[str, Any]]:
        """What is shown of the conversation.

        Chromium shows a notice of its own where a push shows nothing.
        """
        return [one for one in await self.ask("shown") if one["tag"] == CHANNEL]

    async def handles(self, note: Note, times: int) -> None:
        """Wait until the worker has handled this note so often.

        What is shown is not asked for meanwhile: Chromium may forget what it is about to show then.
        """
        async with asyncio.timeout(WITHIN_S):
            while [(one["id"], one["kind"]) for one in await self.ask("handled")].count((note.id, note.kind)) < times:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def browser(command: list[str]) -> AsyncIterator[Browser]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        made = Browser(process)
        async with asyncio.timeout(WITHIN_S):
            made.subscription = await made.line()
        yield made
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def message(offset: int, text: str) -> Note:
    return note_of(errand("message", offset), Shown(**_SHOWN, text=text), "text")


def dismiss(offset: int) -> Note:
    return note_of(errand("dismiss", offset), None, "")


def errand(kind: str, offset: int) -> Errand:
    return Errand(kind=kind, user="bob", channel=CHANNEL, epoch="e", offset=offset, address="a")  # type: ignore[arg-type]


_SHOWN: dict[str, Any] = {
    "type": "group",
    "title": "Lunch",
    "author": "ann",
    "author_name": "Ann",
    "time_ms": 1,
    "attachments": 0,
    "is_mention": False,
    "badge": 3,
}


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
async def test_chromium_subscribes_shows_what_is_sent_to_it_and_takes_it_back(
    node: str,  # noqa: F811
    chromium: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    tls: ssl.SSLContext = server_tls(tmp_path)[0]
    public_key = public_text(ec_key(tmp_path / "vapid.pem"))
    site = tmp_path / "site"
    site.mkdir()
    async with BrowserPush(tls) as push, PushServer(tls=tls) as endpoint:

        def hand_on(asked: Asked) -> Reply:
            push.deliver(asked.path.rpartition("/")[2], asked.body, asked.headers)
            return Reply(201)

        endpoint.answer = hand_on
        with served(site, public_key) as base:
            script, profile = str(_HERE / "push_worker.mjs"), str(tmp_path / "profile")
            async with browser([node, script, base, profile, chromium, json.dumps(push.switches)]) as shown_by:
                made = shown_by.subscription
                assert (made["method"], made["id"], made["platform"]) == ("devices.set", "browser", "webpush")
                assert is_key(made["keys"]["p256dh"])
                assert is_auth(made["keys"]["auth"])
                assert why_no_endpoint(made["endpoint"], WEB_PUSH_HOSTS) == "", "the platform would refuse it"
                path = urlsplit(made["endpoint"]).path
                assert push.sender(path.rpartition("/")[2]) == public_key
                await until(lambda: push.is_connected, WITHIN_S)
                device = Device(
                    id="browser", platform="webpush", set_ms=1, endpoint=f"{endpoint.url}{path}", **made["keys"]
                )
                hosts = [f"localhost:{endpoint.port}"]
                way = WebPushWay(
                    tmp_path / "vapid.pem", "mailto:a@b.c", hosts, ca_file=tmp_path / "server.pem", timeout_s=20.0
                )

                async def shows(note: Note, times: int = 1) -> list[dict[str, Any]]:
                    assert (await way.send("id", note, device)).outcome is Outcome.TAKEN
                    await shown_by.handles(note, times)
                    return await shown_by.shown()

                first = message(7, "hi 👋")
                (one,) = await shows(first)
                assert (one["title"], one["body"], one["data"]["id"]) == ("Lunch", "Ann: hi 👋", first.id)
                assert one["data"]["badge"] == 3
                assert await shows(first, 2) == [one], "a repeat replaces itself"
                assert await shows(dismiss(6)) == [one], "that is another one"
                second = message(8, "later")
                (other,) = await shows(second)
                assert other["data"]["id"] == second.id, "the newest of a conversation is shown"
                assert await shows(dismiss(7)) == [other]
                assert await shows(dismiss(8)) == []
                await way.close()
