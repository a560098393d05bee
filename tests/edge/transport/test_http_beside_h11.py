"""What our reader of HTTP takes, a library's reader understands in the same way.

No request has two meanings.
"""

from __future__ import annotations

import random

import h11
import pytest

from services.edge.transport.http.body import BodyReader
from services.edge.transport.http.head import HeadReader
from services.edge.transport.http.refusal import Refused

SEED = 20_261_129
ROUNDS = 2_000

Request = tuple[str, str, list[tuple[str, str]], bytes, bytes]  # method, target, headers by name, body, what is behind


def ours(sent: bytes) -> Request | None:
    """As we read it; None: refused, or not whole."""
    reader = HeadReader()
    try:
        if (head := reader.feed(sent)) is None:
            return None
        body, rest, taken = BodyReader(head), bytearray(reader.rest()), b""
        while not body.is_whole and rest:
            taken += body.read(rest)
    except Refused:
        return None
    if not body.is_whole:
        return None
    headers = [(name, value) for name, values in head.headers.items() for value in values]
    return head.method, head.target, sorted(headers), taken, bytes(rest)


def theirs(sent: bytes) -> Request | None:
    """As h11 reads it, likewise."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    request, body = None, b""
    try:
        while (event := connection.next_event()) is not h11.NEED_DATA:
            match event:
                case h11.Request():
                    request = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage() if request is not None:
                    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
                    rest = connection.trailing_data[0]
                    return request.method.decode(), request.target.decode(), sorted(headers), body, rest
                case _:
                    return None
    except h11.RemoteProtocolError:
        pass
    return None


def written(rng: random.Random) -> bytes:
    """A sound request, or nearly."""
    body = rng.randbytes(rng.choice([0, 1, 40]))
    headers = [b"Host: a.example:80", b"Accept:*/*", b"X-A: \t b ", b"X-A:", b"X-\x7eB: \xe9"]
    headers = rng.sample(headers, rng.randrange(len(headers))) + ([b"Host: b"] if rng.random() < 0.7 else [])
    match rng.randrange(4):
        case 0:
            headers.append(b"Content-Length: %d" % len(body))
        case 1:
            headers.append(rng.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:chunked"]))
            parts = [body[:7], body[7:]] if len(body) > 7 else [body]
            chunks = b"".join(
                b"%x%s\r\n%s\r\n" % (len(part), rng.choice([b"", b";a=b"]), part) for part in parts if part
            )
            body = chunks + rng.choice([b"0\r\n\r\n", b"00\r\nX-T: 1\r\n\r\n"])
        case 2:
            headers += [b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"]
        case _:
            body = b""
    target = rng.choice([b"/", b"/api/publish?a=%20b", b"http://a.example/x", b"*", b"/\\"])
    line = b"%s %s HTTP/1.%d" % (rng.choice([b"GET", b"POST", b"OPTIONS"]), target, rng.randrange(2))
    rng.shuffle(headers)
    return b"\r\n".join([line, *headers, b"", b""]) + body + rng.choice([b"", b"GET / HTTP/1.1\r\n"])


def spoiled(sent: bytes, rng: random.Random) -> bytes:
    """With a few bytes lost, added or replaced, by those that a parser looks at."""
    for _ in range(rng.choice([0, 0, 1, 2])):
        at = rng.randrange(len(sent))
        sent = (
            sent[:at]
            + rng.choice([b"", b"\r", b"\n", b" ", b"\t", b":", b"0", b";", b",", b"\0", b"\xff"])
            + sent[at + rng.randrange(2) :]
        )
    return sent


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_what_we_take_means_the_same_to_a_library(seed: int) -> None:
    rng, taken = random.Random(seed), 0
    for _ in range(ROUNDS):
        sent = spoiled(written(rng), rng)
        if (request := ours(sent)) is not None:
            taken += 1
            assert theirs(sent.lstrip(b"\r\n")) == request, sent
    assert taken > ROUNDS / 10
