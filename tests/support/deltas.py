"""Payloads that resemble one another, and a client that applies patches."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec
from centrifuge.fossil import apply_delta
from google.protobuf.message import Message

from tests.support import protobuf_by_hand as by_hand
from tests.support.edge import Client
from thalamus.client.v1 import client_pb2 as pb

_WORDS = ("price", "größe", "漢字", "😀🎈", "\u2028", "x" * 30, "line\nbreak", '"quoted"', "\\", "é", "e\u0301")

_ALIKE = "éèêëüöß漢漠漡😀😁😂"  # characters whose first bytes are the same


def edited(value: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A JSON object with one to four changes: members new, gone, changed or moved."""
    members = list(value.items())
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(members))
        kind = rng.random()
        if kind < 0.4 or not members:
            members.insert(at, (f"m{rng.randrange(40)}", _scalar(rng)))
        elif kind < 0.8:
            name, _ = members[at % len(members)]
            members[at % len(members)] = (name, _scalar(rng))
        elif kind < 0.9:
            del members[at % len(members)]
        else:
            members.append(members.pop(at % len(members)))
    return dict(members)


def json_text(value: object, rng: random.Random) -> bytes:
    """The value as JSON, with or without escapes and line breaks."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.2, indent=rng.choice([None, None, 1])).encode()


def _scalar(rng: random.Random) -> object:
    alike = "".join(rng.choices(_ALIKE, k=rng.randint(1, 30)))
    return rng.choice([rng.randrange(10**6), rng.choice(_WORDS) * rng.randint(1, 6), alike, None, [rng.random()] * 3])


def payloads(seed: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield pairs of a payload and the next one: JSON, in every fourth pair any bytes."""
    rng = random.Random(seed)
    value: dict[str, Any] = {}
    for number in range(count):
        if number % 4 == 3:
            base = rng.randbytes(rng.choice([0, 1, 40, 400, 3_000]))
            at = rng.randint(0, len(base))
            yield base, base[:at] + rng.randbytes(rng.choice([0, 1, 9, 80])) + base[at + rng.choice([0, 1, 9, 80]) :]
            continue
        base = json_text(value, rng)
        value = {} if len(base) > 6_000 or rng.random() < 0.02 else edited(value, rng)
        yield base, json_text(value, rng)


class DeltaReader:
    """Applies the patches of one channel, and fails if it does not have their base.

    The base of a patch is the publication before it in the same subscription, never one of an earlier subscription.
    """

    def __init__(self, client: Client, channel: str) -> None:
        self.client = client
        self.channel = channel
        self.subscribed = False
        self.delta = False  # negotiated
        self.got: list[tuple[int, bytes]] = []  # offset and payload of each publication
        self.kinds: list[str] = []  # "full", "patch" or, without delta, "plain"
        self.results: list[dict[str, Any]] = []  # of subscribe
        self.bytes = 0  # of frames with publications
        self._base: bytes | None = None
        self._read = 0

    def read(self, unread: int = 0) -> None:
        """Take what has come since the last time, but for the last so many frames."""
        frames = self.client.connection.frames
        upto = max(self._read, len(frames) - unread)
        for frame in frames[self._read : upto]:
            for reply in self._replies(frame):
                self._take(reply, len(frame))
        self._read = upto

    def _replies(self, frame: bytes) -> Iterator[dict[str, Any]]:
        if self.client.encoding == "json":
            yield from (msgspec.json.decode(line, type=dict[str, Any]) for line in frame.split(b"\n"))
            return
        for part in by_hand.parts(frame):
            yield _known(pb.Reply.FromString(part))

    def _take(self, reply: dict[str, Any], size: int) -> None:
        push = reply.get("push", {})
        if "connect" in reply and self.channel in reply["connect"].get("subs", {}):
            self._began(reply["connect"]["subs"][self.channel])
        elif "subscribe" in reply:
            self._began(reply["subscribe"])
        elif "unsubscribe" in reply or (push.get("channel") == self.channel and "unsubscribe" in push):
            self.subscribed = False
        elif push.get("channel") == self.channel and "pub" in push:
            assert self.subscribed, "a publication outside of a subscription"
            self._publication(push["pub"])
            self.bytes += size

    def _began(self, result: dict[str, Any]) -> None:
        assert not self.subscribed
        self.subscribed, self._base, self.delta = True, None, result.get("delta", False)
        self.results.append(result)
        for publication in result.get("publications", []):
            self._publication(publication)

    def _publication(self, publication: dict[str, Any]) -> None:
        data, is_patch = publication.get("data", b""), publication.get("delta", False)
        if not self.delta:
            assert not is_patch, "a patch without delta"
            payload = data if isinstance(data, bytes) else json.dumps(data).encode()
        else:
            payload = data.encode() if isinstance(data, str) else data
            assert isinstance(payload, bytes), "data is no string"
            if is_patch:
                assert self._base is not None, "a patch without a base"
                payload = apply_delta(self._base, payload)
            self._base = payload
        self.kinds.append(("patch" if is_patch else "full") if self.delta else "plain")
        self.got.append((publication.get("offset", 0), payload))


def _known(message: Message) -> dict[str, Any]:
    """The fields of a Protobuf message that are set, as a dict."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = {key: _known(one) if isinstance(one, Message) else one for key, one in value.items()}
        elif field.message_type is None:
            found[field.name] = value
        elif isinstance(value, Message):
            found[field.name] = _known(value)
        else:
            found[field.name] = [_known(one) for one in value]
    return found
