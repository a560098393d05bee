"""Handshakes and framing of the SDKs for Swift, Java, Dart and Go by hand.

None of these SDKs was run.

By the sources of those for Swift, Java and Dart, each offers `centrifuge-protobuf`, asks for nothing in the query, and
puts commands behind their lengths into binary messages. The libraries below them write the rest of the head.
"""

from __future__ import annotations

import pytest

from tests.edge.transport.support import BINARY, KEY, PATH, Raw, frame
from tests.support import protobuf_by_hand as by_hand
from tests.support.edge import Cluster
from tests.support.protobuf_by_hand import command_of, parts
from tests.support.served_edge import ServedEdge, connect_command

HOST = "127.0.0.1:{port}"
HEADS = {
    "Swift, URLSession": (
        f"Host: {HOST}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: centrifuge-protobuf",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "Accept: */*",
        "Accept-Encoding: gzip, deflate",
        "User-Agent: app/1 CFNetwork/1490.0.4 Darwin/23.2.0",
    ),
    "Swift, Starscream": (
        "Sec-WebSocket-Protocol: centrifuge-protobuf",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=15",
        f"Host: {HOST}",
    ),
    "Java, OkHttp": (
        "Sec-WebSocket-Protocol: centrifuge-protobuf",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Extensions: permessage-deflate",
        f"Host: {HOST}",
        "Accept-Encoding: gzip",
        "User-Agent: okhttp/4.12.0",
    ),
    "Dart, dart:io": (
        "user-agent: Dart/3.2 (dart:io)",
        "connection: Upgrade",
        "cache-control: no-cache",
        "accept-encoding: gzip",
        f"host: {HOST}",
        "sec-websocket-protocol: centrifuge-protobuf",
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
        f"sec-websocket-key: {KEY}",
        "sec-websocket-version: 13",
        "upgrade: websocket",
    ),
    "Go, gorilla": (
        f"Host: {HOST}",
        "User-Agent: Go-http-client/1.1",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Protocol: centrifuge-protobuf",
        "Sec-WebSocket-Version: 13",
        "Upgrade: websocket",
    ),
}


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("query", ["", "?cf_protocol_version=v2", "?format=protobuf"])
async def test_1_protobuf_is_selected_and_spoken(lines: tuple[str, ...], query: str) -> None:
    async with ServedEdge(Cluster()) as edge, Raw(edge.port) as client:
        start = f"GET {PATH}{query} HTTP/1.1"
        client.write("\r\n".join([start, *lines, "", ""]).format(port=edge.port).encode())
        reply = (await client.head()).decode().lower()
        assert reply.startswith("http/1.1 101 ")
        assert "\r\nsec-websocket-protocol: centrifuge-protobuf\r\n" in reply
        # Several commands in one binary message, each behind its length; an empty one is the byte 0.
        commands = [f'{{"id":1,"connect":{{"token":"{connect_command()["connect"]["token"]}"}}}}']
        commands += ['{"id":2,"subscribe":{"channel":"a"}}', '{"id":3,"presence":{"channel":"a"}}']
        client.write(frame(BINARY, b"".join(map(command_of, commands))))
        found: list[by_hand.Message] = []
        while len(found) < 3:
            opcode, payload = await client.frame()
            assert opcode == BINARY
            found += [by_hand.read("Reply", part) for part in parts(payload)]
        assert [one["id"] for one in found] == [1, 2, 3]
        assert [next(name for name in one if name != "id") for one in found] == ["connect", "subscribe", "presence"]
        assert [info["user"] for info in found[2]["presence"]["presence"].values()] == ["alice"]
