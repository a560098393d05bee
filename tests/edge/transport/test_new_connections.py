"""New WebSocket connections of one address: refused with 429 before the upgrade."""

from __future__ import annotations

import asyncio
import random
import time
from fractions import Fraction

import pytest

from services.edge.transport.admission import Admission
from services.edge.transport.http.refusal import Refused
from services.shared.addresses import network_of
from tests.edge.transport.support import Raw, Serve, Served, head
from tests.support.buckets import Bucket

HERE = ("127.0.0.1",)


@pytest.mark.parametrize("seed", range(10))
def test_each_network_has_a_bucket_of_its_own(seed: int) -> None:
    rng = random.Random(seed)
    rate = rng.choice([1, 5, 40])
    now = Fraction(500)
    admission = Admission(100, 0, rate, lambda: float(now))
    networks = {"192.0.2.1": ["192.0.2.1"], "192.0.2.2": ["192.0.2.2"]}
    networks["2001:db8:0:1"] = [f"2001:db8:0:1::{number:x}" for number in range(1, 50)]
    networks["2001:db8:0:2"] = ["2001:db8:0:2:ffff:ffff:ffff:ffff"]
    model = {name: Bucket(Fraction(rate), rate, now) for name in networks}
    for step in range(500):
        now += Fraction(rng.choice([0, 0, 0, 1, 10]), 10 * rate)
        name = rng.choice(list(networks))
        expected = model[name].take(1, now)
        try:
            admission.check_new(rng.choice(networks[name]))
            wait_s = 0
        except Refused as refused:
            (line,) = refused.headers
            wait_s = int(line.removeprefix("Retry-After: "))
        assert (wait_s == 0) == (expected == 0), (seed, step)
        assert expected <= wait_s <= expected + 1, (seed, step)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("no address: at all", "no address: at all"),
        ("", ""),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


async def statuses(served: Served, *addresses: str) -> list[bytes]:
    """Status lines and headers of handshakes that begin at the same time."""

    async def one(address: str) -> bytes:
        async with Raw(served.port) as client:
            client.write(head(f"X-Forwarded-For: {address}"))
            return await client.head()

    return await asyncio.gather(*map(one, addresses))


async def test_of_many_at_once_as_many_are_upgraded_as_the_limit_says(serve: Serve) -> None:
    served = await serve(trusted_proxies=HERE, new_connections_per_address_per_s=10.0)
    started = time.monotonic()
    heads = await statuses(served, *["203.0.113.1"] * 150, "203.0.113.2", "2001:db8::1")
    upgraded = [response for response in heads if response.startswith(b"HTTP/1.1 101 ")]
    refused = [response for response in heads[:150] if response.startswith(b"HTTP/1.1 429 ")]
    most = 10 + 10 * (time.monotonic() - started)
    assert 10 + 2 <= len(upgraded) <= most + 2, "two are of other addresses"
    assert len(upgraded) + len(refused) == 152
    assert all(b"\r\nRetry-After: 1\r\n" in response for response in refused)
    assert served.refused == {"new_connections_per_address": len(refused)}
    await asyncio.sleep(0.25)
    assert (await statuses(served, "203.0.113.1"))[0].startswith(b"HTTP/1.1 101 ")


async def test_addresses_of_one_ipv6_network_share_the_caps_of_an_address(serve: Serve) -> None:
    served = await serve(trusted_proxies=HERE, new_connections_per_address_per_s=1.0)
    first, second = await statuses(served, "2001:db8::1", "2001:db8::2")
    assert {first[:13], second[:13]} == {b"HTTP/1.1 101 ", b"HTTP/1.1 429 "}
    capped = await serve(trusted_proxies=HERE, max_connections_per_address=1)
    async with Raw(capped.port) as client:
        client.write(head("X-Forwarded-For: 2001:db8::1"))
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        assert capped.counted_addresses == {"2001:db8::/64": 1}
        assert (await statuses(capped, "2001:db8::2"))[0].startswith(b"HTTP/1.1 429 ")


async def test_requests_that_are_no_handshakes_take_nothing(serve: Serve) -> None:
    served = await serve(new_connections_per_address_per_s=1.0)
    for _ in range(20):
        assert (await served.answer(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 404
    assert (await statuses(served, "-"))[0].startswith(b"HTTP/1.1 101 ")
