"""Random frames of Protobuf clients: commands, mutations of them, and noise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tests.support.protobuf_by_hand import BYTES, FIXED32, FIXED64, VARINT, delimited, tagged, varint, write
from tests.support.protobuf_schema import SCHEMA, Field, is_message

_INTEGERS = {
    "u32": (0, 1, 2**31, 2**32 - 1),
    "i32": (0, 1, -1, 2**31 - 1, -(2**31)),
    "u64": (0, 1, 2, 2**53, 2**63, 2**64 - 1),
    "i64": (0, 1, 2, 3, -1, 2**63 - 1, -(2**63)),
    "s64": (0, 1, -1),
}
_TEXTS = ("", "a", "\x00", "ж😀", "null", "x" * 300, "\u2028", "fossil", "eq", "and")
_PAYLOADS = (b"", b"1", b"null", b'{"a":[1,2]}', b"\x00\xff", b"{", b"1e999", b"[" * 200, b'"\\ud800"', b"x" * 40_000)
_TOKEN = next(field for field in SCHEMA["Command"].values() if field.name == "token")
_REQUESTS = [field.name for field in SCHEMA["Command"].values() if field.name not in ("id", "token")]


class Noise:
    """Makes frames. The same seed makes the same ones.

    Args:
        channels: Names that commands use, beside some that no channel may have.
        tokens: Tokens that commands use, beside some that are none.
    """

    def __init__(self, seed: int, channels: Sequence[str], tokens: Sequence[str]) -> None:
        self._chance = random.Random(seed)
        self._channels = [*channels] * 4 + ["", "a b", "nope:x", "x" * 256, "é", "$private", "dm#alice,bob"]
        self._tokens = [*tokens, "", "x", "a.b.c", "x" * 9_000]

    def frame(self) -> tuple[bytes, int]:
        """The payload of one frame, and how many commands it was made of."""
        chance = self._chance
        count = chance.choice((1, 1, 1, 1, 2, 3, 5))
        frame = b"".join(delimited(self.command()) for _ in range(count))
        kind = chance.random()
        if kind < 0.8:
            return frame, count
        if kind < 0.98:
            return self._mutated(frame), count
        return chance.randbytes(chance.choice((0, 1, 2, 10, 100, 3_000))), 1

    def command(self) -> bytes:
        """Any command, or a pong."""
        chance = self._chance
        if chance.random() < 0.01:
            return b""
        body = b"" if chance.random() < 0.01 else tagged(1, VARINT, varint(chance.randint(1, 2**32 - 1)))
        if chance.random() < 0.05:
            body += tagged(_TOKEN.number, BYTES, chance.choice(self._tokens).encode())
        name = chance.choice(_REQUESTS)
        if name in ("connect", "ping", "send", "refresh", "sub_refresh") and chance.random() < 0.9:
            name = chance.choice(("subscribe", "publish", "history", "unsubscribe"))  # those end the connection
        for _ in range(1 if chance.random() < 0.97 else 2):
            (field,) = [one for one in SCHEMA["Command"].values() if one.name == name]
            body += tagged(field.number, BYTES, self._message(field.kind))
        return body + self._unknown() if chance.random() < 0.1 else body

    def _message(self, name: str, depth: int = 0) -> bytes:
        chance, out = self._chance, b""
        usual = chance.random()
        for field in SCHEMA[name].values():
            expected = field.name in ("channel", "data") and chance.random() < 0.97
            if not expected and chance.random() > usual * (0.1 if field.name in ("token", "type", "tf") else 0.6):
                continue
            if is_message(field.kind):
                if depth < 6:
                    inner = tagged(field.number, BYTES, self._message(field.kind, depth + 1))
                    out += self._in_map(field, inner) if field.many == "{" else inner
            else:
                value = self._value(field)
                if field.many:
                    value = [value] if field.many == "[" else {"k": value}
                out += write(name, {field.name: value})
        return out + self._unknown() if chance.random() < 0.05 else out

    def _in_map(self, field: Field, inner: bytes) -> bytes:
        key = tagged(1, BYTES, self._chance.choice(self._channels).encode())
        return tagged(field.number, BYTES, key + tagged(2, BYTES, inner))

    def _value(self, field: Field) -> Any:
        chance = self._chance
        if field.name == "channel":
            return chance.choice(self._channels)
        if field.name == "token":
            return chance.choice(self._tokens)
        if field.name == "delta":
            return chance.choice(("", "fossil", "fossil", "fossil", "fossil", "fossil", "other"))
        if field.name == "type":
            return chance.choice((0, 0, 0, 1, 4, -1))
        if field.kind == "str":
            return chance.choice(_TEXTS)
        if field.kind == "raw":
            return chance.choice(_PAYLOADS)
        if field.kind == "bool":
            return chance.random() < 0.5
        return chance.choice(_INTEGERS[field.kind])

    def _unknown(self) -> bytes:
        number = self._chance.choice((16, 99, 500, 2**29 - 1))
        return self._chance.choice(
            (
                tagged(number, VARINT, varint(self._chance.randrange(2**64))),
                tagged(number, BYTES, self._chance.randbytes(self._chance.randint(0, 20))),
                tagged(number, FIXED32, bytes(4)),
                tagged(number, FIXED64, bytes(8)),
            )
        )

    def _mutated(self, frame: bytes) -> bytes:
        chance, out = self._chance, bytearray(frame)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            at = chance.randrange(len(out) + 1)
            kind = chance.randrange(6)
            if kind == 0 and at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del out[at : at + chance.randint(1, 4)]
            elif kind == 2:
                out[at:at] = chance.randbytes(chance.randint(1, 4))
            elif kind == 3:
                del out[at:]
            elif kind == 4:
                out[at:at] = out[at : at + chance.randint(1, 40)]
            elif at < len(out):
                out[at] = chance.choice((0x00, 0x7F, 0x80, 0xFF))
        return bytes(out)
