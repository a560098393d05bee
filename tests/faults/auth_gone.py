"""Auth is gone: sessions stay, valid tokens come in, and nobody else does."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.faults.members import ANSWER_S, BASE_S, EXPIRED_TOKEN, INVALID_TOKEN, Member, outcome
from tests.faults.scenario import World
from verify.measure import percentile

_PASSWORD = "correct horse battery"
AUTH_GONE_S = 60.0
_REFUSED_WITHIN_S = 3.0
_BACK_WITHIN_S = 10.0


async def kill_auth(world: World) -> None:
    """Keep sessions, let in valid tokens and nobody else.

    Refreshes are refused, and work again afterwards.
    """
    stack = world.stack
    async with AsyncExitStack() as exits:
        http = await exits.enter_async_context(httpx.AsyncClient(base_url=stack.http_urls[0], timeout=ANSWER_S))
        pairs = [await _register(http) for _ in range(3)]
        members = [await Member.join(url, pair["token"]) for url in stack.ws_urls for pair in pairs]
        for member in members:
            exits.callback(member.leave)
        forged = forgeries(pairs[0]["token"], stack.secret)
        connects: list[float] = []
        refused: list[float] = []
        turned_away = 0
        await world.until(BASE_S)
        async with world.fault("auth killed"):
            await world.do(stack.kill9, "auth")
            ends = time.monotonic() + AUTH_GONE_S
            number = 0
            while time.monotonic() < ends:
                url, pair = stack.ws_urls[number % len(stack.ws_urls)], pairs[number % len(pairs)]
                began = time.monotonic()
                if code := await outcome(url, pair["token"]):
                    world.findings.append(f"a valid token was refused with {code}")
                connects.append(time.monotonic() - began)
                began = time.monotonic()
                response = await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
                refused.append(time.monotonic() - began)
                if response.status_code != 503 or "retry-after" not in response.headers:
                    world.findings.append(f"a refresh was answered with {response.status_code}")
                for what, token in forged.items():
                    if await outcome(url, token) not in (INVALID_TOKEN, EXPIRED_TOKEN):
                        world.findings.append(f"{what} was not refused")
                    turned_away += 1
                key = await http.post("/api/info", json={}, headers={"X-API-Key": secrets.token_urlsafe(32)})
                if key.status_code != 401:
                    world.findings.append(f"an unknown API key was answered with {key.status_code}")
                number += 1
                await asyncio.sleep(1.0)
            await world.do(stack.start, "auth")
        back = time.monotonic()
        while (await _refreshed(http, pairs[0])) != 200:
            if time.monotonic() - back > _BACK_WITHIN_S:
                world.findings.append(f"no refresh within {_BACK_WITHIN_S:g} s of auth's return")
                break
            await asyncio.sleep(0.1)
        back_s = time.monotonic() - back
        lost = [member for member in members if not member.is_open]
        if lost:
            world.findings.append(f"{len(lost)} of {len(members)} sessions ended")
        if max(refused) > _REFUSED_WITHIN_S:
            world.findings.append(f"a refresh was refused after {max(refused):.2f} s")
        world.remarks.append(
            f"{len(members)} sessions stayed; {len(connects)} connects by cached keys, p99 "
            f"{percentile(connects, 0.99) * 1e3:.0f} ms; {len(refused)} refreshes refused, slowest "
            f"{max(refused) * 1e3:.0f} ms; {turned_away} forged tokens refused; "
            f"refreshed {back_s:.1f} s after the return"
        )


def forgeries(good: str, secret: str) -> dict[str, str]:
    """Tokens that nobody may come in with.

    `good` is one of auth, `secret` that of HS256 tokens.
    """
    kid = jwt.get_unverified_header(good)["kid"]
    claims: dict[str, Any] = {**jwt.decode(good, options={"verify_signature": False}), "sub": "mallory"}
    head, _, signature = good.split(".")
    other = jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": kid})
    return {
        "garbage": "garbage",
        "a token without a signature": jwt.encode(claims, "", algorithm="none", headers={"kid": kid}),
        "a token of another key": other,
        "a token of another secret": jwt.encode(claims, secret[::-1] + "x", algorithm="HS256"),
        "a token of an unknown key": jwt.encode(
            claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": "unknown"}
        ),
        "other claims under a good signature": f"{head}.{other.split('.')[1]}.{signature}",
        "an expired token": jwt.encode({"sub": "mallory", "exp": time.time() - 60}, secret, algorithm="HS256"),
    }


async def _register(http: httpx.AsyncClient) -> dict[str, Any]:
    account = {"username": f"user-{secrets.token_hex(6)}", "password": _PASSWORD}
    response = await http.post("/auth/register", json=account)
    pair: dict[str, Any] = response.raise_for_status().json()["result"]
    return {**pair, "token": pair["access_token"], "user": account["username"]}


async def _refreshed(http: httpx.AsyncClient, pair: dict[str, Any]) -> int:
    return (await http.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code
