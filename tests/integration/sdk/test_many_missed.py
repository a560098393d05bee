"""Thousands missed in a `stored` channel, far more than one reply carries.

50,000 in `make test-full`.

By the official SDKs as they are, and by a client of 100 KB/s, on a whole stack. With `-s` each says how long it took.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from urllib.parse import urlsplit

import pytest

from tests.edge.transport.support import Raw, head
from tests.support.filling import fill
from tests.support.full import sized
from tests.support.peak_rss import PeakRss
from tests.support.sdk import SDKS, run_scenario
from tests.support.served_edge import SlowReader, commands
from tests.support.stack import Stack
from tests.support.tcp_proxy import TcpProxy

KIB = 1_024
MISSED = sized(3_000, 50_000)
RISES_KIB = 48 * KIB  # what is held for a client does not grow with what it missed; pages of the log may be shared
CUT_AFTER = max(
    80 * KIB, MISSED * 20
)  # bytes; a reply has up to 64 KiB of publications, all of them about 100 bytes each
TAKES_S = 60 + MISSED / 200


def told(what: str, began: float, peak: PeakRss) -> None:
    """What `-s` shows, and that memory stayed where it has to."""
    took_s, risen_mib = time.monotonic() - began, peak.risen_kib() / KIB
    print(f"{what}: {MISSED:,} in {took_s:.1f} s, edge {peak.before_kib / KIB:.1f} MiB +{risen_mib:.1f} MiB at most")
    assert peak.risen_kib() <= RISES_KIB


@pytest.mark.parametrize("cut_after", [None, CUT_AFTER], ids=["whole", "cut"])
@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.slow
async def test_an_official_sdk_recovers_all_of_them_in_order(
    sdk: str, cut_after: int | None, request: pytest.FixtureRequest, stack: Stack
) -> None:
    """Also where each connection is reset amid the pages.

    It goes on behind the last one that it got.
    """
    command: list[str] = request.getfixturevalue(SDKS[sdk])
    edge1, edge2 = stack.ws_urls[:2]
    address = urlsplit(edge2)
    assert address.hostname is not None
    assert address.port is not None
    async with TcpProxy(address.hostname, address.port) as proxy:
        addresses = {
            "edge1": edge1,
            "edge2": edge2,
            "proxied2": edge2.replace(address.netloc, f"127.0.0.1:{proxy.port}"),
            "run": secrets.token_hex(4),
            "missed": str(MISSED),
            "cuts": "yes" if cut_after else "",
        }
        began, peak = 0.0, PeakRss(stack.pid("edge-2"))

        def token(user: str, ttl_s: float, claims: dict[str, object]) -> str:
            return stack.token(user, ttl_s=ttl_s, **claims)

        async def publish(channel: str, count: int) -> None:
            nonlocal began, peak
            await fill(stack, channel, count, first=1)
            proxy.cut_after = cut_after
            began, peak = time.monotonic(), PeakRss(stack.pid("edge-2"))

        code, errors = await run_scenario(
            [*command, "many_missed"], addresses, token, proxy, publish, limit_s=120 + TAKES_S
        )
    assert code == 0, errors
    told(f"{sdk}, cut after {cut_after:,} bytes" if cut_after else sdk, began, peak)


async def test_a_client_of_100_kb_a_second_gets_all_of_them_then_what_is_live(stack: Stack) -> None:
    channel = f"chat:slow-{secrets.token_hex(4)}"
    epoch = await fill(stack, channel, MISSED)
    port = urlsplit(stack.ws_urls[1]).port
    assert port is not None
    began, peak = time.monotonic(), PeakRss(stack.pid("edge-2"))
    async with Raw(port, receive_buffer=16 * KIB) as client:
        client.write(head())
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        wish = {"channel": channel, "recover": True, "recoverable": True, "epoch": epoch}
        client.write(commands({"connect": {"token": stack.token("slow")}}, {"subscribe": wish}))
        reader = SlowReader(client, 100_000)
        (line,) = await reader.until(1, "subscribe", 30)
        assert line["subscribe"]["recovered"] is True
        got = [one["offset"] for one in line["subscribe"]["publications"]]
        live = asyncio.create_task(fill(stack, channel, 1, first=MISSED))
        pushes = await reader.until(MISSED + 1 - len(got), "push", TAKES_S)
        await live
        got += [one["push"]["pub"]["offset"] for one in pushes]
        assert got == list(range(1, MISSED + 2))
    told(f"100 KB/s, {reader.read_bytes / 1e6:.1f} MB", began, peak)
