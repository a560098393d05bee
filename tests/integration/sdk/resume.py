"""Away while the token expires, with centrifuge-python; run by test_resume.py.

The contract is that of scenarios.py.

argv: `back` (the client is back in time) or `late`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

from centrifuge import CentrifugeError
from scenarios import Events, Harness, SubEvents, subscribe  # type: ignore[import-not-found]  # beside it

MISSED = 50
LIMIT_S = 30.0


async def main(back: bool) -> None:
    h = Harness(json.loads(sys.stdin.readline()))
    asked = 0
    may_sign_in = False
    channel = h.config["channel"]

    async def get_token() -> str:
        nonlocal asked
        asked += 1
        if not may_sign_in:
            raise OSError("the login server is down")
        return str(await h.token("alice", 300))

    token = await h.token("alice", 0)  # of auth; it has its own lifetime
    events = Events()
    client = h.client("proxied1", events, token=token, get_token=get_token, max_reconnect_delay=0.3)
    sub_events: SubEvents
    try:
        await client.connect()
        _, sub_events = await subscribe(client, channel)
        await h.ask(do="cut")
        await sub_events.wait("on_subscribing")
        await sub_events.wait("on_subscribing")  # the first is that of the start
        may_sign_in = not back
        asked = 0
        await h.ask(do="fill", channel=channel, count=MISSED)  # returns when the client has been away long enough
        await h.ask(do="heal")
        subscribed = await sub_events.wait("on_subscribed", limit_s=LIMIT_S)
        asked_before = asked
        assert subscribed.recovered, subscribed
        while len(sub_events.publications()) < MISSED:
            await sub_events.wait("on_publication", limit_s=LIMIT_S)
        assert [pub.data["n"] for pub in sub_events.publications()] == list(range(1, MISSED + 1))
        assert asked_before == (0 if back else 1), asked_before
        if back:  # a fresh token is asked for soon, and again while there is none
            may_sign_in = True
            async with asyncio.timeout(LIMIT_S):
                while not asked:
                    await asyncio.sleep(0.05)
    finally:
        with contextlib.suppress(CentrifugeError):
            await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] == "back"))
