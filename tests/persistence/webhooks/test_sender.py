"""Requests go to no server that can't prove who it is."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

from cli.secrets.certificate import make_certificate
from services.persistence.webhooks.http import Outcome
from services.persistence.webhooks.sender import sender_of
from tests.support.webhooks import endpoint


async def test_a_server_whose_certificate_nobody_trusts_gets_nothing(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_bytes(make_certificate(["localhost"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    got: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(100))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=context) as server:
        to = endpoint(f"https://localhost:{server.sockets[0].getsockname()[1]}/hook", tmp_path)
        async with contextlib.aclosing(sender_of(to)) as sender:
            answer = await sender.send("msg_1", "{}")
    assert (answer.outcome, got) == (Outcome.FAILED, [])
    assert "CERTIFICATE_VERIFY_FAILED" in answer.error
