"""What clients of each server say and look for, as bytes.

A payload carries its intended send time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.load.clock import FIRST
from bench.load.frames import pong_frame, text_frame

PAYLOAD_BYTES = 128
_HEAD, _TAIL = '{"t":"@%d","p":"', '"}'


def payload_of(size: int) -> str:
    """So many bytes of JSON, with `%d` for the send time."""
    return _HEAD + "x" * (size - len(_HEAD % FIRST) - len(_TAIL)) + _TAIL


PAYLOAD = payload_of(PAYLOAD_BYTES)
STAMP, STAMP_DIGITS = b'"t":"@', 10  # what stands before the send time in every message, and nowhere else
JOIN = b'"join":'


@dataclass(frozen=True, slots=True)
class Joining:
    """Who connects, and to what."""

    token: str
    channel: str
    join_leave: bool = False  # be told who comes and goes
    position: tuple[int, str] | None = None  # catch up from here


@dataclass(frozen=True, slots=True)
class Step:
    """Wait until the server has said this, then send that."""

    expect: re.Pattern[bytes]
    send: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One server's protocol, as far as a load needs it.

    Attributes:
        steps: What happens after the upgrade, from the address on; the last step's `expect` means: subscribed.
        publish: The frame that publishes this payload in this channel, with `%d` for the id and again for the send
            time (ten digits each).
        acks: Ids of publications that the bytes acknowledge.
        refused: Ids of those that they refuse.
        ping: Bytes without which there is no ping in a chunk.
        pong: The answer to the pings of a chunk, and the chunk without them.
    """

    path: Callable[[str, Joining], str]
    steps: Callable[[Joining], list[Step]]
    publish: Callable[[str, str], bytes]
    acks: Callable[[bytes], list[bytes]]
    refused: Callable[[bytes], list[bytes]]
    ping: bytes
    pong: Callable[[bytes], tuple[bytes, bytes]]


PING_FRAME = b"\x89"
_PING_HEAD = re.compile(rb"\x89([\x00-\x1f])")  # the low byte of a length may be 0x89, but then text begins behind it


def frame_pong(chunk: bytes) -> tuple[bytes, bytes]:
    """Return the pongs for the WebSocket pings in a chunk, and the chunk without them."""
    answer = b""
    while (found := _PING_HEAD.search(chunk)) and len(chunk) >= (end := found.end() + found[1][0]):
        answer += pong_frame(chunk[found.end() : end])
        chunk = chunk[: found.start()] + chunk[end:]
    return answer, chunk


def _never(_: bytes) -> list[bytes]:
    return []


def _quoted(channel: str) -> str:
    return json.dumps(channel)


def _template(text: str) -> bytes:
    """A text frame to which two numbers of ten digits are still to be given, by `%`."""
    number = str(FIRST)
    return text_frame(text.replace("%d", number).encode()).replace(b"%", b"%%").replace(number.encode(), b"%d")


# Centrifugal JSON: ours, and Centrifugo's.

_CENTRIFUGAL_PING = re.compile(rb"(?<!:)\{\}")  # behind a colon it is a result
_SUBSCRIBED = re.compile(rb'"id":2,"subscribe":\{[^{}]*\}\}')
_RECOVERING = re.compile(rb'"id":2,"subscribe":\{')


def _centrifugal_steps(joining: Joining) -> list[Step]:
    subscribe: dict[str, object] = {"channel": joining.channel}
    if joining.join_leave:
        subscribe["join_leave"] = True
    if joining.position is not None:
        offset, epoch = joining.position
        subscribe |= {"recover": True, "offset": offset, "epoch": epoch}
    commands = ({"id": 1, "connect": {"token": joining.token}}, {"id": 2, "subscribe": subscribe})
    both = "\n".join(json.dumps(command, separators=(",", ":")) for command in commands).encode()
    done = _SUBSCRIBED if joining.position is None else _RECOVERING
    return [Step(re.compile(rb"\r\n\r\n"), text_frame(both)), Step(done, b"")]


def _centrifugal_pong(chunk: bytes) -> tuple[bytes, bytes]:
    without, pings = _CENTRIFUGAL_PING.subn(b"", chunk)
    return (text_frame(b"{}") if pings else b""), without


CENTRIFUGAL = Dialect(
    path=lambda path, _: path,
    steps=_centrifugal_steps,
    publish=lambda channel, data: _template(f'{{"id":%d,"publish":{{"channel":{_quoted(channel)},"data":{data}}}}}'),
    acks=re.compile(rb'"id":(\d{10}),"publish"').findall,
    refused=re.compile(rb'"id":(\d{10}),"error"').findall,
    ping=b"{}",
    pong=_centrifugal_pong,
)

# Engine.IO 4 with Socket.IO 5 in it, WebSocket from the start.

_ENGINE_PING, _ENGINE_PONG = b"\x81\x012", text_frame(b"3")


def _socketio_steps(joining: Joining) -> list[Step]:
    token = json.dumps({"token": joining.token}, separators=(",", ":")).encode()
    return [
        Step(re.compile(rb"0\{[^}]*\}"), text_frame(b"40" + token)),
        Step(re.compile(rb'40\{"sid"[^}]*\}'), text_frame(f'420["sub",{_quoted(joining.channel)}]'.encode())),
        Step(re.compile(rb"430\[[^\]]*\]"), b""),
    ]


SOCKETIO = Dialect(
    path=lambda path, _: f"{path}?EIO=4&transport=websocket",
    steps=_socketio_steps,
    publish=lambda channel, data: _template(f'42%d["pub",{_quoted(channel)},{data}]'),
    acks=re.compile(rb"43(\d{10})\[").findall,
    refused=_never,
    ping=_ENGINE_PING,
    pong=lambda chunk: (_ENGINE_PONG, chunk.replace(_ENGINE_PING, b"")),
)

# A JSON object per message, as one writes it without a protocol library.


def _plain_steps(joining: Joining) -> list[Step]:
    return [
        Step(re.compile(rb"\r\n\r\n"), text_frame(f'{{"sub":{_quoted(joining.channel)}}}'.encode())),
        Step(re.compile(rb'\{"subscribed":[^}]*\}'), b""),
    ]


PLAIN = Dialect(
    path=lambda path, joining: f"{path}?token={joining.token}",
    steps=_plain_steps,
    publish=lambda channel, data: _template(f'{{"id":%d,"pub":{_quoted(channel)},"data":{data}}}'),
    acks=re.compile(rb'"ack": ?(\d{10})').findall,
    refused=_never,
    ping=PING_FRAME,
    pong=frame_pong,
)

DIALECTS: Mapping[str, Dialect] = {"centrifugal": CENTRIFUGAL, "socketio": SOCKETIO, "plain": PLAIN}
