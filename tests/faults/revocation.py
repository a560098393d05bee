"""A user is revoked: on every edge connections end and old tokens are refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.faults.members import ANSWER_S, BASE_S, INVALID_TOKEN, REVOKED_CLOSE, Member, outcome, publish_numbers
from tests.faults.scenario import World
from tests.support.tcp_proxy import BackgroundProxy, TcpProxy
from verify.socket import Closed, CommandError

_REVOKED_WITHIN_S = 5.0
_WATCHED_S = 20.0  # how long revoked tokens are tried
_CUT_S = 10.0
REVOCATION_ENDS_S = BASE_S + _WATCHED_S + 6.0


async def revoke_user(world: World) -> None:
    """Close the user's connections, refuse the tokens, accept a new sign-in."""
    await world.until(BASE_S)
    async with _revoked_ones(world) as (tokens, members, bystanders), world.fault("user revoked"):
        began = time.monotonic()
        await _revoke(world, tokens.user)
        closes = await _all_closed(world, members, began)
        tried = 0
        while time.monotonic() < began + _WATCHED_S:
            for url in world.stack.ws_urls:
                for token in tokens.all:
                    if (code := await outcome(url, token)) != INVALID_TOKEN:
                        world.findings.append(f"a revoked token was answered with {code}")
                    tried += 1
            await asyncio.sleep(1.0)
        for url in world.stack.ws_urls:
            if code := await outcome(url, world.stack.token(tokens.user, iat=time.time())):
                world.findings.append(f"a token of after the revocation was refused with {code}")
        _expect_open(world, bystanders)
        world.remarks.append(f"{len(closes)} closed 3503 within {max(closes):.2f} s; {tried} connects refused")


async def revoke_user_beside_a_cut(world: World) -> None:
    """An edge without Redis hears of it before it delivers anything new to the user."""
    stack, proxy = world.stack, world.extras["proxy"]
    assert isinstance(proxy, BackgroundProxy)
    await world.until(BASE_S)
    channel = f"live:f24-{world.seed}"
    async with _revoked_ones(world, channel) as (tokens, members, bystanders):
        cut_off = [member for member in members if member.url == stack.ws_urls[0]]
        others = [member for member in members if member.url != stack.ws_urls[0]]
        probes: list[Member] = []
        came_in: list[Member] = []
        async with world.fault("user revoked while edge-1 is cut from Redis"):
            proxy.do(TcpProxy.cut)
            await asyncio.sleep(1.0)
            began = time.monotonic()
            await _revoke(world, tokens.user, edge=1)
            publishing = asyncio.create_task(publish_numbers(world, channel, began + _CUT_S + _WATCHED_S / 2, edge=1))
            probing = asyncio.create_task(_probe(stack.ws_urls[0], tokens.all, channel, probes))
            try:
                closes = await _all_closed(world, others, began)
                await asyncio.sleep(max(0.0, began + _CUT_S - time.monotonic()))
                still = sum(member.is_open for member in cut_off)
                healed = time.monotonic()
                proxy.do(TcpProxy.heal)
                after = await _all_closed(world, cut_off, healed)
                knows = time.monotonic()
                count = await publishing
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)
        came_in = [probe for probe in probes if probe.began > knows]
        if still < len(cut_off):
            world.findings.append(f"only {still} of {len(cut_off)} stayed on the edge that was cut off")
        if came_in:
            world.findings.append(f"{len(came_in)} came in with a revoked token after the edge knew of it")
        fed = [member for member in (*cut_off, *probes) if member.received]
        if fed:
            world.findings.append(f"{len(fed)} revoked clients got publications of after the revocation")
        if not all(member.received == list(range(count)) for member in bystanders):
            world.findings.append("a bystander missed a publication")
        _expect_open(world, bystanders)
        world.remarks.append(
            f"other edges closed {len(closes)} within {max(closes):.2f} s; {still} stayed on edge-1 while it was cut "
            f"off, and were closed 3503 within {max(after):.2f} s of its return; none of {count} publications reached "
            f"them, nor {len(probes)} that connected to edge-1 meanwhile"
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of a user, in every form that a revocation of the user covers."""

    user: str
    all: Sequence[str]


@asynccontextmanager
async def _revoked_ones(
    world: World, *channels: str
) -> AsyncIterator[tuple[Tokens, Sequence[Member], Sequence[Member]]]:
    """Connections of the user to every edge, and of another user.

    All end with the block.
    """
    stack = world.stack
    user = f"revoked-{world.seed}"
    tokens = Tokens(
        user, [stack.token(user), stack.token(user, iat=time.time() - 5), stack.token(user, sid="s", jti="j")]
    )
    async with AsyncExitStack() as exits:
        members = [await Member.join(url, token, *channels) for url in stack.ws_urls for token in tokens.all]
        bystanders = [await Member.join(url, stack.token("bystander"), *channels) for url in stack.ws_urls]
        for member in (*members, *bystanders):
            exits.callback(member.leave)
        yield tokens, members, bystanders


async def _revoke(world: World, user: str, *, edge: int = 0) -> None:
    """Revoke the user by the server API.

    An edge that does not answer makes the outcome unknown: error 100.
    """
    headers = {"X-API-Key": world.stack.api_key}
    async with httpx.AsyncClient(base_url=world.stack.http_urls[edge], headers=headers, timeout=ANSWER_S) as http:
        response = (await http.post("/api/revoke", json={"user": user})).json()
    if response.get("error", {}).get("code", 100) != 100:
        world.findings.append(f"the revocation was answered with {response}")


async def _all_closed(world: World, members: Sequence[Member], since: float) -> list[float]:
    """Wait for the closes; return how many seconds each came after that moment."""
    left_s = since + _REVOKED_WITHIN_S - time.monotonic()
    await asyncio.wait([asyncio.create_task(member.ended.wait()) for member in members], timeout=max(0.0, left_s))
    for member in members:
        if member.code != REVOKED_CLOSE:
            world.findings.append(f"a revoked connection to {member.url} ended with {member.code}, 0: not at all")
    return [member.closed_at - since for member in members if member.closed_at] or [float("nan")]


async def _probe(url: str, tokens: Sequence[str], channel: str, probes: list[Member]) -> None:
    """Connect with the tokens again and again; keep who came in."""
    while True:
        for token in tokens:
            try:
                probes.append(await Member.join(url, token))
            except (Closed, CommandError, TimeoutError):
                continue
            with_channel = asyncio.ensure_future(probes[-1].call(subscribe={"channel": channel}))
            await asyncio.gather(with_channel, return_exceptions=True)
        await asyncio.sleep(0.1)


def _expect_open(world: World, members: Sequence[Member]) -> None:
    ended = [member.code for member in members if not member.is_open]
    if ended:
        world.findings.append(f"connections of others ended, with {ended}")
