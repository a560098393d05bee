"""Takes part in one conversation with centrifuge-python.

Run by tests/support/participants.py. stdin: first line {"url", "token", "channel"}, then commands {"do": "publish",
"data"}, {"do": "rpc", "method", "data"}, {"do": "end"}. stdout: what the SDK tells, a JSON object per line: {"event":
"publication", "pub"}, "subscribed", "unsubscribed", "error", and "answer" to each command. SDK_ENCODING=protobuf: it
speaks Protobuf.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from centrifuge import CentrifugeError, Client, ReplyError, SubscriptionEventHandler

PROTOBUF = os.environ.get("SDK_ENCODING") == "protobuf"


def payload(value: Any) -> Any:
    return json.dumps(value).encode() if PROTOBUF else value


def value_of(data: Any) -> Any:
    return json.loads(data) if PROTOBUF else data


def say(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


class Told(SubscriptionEventHandler):  # type: ignore[misc]  # the SDK is untyped
    """Says what the SDK tells."""

    async def on_publication(self, ctx: Any) -> None:
        pub = ctx.pub
        user = pub.info.user if pub.info else ""
        say(
            "publication",
            pub={"offset": pub.offset, "data": value_of(pub.data), "info": {"user": user}, "tags": pub.tags},
        )

    async def on_subscribed(self, ctx: Any) -> None:
        position = ctx.stream_position
        say(
            "subscribed",
            was_recovering=ctx.was_recovering,
            recovered=ctx.recovered,
            position={"offset": position.offset, "epoch": position.epoch} if position else None,
        )

    async def on_unsubscribed(self, ctx: Any) -> None:
        say("unsubscribed", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        say("error", code=ctx.code)


async def main() -> None:
    async def following() -> dict[str, Any]:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        command: dict[str, Any] = json.loads(line)
        return command

    config = await following()
    client = Client(
        config["url"],
        token=config["token"],
        use_protobuf=PROTOBUF,
        min_reconnect_delay=0.02,
        max_reconnect_delay=0.2,
    )
    subscription = client.new_subscription(
        config["channel"], events=Told(), min_resubscribe_delay=0.02, max_resubscribe_delay=0.2
    )
    await client.connect()
    await subscription.subscribe()
    while (command := await following())["do"] != "end":
        try:
            if command["do"] == "publish":
                await subscription.publish(payload(command["data"]))
                say("answer", result={})
            else:
                reply = await client.rpc(command["method"], payload(command["data"]))
                say("answer", result=value_of(reply.data))
        except ReplyError as error:
            say("answer", code=error.code)
        except CentrifugeError as error:
            say("answer", code=0, text=str(error))
    await client.disconnect()


if __name__ == "__main__":
    asyncio.run(main())
