"""A backend of hooks over HTTP: a real server that answers as a test says."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import Webhook

from services.edge.adapters.hooks.load import make_hooks
from services.edge.domain.hooks.hooks import Hooks
from services.shared.namespaces import Namespaces
from tests.support.http_server import Asked, HttpServer

KEY = b"a key of at least sixteen bytes"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
Question = dict[str, Any]
# Takes a question; returns the JSON of the answer, or the bytes of a whole HTTP response; None: closes the connection.
Decide = Callable[[Question], Awaitable[Any]]


class HookBackend(HttpServer):
    """`async with HookBackend(decide) as backend`: an HTTP/1.1 server.

    It verifies each signature. `questions` are those that came, pings apart; `pings` counts
    these.
    """

    def __init__(
        self,
        decide: Decide | None = None,
        *,
        port: int = 0,
        secret: str = SECRET,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls, port=port)
        self.decide = decide or _nothing
        self._secret = secret
        self.questions: list[Question] = []
        self.pings = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/hooks"

    async def answered(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        question = Webhook(self._secret).verify(asked.body, asked.headers)
        assert asked.headers["webhook-id"] == question["id"]
        if question["event"] == "ping":
            self.pings += 1
            writer.write(response(b""))
        else:
            self.questions.append(question)
            answer = await self.decide(question)
            if answer is None:
                return False
            writer.write(answer if isinstance(answer, bytes) else response(json.dumps(answer).encode()))
        return True


async def _nothing(question: Question) -> Any:
    return {}


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """A whole HTTP response."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def hooks_of(folder: Path, namespaces: Namespaces, toml: str) -> Hooks:
    """Hooks as an edge reads them; `{secret}` in the text is the file of the secret."""
    secret, path = folder / "hooks.secret", folder / "hooks.toml"
    secret.write_text(SECRET + "\n")
    path.write_text(toml.replace("{secret}", str(secret)))
    return make_hooks(path, namespaces)


def table(name: str, events: Sequence[str], url: str, **options: Any) -> str:
    """One table of the file, of a hook over HTTP."""
    options = {"events": list(events), "url": url, "secret_files": ["{secret}"]} | options
    return "\n".join([f"[hooks.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in options.items()), ""])
