"""Behind a balancer the limits of auth count clients, as the balancer names them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import pytest

from tests.support.stack import Stack

ATTEMPTS = 3
WRONG = {"username": "nobody-at-all", "password": "wrong horse battery"}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """`edge-1` believes this machine; `edge-2` believes nobody that could reach it."""
    environment = {"AUTH_ATTEMPTS_PER_ADDRESS": str(ATTEMPTS), "AUTH_LOGINS_PER_ACCOUNT": "1000"}
    environment_of = {"edge-1": {"EDGE_TRUSTED_PROXIES": "127.0.0.1"}, "edge-2": {"EDGE_TRUSTED_PROXIES": "192.0.2.1"}}
    with Stack(environment=environment, environment_of=environment_of) as running:
        yield running


async def test_attempts_are_counted_by_the_client_whom_a_trusted_proxy_names(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.http_urls[0], timeout=10) as balancer:
        for address in ("203.0.113.1", "203.0.113.2", "2001:db8::3"):
            tried = []
            for _ in range(ATTEMPTS + 1):
                spoofed = f"198.51.100.{secrets.randbelow(250)}"  # what the client itself wrote
                headers = {"X-Forwarded-For": f"{spoofed}, {address}"}
                tried.append((await balancer.post("/auth/login", json=WRONG, headers=headers)).status_code)
            assert tried == [401] * ATTEMPTS + [429]


async def test_nobody_else_gets_more_attempts_by_naming_others(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.http_urls[1], timeout=10) as client:
        tried = []
        for number in range(ATTEMPTS + 1):
            headers = {"X-Forwarded-For": f"203.0.113.{100 + number}"}
            tried.append((await client.post("/auth/login", json=WRONG, headers=headers)).status_code)
        assert tried == [401] * ATTEMPTS + [429]
