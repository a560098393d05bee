"""Following channels through lost connections, over real sockets.

The server plays a part.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve

from cli.errors import Refused, Unreachable
from cli.realtime.follow import Follower
from cli.realtime.messages import Error, Position
from cli.realtime.protocol import Event, Published, Subscribed, SubscribeRefused, WireClient
from tests.support.waiting import until

Part = Callable[[ServerConnection], Awaitable[None]]
HELLO = '{"id":1,"connect":{"client":"c","version":"1","ping":25,"pong":true}}'


@asynccontextmanager
async def server(parts: Sequence[Part]) -> AsyncIterator[str]:
    """Plays one part per connection; the last one again and again."""
    connections = 0

    async def play(websocket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await parts[min(connections, len(parts)) - 1](websocket)

    async with serve(play, "127.0.0.1", 0) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/connection/websocket"


def says(*frames: str, close: tuple[int, str] | None = None) -> Part:
    """Reads the first frame, says these, and closes, or waits."""

    async def part(websocket: ServerConnection) -> None:
        await websocket.recv()
        for frame in frames:
            await websocket.send(frame)
        if close:
            await websocket.close(*close)
        else:
            await websocket.wait_closed()

    return part


class Seen:
    """What a follower showed and told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.told: list[str] = []

    def follower(self, url: str, wire: WireClient, new_token: Callable[[], Awaitable[str]] | None = None) -> Follower:
        return Follower(
            url, wire, show=self.events.append, remark=self.told.append, new_token=new_token, rng=random.Random(1)
        )


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def test_a_lost_connection_is_made_anew_and_recovers(seen: Seen) -> None:
    asked: list[dict[str, object]] = []

    async def second(websocket: ServerConnection) -> None:
        frame = await websocket.recv()
        assert isinstance(frame, str)
        asked.extend(json.loads(line) for line in frame.split("\n"))
        await websocket.send(HELLO)
        await websocket.send(
            '{"id":2,"subscribe":{"recoverable":true,"epoch":"E","offset":3,"recovered":true,"was_recovering":true,'
            '"publications":[{"data":4,"offset":4}]}}'
        )
        await websocket.wait_closed()

    first = says(
        HELLO,
        '{"id":2,"subscribe":{"recoverable":true,"epoch":"E","offset":2}}',
        '{"push":{"channel":"room","pub":{"data":3,"offset":3}}}',
        close=(3001, "shutdown"),
    )
    async with server([first, second]) as url:
        following = asyncio.ensure_future(seen.follower(url, WireClient({"room": None})).run())
        await until(lambda: sum(isinstance(event, Published) for event in seen.events) == 2)
        following.cancel()
        await asyncio.wait([following])
    assert asked[1]["subscribe"] == {
        "channel": "room",
        "recoverable": True,
        "positioned": True,
        "join_leave": True,
        "recover": True,
        "offset": 3,
        "epoch": "E",
    }
    recovered = [event for event in seen.events if isinstance(event, Subscribed)][1]
    assert recovered == Subscribed("room", Position(3, "E"), Position(3, "E"), True, 1)
    assert seen.told[0].startswith("connection lost: shutdown (3001); next attempt in ")


async def test_a_terminal_close_ends_it_with_code_and_reason(seen: Seen) -> None:
    async with server([says(close=(3500, "invalid token"))]) as url:
        with pytest.raises(Refused, match=r"the server closed the connection: invalid token \(3500\)"):
            await seen.follower(url, WireClient({"room": None})).run()


async def test_an_expired_token_that_was_given_ends_it(seen: Seen) -> None:
    async with server([says('{"id":1,"error":{"code":109,"message":"token expired"}}')]) as url:
        with pytest.raises(Refused, match=r"connection refused: token expired \(109\)"):
            await seen.follower(url, WireClient({"room": None})).run()


async def test_an_expired_token_that_was_minted_is_minted_anew(seen: Seen) -> None:
    async def new_token() -> str:
        return "fresh"

    wire = WireClient({"room": None}, token="old")
    expired = says('{"id":1,"error":{"code":109,"message":"token expired"}}')
    async with server([expired, says(HELLO)]) as url:
        following = asyncio.ensure_future(seen.follower(url, wire, new_token).run())
        await until(lambda: len(seen.events) == 2)
        following.cancel()
        await asyncio.wait([following])
    assert wire.token == "fresh"
    assert seen.told == ["connection lost: token expired; next attempt in 0.0 s"]


async def test_a_connection_that_expires_is_refreshed_in_time(seen: Seen) -> None:
    refreshed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def new_token() -> str:
        return "fresh"

    async def part(websocket: ServerConnection) -> None:
        await websocket.recv()
        await websocket.send('{"id":1,"connect":{"client":"c","version":"1","ping":25,"expires":true,"ttl":1}}')
        refreshed.set_result(str(await websocket.recv()))
        await websocket.wait_closed()

    async with server([part]) as url:
        following = asyncio.ensure_future(seen.follower(url, WireClient({"room": None}), new_token).run())
        frame = json.loads(await asyncio.wait_for(refreshed, 30))
        following.cancel()
        await asyncio.wait([following])
    assert frame["refresh"] == {"token": "fresh"}


async def test_a_temporary_refusal_is_asked_again(seen: Seen) -> None:
    async def part(websocket: ServerConnection) -> None:
        await websocket.recv()
        await websocket.send(HELLO)
        await websocket.send('{"id":2,"error":{"code":100,"message":"internal server error","temporary":true}}')
        assert "subscribe" in json.loads(await websocket.recv())
        await websocket.send('{"id":3,"subscribe":{}}')
        await websocket.wait_closed()

    async with server([part]) as url:
        following = asyncio.ensure_future(seen.follower(url, WireClient({"room": None})).run())
        await until(lambda: any(isinstance(event, Subscribed) for event in seen.events))
        following.cancel()
        await asyncio.wait([following])


async def test_a_channel_refused_again_and_again_is_asked_for_less_and_less_often(seen: Seen) -> None:
    follower = seen.follower("ws://127.0.0.1:1", WireClient({"room": None, "other": None}))
    react, due = follower._react, follower._due  # noqa: SLF001  # pauses of a minute are computed here, not waited for
    refused = SubscribeRefused("room", Error(100, "internal server error", temporary=True))
    pauses_s = []
    for _ in range(8):
        await react(refused, now=1_000.0)
        pauses_s.append(due["room"] - 1_000.0)
    for pause_s, longest_s in zip(pauses_s, [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20.0, 20.0], strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    await react(SubscribeRefused("other", refused.error), now=1_000.0)
    assert due["other"] <= 1_000.4  # channels don't slow one another down
    await react(Subscribed("room", Position(0, ""), None, False, 0), now=2_000.0)
    await react(refused, now=2_000.0)
    assert due["room"] <= 2_000.4


async def test_the_last_channel_refused_ends_it_and_others_go_on(seen: Seen) -> None:
    denied = '{{"id":{},"error":{{"code":103,"message":"permission denied"}}}}'
    async with server([says(HELLO, denied.format(2), denied.format(3))]) as url:
        with pytest.raises(Refused, match=r"subscription to b refused: permission denied \(103\)"):
            await seen.follower(url, WireClient({"a": None, "b": None})).run()
    assert seen.told == ["subscription to a refused: permission denied (103)"]


async def test_something_that_is_no_thalamus_is_refused(seen: Seen) -> None:
    async with server([says("hello")]) as url:
        with pytest.raises(Refused, match="does not speak our protocol"):
            await seen.follower(url, WireClient({"a": None})).run()


async def test_nobody_there_ends_the_first_attempt(seen: Seen, unused_tcp_port: int) -> None:
    with pytest.raises(Unreachable, match="can't be reached"):
        await seen.follower(f"ws://127.0.0.1:{unused_tcp_port}", WireClient({"a": None})).run()


async def test_after_a_first_connection_nobody_there_is_tried_again(seen: Seen) -> None:
    async with server([says(HELLO, close=(1011, "oops"))]) as url:
        following = asyncio.ensure_future(seen.follower(url, WireClient({"a": None})).run())
        await until(lambda: len(seen.told) == 1)
    await until(lambda: len(seen.told) >= 2)
    assert not following.done()
    following.cancel()
    await asyncio.wait([following])
    assert "next attempt in" in seen.told[-1]
