"""Tokens expire during sessions.

Who refreshes in time stays, the others are closed in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import AsyncExitStack

from tests.faults.members import ANSWER_S, BASE_S, EXPIRED_CLOSE, EXPIRED_TOKEN, INVALID_TOKEN, Member, publish_numbers
from tests.faults.scenario import World
from tests.support.wire_client import WireClient
from verify.socket import Closed, CommandError

LIFE_S = 12.0  # of a token, seconds
_CLOSE_DELAY_S = 25.0  # EDGEEXPIRED_CLOSE_CLOSE_DELAY_S
_LATE_S = 1.5  # of a close: deadlines are looked at twice a second, and the machine is busy
EXPIRY_ENDS_S = BASE_S + LIFE_S + _CLOSE_DELAY_S + 5.0


async def expire_tokens(world: World) -> None:
    """Warn clients before, keep those that refresh, close the others in time."""
    stack = world.stack
    channel = f"live:f23-{world.seed}"
    await world.until(BASE_S)
    async with AsyncExitStack() as exits, world.fault(f"tokens expire after {LIFE_S:g} s"):
        began, wall = time.monotonic(), time.time()
        expires = began + LIFE_S

        def token(user: str) -> str:
            return stack.token(user, exp=wall + LIFE_S, ttl_s=None)

        fresh = [await Member.join(url, token("fresh"), channel) for url in stack.ws_urls for _ in range(3)]
        silent = [await Member.join(url, token("silent"), channel) for url in stack.ws_urls for _ in range(3)]
        stranger = await Member.join(stack.ws_urls[0], token("fresh"), channel)
        late = await Member.join(stack.ws_urls[0], token("fresh"), channel)
        for member in (*fresh, *silent, stranger, late):
            exits.callback(member.leave)
        by_handshake = await exits.enter_async_context(
            WireClient(stack.ws_urls[0], headers={"Authorization": f"Bearer {token('handshake')}"})
        )
        unannounced = await by_handshake.connect()
        if "expires" in unannounced:
            world.findings.append("a client that can't refresh is told to")
        ttls = [member.connected.get("ttl", 0) for member in (*fresh, *silent)]
        if not all(member.connected.get("expires") for member in (*fresh, *silent)):
            world.findings.append("a client was not told that its token expires")
        if not 0 < max(ttls) <= LIFE_S - 1:
            world.findings.append(f"ttl of {max(ttls)} s for tokens of {LIFE_S:g} s")
        publishing = asyncio.create_task(publish_numbers(world, channel, began + EXPIRY_ENDS_S - BASE_S))
        refreshes = [asyncio.create_task(_keep_fresh(world, member)) for member in fresh]
        try:
            await asyncio.sleep(min(ttls))
            code = await _refresh_outcome(stranger, stack.token("somebody-else"))
            if code != INVALID_TOKEN:
                world.findings.append(f"a refresh with another user's token ended with {code}")
            code = await _refresh_outcome(late, stack.token("fresh", ttl_s=-1))
            if code != EXPIRED_CLOSE:
                world.findings.append(f"a refresh with an expired token ended with {code}")
            handshake_late = await _closed_after(by_handshake, expires)
            await asyncio.sleep(max(0.0, expires + 1.0 - time.monotonic()))
            for member in silent:
                try:
                    await member.call(publish={"channel": channel, "data": "late"})
                    world.findings.append("a command was executed after the expiry")
                except CommandError as error:
                    if error.code != EXPIRED_TOKEN:
                        world.findings.append(f"a command after the expiry was answered with {error.code}")
            count = await publishing
        finally:
            for task in (publishing, *refreshes):
                task.cancel()
        lates = [member.closed_at - expires - _CLOSE_DELAY_S for member in silent if member.closed_at]
        if len(lates) < len(silent) or {member.code for member in silent} != {EXPIRED_CLOSE}:
            world.findings.append(f"silent clients ended with {sorted(member.code for member in silent)}")
        if not all(-0.1 <= late_s <= _LATE_S for late_s in (*lates, handshake_late)):
            world.findings.append(f"closed {min(lates):.2f} to {max(lates):.2f} s late")
        whole = [member for member in fresh if member.is_open and member.received == list(range(count))]
        if len(whole) < len(fresh):
            world.findings.append(f"{len(fresh) - len(whole)} of {len(fresh)} clients that refreshed missed something")
        world.remarks.append(
            f"ttl {min(ttls)} s of {LIFE_S:g} s; {len(whole)} that refreshed stayed and got all {count} publications; "
            f"{len(lates)} that did not were closed 3005 {_CLOSE_DELAY_S:g} s after the expiry and at most "
            f"{max(lates):.2f} s late; by the handshake: 3005 {handshake_late:.2f} s after the expiry"
        )


async def _keep_fresh(world: World, member: Member) -> None:
    """Refresh when the server says so, as SDKs do."""
    ttl = float(member.connected["ttl"])
    while member.is_open:
        await asyncio.sleep(ttl)
        with contextlib.suppress(Closed):
            ttl = float((await member.call(refresh={"token": world.stack.token("fresh", ttl_s=LIFE_S)}))["ttl"])


async def _refresh_outcome(member: Member, token: str) -> int:
    try:
        await member.call(refresh={"token": token})
    except CommandError as error:
        return error.code
    except Closed:
        return member.code
    return 0


async def _closed_after(client: WireClient, when: float) -> float:
    """Seconds from then until its close; NaN if that was not 3005."""
    async with asyncio.timeout(LIFE_S + ANSWER_S):
        await client.socket.wait_closed()
    return time.monotonic() - when if client.socket.close_code == EXPIRED_CLOSE else float("nan")
