"""Each way to bring a token that centrifuge-python has.

Run by test_ways_in.py, as `scenarios.py` is by its test.

It has no option for subprotocols.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

from centrifuge import CentrifugeError, Client
from scenarios import LIMIT_S, Harness, SubEvents, subscribe  # type: ignore[import-not-found]  # beside it

MISSED = 20


async def ways(h: Harness) -> dict[str, dict[str, Any]]:
    token = str(await h.token("alice"))

    async def get_token() -> str:
        return token

    cookies = {name: {"Origin": h.config["own"], "Cookie": f"thalamus_session={name}"} for name in (token, "expired")}
    return {
        "token": {"token": token},
        "get_token": {"get_token": get_token},
        "Authorization header": {"headers": {"Authorization": f"Bearer {token}"}},
        "cookie": {"headers": cookies[token]},
        "bad cookie, get_token": {"headers": cookies["expired"], "get_token": get_token},
        "token in the query": {"query": f"?token={token}"},
    }


async def main() -> None:
    h = Harness(json.loads(sys.stdin.readline()))
    opened: list[tuple[str, Client, SubEvents]] = []
    try:
        async with asyncio.timeout(60):
            for name, options in (await ways(h)).items():
                address = h.config["proxied2"] + options.pop("query", "")
                client = Client(address, min_reconnect_delay=0.05, max_reconnect_delay=0.3, **options)
                h.clients.append(client)
                await client.connect()
                _, events = await subscribe(client, h.config["channel"])
                opened.append((name, client, events))
            await h.ask(do="cut")
            for _, _, events in opened:
                await events.wait("on_subscribing")
                await events.wait("on_subscribing")  # the first is that of the start
            await h.ask(do="fill", channel=h.config["channel"], count=MISSED)
            await h.ask(do="heal")
            for name, _, events in opened:
                subscribed = await events.wait("on_subscribed", limit_s=LIMIT_S)
                assert subscribed.recovered, (name, subscribed)
                while len(events.publications()) < MISSED:
                    await events.wait("on_publication")
                assert [pub.data["n"] for pub in events.publications()] == list(range(1, MISSED + 1)), name
    finally:
        for client in h.clients:
            with contextlib.suppress(CentrifugeError):
                await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
