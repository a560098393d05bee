"""Behind a balancer: whom we believe about the client's address.

On real sockets.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from fastapi import FastAPI, Request

from services.edge.transport.http.refusal import Refused
from services.edge.transport.options import TransportOptions
from services.edge.transport.proxies import TrustedProxies, canonical
from services.edge.transport.proxy_protocol import ProxyHeader
from services.shared.process.config import ConfigError
from tests.edge.transport.support import LIMIT_S, PATH, Raw, Serve, Served, head

HERE = ("127.0.0.1",)
ELSEWHERE = ("192.0.2.1",)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

app = FastAPI()


@app.get("/who")
async def who(request: Request) -> str:
    return f"{request.client.host if request.client else ''} {request.url}"


def v2(source: str, *, command: int = 0x21, family: int | None = None, tlvs: bytes = b"", size: int = -1) -> bytes:
    """A PROXY header of version 2; `size`: what it says its length is."""
    packed = ip_address(source).packed
    body = packed + packed + b"\x30\x39\x1f\x41" + tlvs
    kind = (0x11 if len(packed) == 4 else 0x21) if family is None else family
    return SIGNATURE + bytes((command, kind)) + (len(body) if size < 0 else size).to_bytes(2, "big") + body


def v1(source: str) -> bytes:
    """A PROXY header of version 1."""
    return f"PROXY TCP{ip_address(source).version} {source} {source} 12345 8001\r\n".encode()


def forwarded(*lines: str) -> list[str]:
    return [f"X-Forwarded-For: {line}" for line in lines]


async def peer_of(served: Served, before: bytes, *headers: str) -> str:
    """The client's address as the handler of a WebSocket connection is told it."""
    async with Raw(served.port) as client:
        client.write(before + head(*headers))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return served.handlers[-1].info.peer


async def asked(client: Raw, *headers: str) -> str:
    """What the HTTP application sees of a request on this connection: address and URL."""
    client.write("\r\n".join(["GET /who HTTP/1.1", "Host: chat.example.com", *headers, "", ""]).encode())
    response = await client.head()
    assert response.startswith(b"HTTP/1.1 200 ")
    size = int(response.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return (await asyncio.wait_for(client.reader.readexactly(size), LIMIT_S)).decode().strip('"')


@pytest.mark.parametrize("trusted", [(), ELSEWHERE, ("10.0.0.0/8", "2001:db8::/32")])
async def test_what_an_untrusted_peer_says_of_itself_is_ignored(serve: Serve, trusted: tuple[str, ...]) -> None:
    served = await serve(app=app, trusted_proxies=trusted)
    assert await peer_of(served, b"", *forwarded("203.0.113.9")) == "127.0.0.1"
    async with Raw(served.port) as client:
        said = await asked(client, *forwarded("203.0.113.9"), "X-Forwarded-Proto: https")
    assert said == "127.0.0.1 http://chat.example.com/who"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        pytest.param([], "127.0.0.1", id="none"),
        pytest.param(["203.0.113.9"], "203.0.113.9", id="one"),
        pytest.param(["198.51.100.1, 203.0.113.9"], "203.0.113.9", id="what-the-client-wrote-stands-left"),
        pytest.param(["203.0.113.9, 10.1.1.1, 10.2.2.2"], "203.0.113.9", id="chain-of-proxies"),
        pytest.param(["198.51.100.1", "203.0.113.9"], "203.0.113.9", id="two-lines"),
        pytest.param(["203.0.113.9", "10.1.1.1"], "203.0.113.9", id="two-lines-of-a-chain"),
        pytest.param(["unknown, 203.0.113.9"], "203.0.113.9", id="garbage-left-of-the-client"),
        pytest.param(["203.0.113.9, unknown"], "127.0.0.1", id="garbage"),
        pytest.param(["203.0.113.9, unknown, 10.1.1.1"], "127.0.0.1", id="garbage-within-the-chain"),
        pytest.param(["203.0.113.9,"], "127.0.0.1", id="an-empty-entry"),
        pytest.param([""], "127.0.0.1", id="empty"),
        pytest.param(["10.1.1.1, 10.2.2.2"], "10.1.1.1", id="only-proxies"),
        pytest.param([", ".join(["10.1.1.1"] * 100)], "127.0.0.1", id="a-chain-without-end"),
        pytest.param(["203.0.113.9:4711"], "203.0.113.9", id="with-a-port"),
        pytest.param(["2001:DB8:0::9"], "2001:db8::9", id="ipv6"),
        pytest.param(["[2001:db8::9]:4711"], "2001:db8::9", id="ipv6-with-a-port"),
        pytest.param(["::ffff:203.0.113.9"], "203.0.113.9", id="ipv4-in-ipv6"),
        pytest.param(["203.0.113.09"], "127.0.0.1", id="no-address"),
    ],
)
async def test_the_client_is_the_rightmost_that_is_no_proxy(serve: Serve, lines: list[str], client: str) -> None:
    served = await serve(app=app, trusted_proxies=(*HERE, "10.0.0.0/8"))
    assert await peer_of(served, b"", *forwarded(*lines)) == client
    async with Raw(served.port) as connection:
        assert (await asked(connection, *forwarded(*lines))).split(" ")[0] == client


async def test_requests_of_many_clients_on_one_connection_are_each_their_own(serve: Serve) -> None:
    served = await serve(app=app, trusted_proxies=HERE, max_connections_per_address=1)
    async with Raw(served.port) as client:
        assert (await asked(client, *forwarded("203.0.113.1"))).startswith("203.0.113.1 ")
        assert (await asked(client)).startswith("127.0.0.1 ")
        assert (await asked(client, *forwarded("203.0.113.2"))).startswith("203.0.113.2 ")
        assert served.counted_addresses == {"203.0.113.2": 1}
    await settled(served)


async def test_b08_a_client_over_its_cap_is_refused_on_a_connection_that_it_shares_with_others(serve: Serve) -> None:
    served = await serve(app=app, trusted_proxies=HERE, max_connections_per_address=1)
    async with Raw(served.port) as own, Raw(served.port) as shared:
        own.write(head(*forwarded("203.0.113.1")))
        assert (await own.head()).startswith(b"HTTP/1.1 101 ")
        for _ in range(2):
            assert (await asked(shared, *forwarded("203.0.113.2"))).startswith("203.0.113.2 ")
        for path in ("/who", PATH):
            shared.write(
                f"GET {path} HTTP/1.1\r\nHost: chat.example.com\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n".encode()
            )
        response = await shared.rest()  # one answer, then the end
        assert response.startswith(b"HTTP/1.1 429 ")
        assert response.count(b"HTTP/1.1 ") == 1
        assert b"\r\nRetry-After: 2\r\n" in response
        assert served.refused == {"max_connections_per_address": 1}
    await settled(served)


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["http"], "http"),
        (["https", "https"], "http"),
        (["https, http"], "http"),
        (["ftp"], "http"),
        ([""], "http"),
    ],
)
async def test_a_trusted_proxy_says_whether_the_client_speaks_tls(serve: Serve, lines: list[str], scheme: str) -> None:
    served = await serve(app=app, trusted_proxies=HERE)
    async with Raw(served.port) as client:
        said = await asked(client, *(f"X-Forwarded-Proto: {line}" for line in lines))
    assert said == f"127.0.0.1 {scheme}://chat.example.com/who"


async def test_the_own_origin_is_allowed_behind_a_proxy_that_ends_tls(serve: Serve) -> None:
    served = await serve(trusted_proxies=HERE)
    headers = ("Origin: https://edge.example.com", "X-Forwarded-Proto: https", *forwarded("203.0.113.9"))
    assert await peer_of(served, b"", *headers) == "203.0.113.9"


async def settled(served: Served) -> None:
    """Wait until every connection is over, and nothing is counted any more."""
    async with asyncio.timeout(LIMIT_S):
        while served.listener.admission.open:
            await asyncio.sleep(0.005)
    assert served.counted_addresses == {}


async def test_the_cap_per_address_counts_clients_and_not_the_balancer(serve: Serve) -> None:
    served = await serve(trusted_proxies=HERE, max_connections_per_address=2)
    clients = []
    for address in ("203.0.113.1", "203.0.113.1", "203.0.113.2", "203.0.113.2"):
        client = await Raw(served.port).__aenter__()
        client.write(head(*forwarded(address)))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        clients.append(client)
    status, response = await served.answer(head(*forwarded("203.0.113.1")))
    assert status == 429
    assert b"\r\nRetry-After: " in response
    assert (await served.answer(head(*forwarded("2001:db8::1"), without="Upgrade")))[0] == 426
    clients[0].writer.close()
    await clients[0].rest()
    async with asyncio.timeout(LIMIT_S):
        while served.counted_addresses.get("203.0.113.1") != 1:
            await asyncio.sleep(0.005)
    assert await peer_of(served, b"", *forwarded("203.0.113.1")) == "203.0.113.1"
    for client in clients:
        client.writer.close()
    await settled(served)


async def test_connections_that_say_nothing_count_for_a_client_but_not_for_a_balancer(serve: Serve) -> None:
    plain = await serve(max_connections_per_address=1)
    behind = await serve(trusted_proxies=HERE, max_connections_per_address=1)
    for served, status in ((plain, 429), (behind, 426)):
        async with Raw(served.port) as silent:
            silent.write(b"GET")
            assert (await served.answer(head(without="Upgrade")))[0] == status
        await settled(served)


# PROXY headers.


@pytest.mark.parametrize("split", [0, 1, 5, 13, 20])
@pytest.mark.parametrize(
    ("header", "client"),
    [
        pytest.param(v1("203.0.113.9"), "203.0.113.9", id="v1"),
        pytest.param(v1("2001:db8::9"), "2001:db8::9", id="v1-ipv6"),
        pytest.param(b"PROXY UNKNOWN\r\n", "127.0.0.1", id="v1-unknown"),
        pytest.param(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1", id="v1-unknown-with-addresses"),
        pytest.param(v2("203.0.113.9"), "203.0.113.9", id="v2"),
        pytest.param(v2("2001:db8::9"), "2001:db8::9", id="v2-ipv6"),
        pytest.param(
            v2("203.0.113.9", tlvs=b"\x04\x00\x03abc\x20\x00\x05\x01\x00\x00\x00\x00"), "203.0.113.9", id="v2-tlvs"
        ),
        pytest.param(v2("203.0.113.9", tlvs=b"\xea" * 2_000), "203.0.113.9", id="v2-many-tlvs"),
        pytest.param(v2("203.0.113.9", command=0x20), "127.0.0.1", id="v2-local"),
        pytest.param(SIGNATURE + b"\x20\x00\x00\x00", "127.0.0.1", id="v2-local-empty"),
        pytest.param(SIGNATURE + b"\x21\x00\x00\x00", "127.0.0.1", id="v2-unspecified"),
        pytest.param(v2("::ffff:203.0.113.9", family=0x21), "203.0.113.9", id="v2-ipv4-in-ipv6"),
    ],
)
async def test_a_trusted_proxy_names_the_client(serve: Serve, header: bytes, client: str, split: int) -> None:
    served = await serve(trusted_proxies=HERE, proxy_protocol=True)
    async with Raw(served.port) as connection:
        connection.write(header[:split])
        await connection.writer.drain()
        await asyncio.sleep(0)
        connection.write(header[split:] + head())
        assert (await connection.head()).startswith(b"HTTP/1.1 101 ")
    assert served.handlers[-1].info.peer == client


async def test_the_http_application_sees_the_client_that_a_proxy_header_names(serve: Serve) -> None:
    served = await serve(app=app, trusted_proxies=HERE, proxy_protocol=True, max_connections_per_address=1)
    async with Raw(served.port) as client:
        client.write(v2("203.0.113.9"))
        assert (await asked(client)).startswith("203.0.113.9 ")
        spoofed = await asked(client, *forwarded("198.51.100.7"), "X-Forwarded-Proto: https")
        assert spoofed == "203.0.113.9 http://chat.example.com/who"
        assert (await served.answer(v2("203.0.113.9") + head()))[0] == 429
    await settled(served)


async def test_what_a_client_behind_a_proxy_header_says_is_ignored_unless_it_is_a_proxy_itself(serve: Serve) -> None:
    served = await serve(trusted_proxies=(*HERE, "10.0.0.0/8"), proxy_protocol=True)
    assert await peer_of(served, v2("203.0.113.9"), *forwarded("198.51.100.7")) == "203.0.113.9"
    assert await peer_of(served, v2("10.0.0.5"), *forwarded("198.51.100.7")) == "198.51.100.7"


@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("203.0.113.9"), b"PROXY UNKNOWN\r\n"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"trusted_proxies": ELSEWHERE, "proxy_protocol": True}, id="untrusted"),
        pytest.param({"trusted_proxies": HERE}, id="off"),
        pytest.param({}, id="nobody-is-trusted"),
    ],
)
async def test_a_proxy_header_that_nobody_asked_for_is_a_bad_request(
    serve: Serve, header: bytes, options: dict[str, object]
) -> None:
    served = await serve(**options)
    assert (await served.answer(header + head()))[0] == 400
    assert served.refused == {"malformed": 1}
    assert served.handlers == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(head(), id="no-header"),
        pytest.param(b"\x16\x03\x01", id="tls"),
        pytest.param(b"PROXY TCP4 203.0.113.9\r\n", id="v1-short"),
        pytest.param(b"PROXY TCP4 2001:db8::9 2001:db8::9 1 2\r\n", id="v1-family"),
        pytest.param(b"PROXY TCP4 203.0.113.9 203.0.113.9 1 65536\r\n", id="v1-port"),
        pytest.param(b"PROXY TCP4 203.0.113.999 203.0.113.9 1 2\r\n", id="v1-address"),
        pytest.param(b"PROXY TCP4  203.0.113.9 203.0.113.9 1 2\r\n", id="v1-blanks"),
        pytest.param(b"PROXY " + b"T" * 101, id="v1-oversize"),
        pytest.param(v2("203.0.113.9", command=0x22), id="v2-command"),
        pytest.param(v2("203.0.113.9", command=0x11), id="v2-version"),
        pytest.param(v2("203.0.113.9", family=0x12), id="v2-udp"),
        pytest.param(v2("203.0.113.9", family=0x21), id="v2-too-short-for-its-family"),
        pytest.param(v2("203.0.113.9", size=4_097), id="v2-oversize"),
        pytest.param(v2("203.0.113.9") + v2("198.51.100.7"), id="two"),
    ],
)
async def test_a_trusted_proxy_must_send_a_good_header(serve: Serve, data: bytes) -> None:
    served = await serve(trusted_proxies=HERE, proxy_protocol=True)
    status, _ = await served.answer(data)
    assert status == 400
    assert served.handlers == []
    assert sum(served.refused.values()) == 1


@pytest.mark.parametrize("half", [b"", b"PROXY TCP4 203.0", SIGNATURE[:7], v2("203.0.113.9")[:20], v2("203.0.113.9")])
async def test_half_a_proxy_header_then_silence_is_closed(serve: Serve, half: bytes) -> None:
    served = await serve(trusted_proxies=HERE, proxy_protocol=True, handshake_timeout_s=0.1)
    assert await served.answer(half) == (0, b"")
    assert served.refused == {"timeout": 1}
    await settled(served)


@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("2001:db8::9", tlvs=b"\x04\x00\x01a"), b"PROXY UNKNOWN\r\n"])
def test_a_header_is_read_alike_however_its_bytes_arrive(header: bytes) -> None:
    whole = ProxyHeader()
    assert whole.feed(header + b"GET") == b"GET"
    piecewise = ProxyHeader()
    for byte in header[:-1]:
        assert piecewise.feed(bytes((byte,))) is None
    assert piecewise.feed(header[-1:] + b"GET") == b"GET"
    assert piecewise.source == whole.source


def test_bytes_that_begin_no_header_are_refused_at_the_first_of_them() -> None:
    for data in (b"G", b"PROXX", SIGNATURE[:11] + b"x"):
        with pytest.raises(Refused) as refused:
            ProxyHeader().feed(data)
        assert (refused.value.status, refused.value.reason) == (400, "proxy_protocol")


# Settings.


@pytest.mark.parametrize("entry", ["balancer", "10.0.0.0/33", "10.0.0.1/8", "10.0.0", "*", "[::1]"])
def test_what_is_neither_address_nor_network_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_TRUSTED_PROXIES"):
        TrustedProxies(["10.0.0.0/8", entry])


async def test_proxy_headers_of_nobody_are_a_wrong_setting(serve: Serve) -> None:
    assert TransportOptions().trusted_proxies == ()
    with pytest.raises(ConfigError, match=r"EDGE_PROXY_PROTOCOL.*EDGE_TRUSTED_PROXIES"):
        await serve(proxy_protocol=True)


def test_networks_hold_the_addresses_of_their_family() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"])
    inside = ["10.255.0.1", "::ffff:10.0.0.1", "2001:db8::1", "192.0.2.7"]
    outside = ["11.0.0.1", "2001:db9::1", "192.0.2.8", "", "x", "::a00:1"]
    assert [address for address in [*inside, *outside] if address in proxies] == inside


def test_an_address_is_written_in_one_way() -> None:
    assert [canonical(text) for text in ("::FFFF:192.0.2.7", "2001:DB8:0:0::1", "", "x")] == [
        "192.0.2.7",
        "2001:db8::1",
        "",
        "x",
    ]
