"""The listener: start, drain, end, and what it counts."""

from __future__ import annotations

import asyncio
import resource
import socket

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.edge.domain.ends import ClientEnd
from services.edge.transport.options import TransportOptions
from services.edge.transport.server import EdgeServer
from services.shared.process.config import ConfigError
from tests.edge.transport.support import LIMIT_S, OneProtocol, Raw, Recorder, Serve, head, transport_of


async def test_draining_answers_503_to_new_connections_and_keeps_open_ones(serve: Serve) -> None:
    served = await serve(app=FastAPI())
    async with connect(served.url) as client:
        served.server.stop_accepting()
        for request in (head(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            status, response = await served.answer(request)
            assert status == 503
            assert b"\r\nRetry-After: " in response
        await client.send("still here")
        assert await client.recv() == "still here"
    assert served.refused == {"draining": 2}


async def test_draining_ends_idle_http_connections(serve: Serve) -> None:
    served = await serve(app=FastAPI())
    async with Raw(served.port) as client:
        client.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.head()
        served.server.stop_accepting()
        await client.rest()


async def test_closing_tells_clients_3001_and_leaves_nothing_open(serve: Serve) -> None:
    served = await serve(app=FastAPI())
    half = await Raw(served.port).__aenter__()
    half.write(b"GET / HT")
    async with connect(served.url) as client:
        closing = asyncio.create_task(served.server.close())
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        await asyncio.wait_for(closing, LIMIT_S)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3001, "shutdown")
    assert served.listener.admission.open == 0
    assert served.server.counters.websockets == served.server.counters.https == 0
    with pytest.raises(OSError, match="onnect"):
        await asyncio.open_connection("127.0.0.1", served.port)
    half.writer.close()


async def test_closing_does_not_wait_long_for_clients_that_do_not_answer(serve: Serve) -> None:
    served = await serve(close_timeout_s=0.05)
    client = await served.raw()
    await asyncio.wait_for(served.server.close(), LIMIT_S)
    assert served.handlers[0].ended == [ClientEnd.LOST]
    client.writer.close()


async def test_a_taken_port_is_named(serve: Serve) -> None:
    served = await serve()
    other = EdgeServer(TransportOptions(), OneProtocol(lambda connection, info: Recorder(connection, info, echo=False)))
    with pytest.raises(ConfigError, match=str(served.port)):
        await other.start("127.0.0.1", served.port)


async def test_sockets_send_without_delay(serve: Serve) -> None:
    served = await serve()
    client = await served.raw()
    (connection,) = served.listener.websockets
    sock = transport_of(connection).get_extra_info("socket")
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    client.writer.close()


async def test_the_cap_of_connections_fits_the_open_files(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 1_024))
    served = await serve()
    assert served.listener.admission.max_connections == 720
    monkeypatch.setattr(resource, "getrlimit", lambda _: (200, 200))
    with pytest.raises(ConfigError, match="200 open files"):
        await serve()


async def test_metrics_tell_what_happened(serve: Serve) -> None:
    served = await serve()
    async with connect(served.url) as client:
        await client.send("ab")
        await client.recv()
        await served.answer(head(without="Host"))
        registry = CollectorRegistry()
        registry.register(served.server.collector)
        text = generate_latest(registry).decode()
    assert 'thalamus_edge_connections{kind="websocket"} 1.0' in text
    assert 'thalamus_edge_accepted_total{kind="websocket"} 1.0' in text
    assert 'thalamus_edge_refused_total{reason="malformed"} 1.0' in text
    assert "thalamus_edge_writes_total 1.0" in text
    assert "thalamus_edge_sent_bytes_total 4.0" in text
    assert "thalamus_edge_outbox_bytes 0.0" in text
