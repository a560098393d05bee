"""Reads and writes Protobuf by `protobuf_schema.py`, without generated code.

A message is a dict as the JSON encoding has it, with payloads as bytes. `of_json` and `as_json` convert texts, so a
test may say what it sends and expects in JSON, and run over Protobuf.

Reading is strict, because it judges what the edge writes: a field that the specification does not have, a wrong wire
type, a field given twice, a zero that is written out, or a varint that is longer than needed is an error.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tests.support.protobuf_schema import SCHEMA, ZEROS, Field, is_message

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
UNKNOWN_FIELD = 500
"""Number of what the specification does not have: a JSON member that is unknown becomes a field of this number."""

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RANGES = {"u32": (0, 2**32), "u64": (0, 2**64), "i32": (-(2**31), 2**31), "i64": (-(2**63), 2**63)}
_RANGES["s64"] = _RANGES["i64"]

Message = dict[str, Any]


class NotAsSpecified(ValueError):
    """Bytes that are not what the specification says."""


# Writing.


def varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, wire_type: int, value: bytes) -> bytes:
    """A field; `value` as the wire type wants it, without the length of bytes."""
    return varint(number << 3 | wire_type) + (varint(len(value)) if wire_type == BYTES else b"") + value


def delimited(body: bytes) -> bytes:
    """A message behind its length."""
    return varint(len(body)) + body


def write(name: str, message: Mapping[str, Any]) -> bytes:
    """Return a message as Protobuf; members not in the schema become unknown fields."""
    by_name = {field.name: field for field in SCHEMA[name].values()}
    out = b""
    for member, value in message.items():
        if member not in by_name:
            out += tagged(UNKNOWN_FIELD, BYTES, str(value).encode())
            continue
        field = by_name[member]
        if field.many == "[":
            out += b"".join(_write_one(field, one) for one in value)
        elif field.many == "{":
            for key, one in value.items():
                entry = tagged(1, BYTES, key.encode()) + _write_one(field._replace(number=2), one)
                out += tagged(field.number, BYTES, entry)
        else:
            out += _write_one(field, value)
    return out


def _write_one(field: Field, value: Any) -> bytes:
    if is_message(field.kind):
        return tagged(field.number, BYTES, write(field.kind, value))
    if field.kind == "str":
        return tagged(field.number, BYTES, value.encode())
    if field.kind == "raw":
        return tagged(field.number, BYTES, value)
    if field.kind == "bool":
        return tagged(field.number, VARINT, varint(int(value)))
    low, high = _RANGES[field.kind]
    if not low <= value < high:
        raise ValueError(f"{field.name}: {value} is no {field.kind}")
    if field.kind == "s64":
        return tagged(field.number, VARINT, varint((value << 1) ^ (value >> 63)))
    return tagged(field.number, VARINT, varint(value % 2**64))


# Reading.


def parts(payload: bytes) -> Iterator[bytes]:
    """The messages of a frame, each without its length."""
    at = 0
    while at < len(payload):
        length, at = _read_varint(payload, at)
        if length > len(payload) - at:
            raise NotAsSpecified("the frame ends inside a message")
        yield payload[at : at + length]
        at += length


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            if (byte == 0 and shift > 7) or value >= 2**64:
                raise NotAsSpecified("a varint that is too long")
            return value, at
    raise NotAsSpecified("it ends inside a varint")


def raw_fields(body: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field, in order."""
    at = 0
    while at < len(body):
        tag, at = _read_varint(body, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, at = _read_varint(body, at)
            yield number, wire_type, value
            continue
        length = 8 if wire_type == FIXED64 else 4
        if wire_type == BYTES:
            length, at = _read_varint(body, at)
        elif wire_type not in (FIXED64, FIXED32):
            raise NotAsSpecified(f"field {number} has wire type {wire_type}")
        if length > len(body) - at:
            raise NotAsSpecified(f"it ends inside field {number}")
        yield number, wire_type, body[at : at + length]
        at += length


def read(name: str, body: bytes) -> Message:
    """A message as a dict; only members that are there."""
    found: Message = {}
    for number, wire_type, value in raw_fields(body):
        field = SCHEMA[name].get(number)
        if field is None:
            raise NotAsSpecified(f"{name} has no field {number}")
        if field.many == "{":
            entry = _entry(field, wire_type, value)
            members = found.setdefault(field.name, {})
            if entry[0] in members:
                raise NotAsSpecified(f"{name}.{field.name} has {entry[0]!r} twice")
            members[entry[0]] = entry[1]
        elif field.many == "[":
            found.setdefault(field.name, []).append(_value(field, wire_type, value))
        elif field.name in found:
            raise NotAsSpecified(f"{name}.{field.name} is there twice")
        else:
            found[field.name] = one = _value(field, wire_type, value)
            if not is_message(field.kind) and not one:
                raise NotAsSpecified(f"{name}.{field.name} is there though it is zero")
    return found


def _entry(field: Field, wire_type: int, value: int | bytes) -> tuple[str, Any]:
    if wire_type != BYTES or not isinstance(value, bytes):
        raise NotAsSpecified(f"an entry of {field.name} has wire type {wire_type}")
    key, found = "", _zero(field.kind)
    for number, kind, member in raw_fields(value):
        if number == 1:
            key = _value(field._replace(kind="str", many=""), kind, member)
        elif number == 2:
            found = _value(field, kind, member)
        else:
            raise NotAsSpecified(f"an entry of {field.name} has a field {number}")
    return key, found


def _value(field: Field, wire_type: int, value: int | bytes) -> Any:
    text_like = field.kind in ("str", "raw") or is_message(field.kind)
    if wire_type != (BYTES if text_like else VARINT):
        raise NotAsSpecified(f"{field.name} has wire type {wire_type}")
    if isinstance(value, bytes):
        if field.kind == "str":
            return value.decode()
        return value if field.kind == "raw" else read(field.kind, value)
    if field.kind == "bool":
        if value > 1:
            raise NotAsSpecified(f"{field.name} is {value}")
        return bool(value)
    if field.kind == "s64":
        return value >> 1 ^ -(value & 1)
    signed = value - 2**64 if field.kind in ("i32", "i64") and value >= 2**63 else value
    low, high = _RANGES[field.kind]
    if not low <= signed < high:
        raise NotAsSpecified(f"{field.name} is {signed}")
    return signed


def _zero(kind: str) -> Any:
    return {} if is_message(kind) else ZEROS.get(kind, 0)


def fields_of(name: str, message: Message) -> Iterator[tuple[str, str]]:
    """Message and name of each field that has a value, those within others included."""
    for field in SCHEMA[name].values():
        if field.name not in message:
            continue
        yield name, field.name
        if is_message(field.kind):
            value = message[field.name]
            inner = value.values() if field.many == "{" else value if field.many else [value]
            for one in inner:
                yield from fields_of(field.kind, one)


# The JSON of a message.


def of_json(name: str, text: bytes | str) -> Message:
    """The message of a JSON object; a member that is null is absent, except payloads."""
    by_name = {field.name: field for field in SCHEMA[name].values()}
    found: Message = {}
    for member, raw in _MEMBERS.decode(text).items():
        value = bytes(raw)
        field = by_name.get(member)
        if field is None:
            found[member] = value.decode()
        elif value != b"null" or field.kind == "raw":
            found[member] = _of_json(field, value)
    return found


def _of_json(field: Field, text: bytes) -> Any:
    if field.many == "{":
        return {key: _of_json(field._replace(many=""), bytes(one)) for key, one in _MEMBERS.decode(text).items()}
    if field.many == "[":
        return [
            _of_json(field._replace(many=""), bytes(one)) for one in msgspec.json.decode(text, type=list[msgspec.Raw])
        ]
    if is_message(field.kind):
        return of_json(field.kind, text)
    return text if field.kind == "raw" else json.loads(text)


def as_json(name: str, message: Message) -> bytes:
    """The JSON text of a message, with payloads inside and with what JSON always has.

    A payload that is no JSON text becomes a string, its base64.
    """
    return msgspec.json.encode(_as_json(name, message))


def _as_json(name: str, message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in SCHEMA[name].values():
        if field.name in message:
            found[field.name] = _json_value(field, message[field.name])
        elif field.always:
            default: Any = {"[": [], "{": {}}.get(field.many, _zero(field.kind))
            found[field.name] = None if field.kind == "raw" else default
    return found


def _json_value(field: Field, value: Any) -> Any:
    if field.many == "{":
        return {key: _json_value(field._replace(many=""), one) for key, one in value.items()}
    if field.many == "[":
        return [_json_value(field._replace(many=""), one) for one in value]
    if field.kind == "raw":
        return msgspec.Raw(value) if _is_json(value) else base64.b64encode(value).decode()
    return _as_json(field.kind, value) if is_message(field.kind) else value


def _is_json(payload: bytes) -> bool:
    try:
        json.loads(payload.decode())
    except ValueError:
        return False
    return True


def command_of(line: bytes | str) -> bytes:
    """A JSON command in Protobuf, behind its length; `{}` is a pong."""
    return delimited(write("Command", of_json("Command", line)))


def line_of(part: bytes) -> bytes:
    """A Protobuf reply, without its length, as the line that a JSON client gets."""
    return as_json("Reply", read("Reply", part))
