"""Presence data: what a client tells others of itself in a channel.

Others see it in `chan_info` of its client info, in joins, leaves and member lists. A subscription token or a backend
may have set a `chan_info` of its own. Then the data is its member `presence`. Decision: docs/decisions/0051.
"""

from __future__ import annotations

import msgspec

from services.shared.errors import ErrorCode, ThalamusError
from services.shared.json_text import MAX_NESTING, InvalidJson, checked_json, nests_too_deep

MAX_BYTES = 2_048  # of the data; each member of a roster has it in Redis, and on its edge
_MAX_NESTING = MAX_NESTING - 1  # as a member of `chan_info` it is one deeper, and presence takes no deeper texts
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def checked(text: bytes) -> bytes:
    """Return presence data without surrounding whitespace.

    Raises:
        InvalidJson: it is not JSON, or nested more than 99 deep.
        ThalamusError: 106, it is longer than 2,048 bytes.
    """
    data = checked_json(text)
    if len(data) > MAX_BYTES:
        raise ThalamusError(f"presence data: {MAX_BYTES} bytes at most", ErrorCode.LIMIT_EXCEEDED)
    if nests_too_deep(data, _MAX_NESTING):
        raise InvalidJson("nested too deeply")
    return data


def merged(before: bytes, patch: bytes) -> bytes:
    """Apply a patch to presence data as RFC 7396 says (JSON Merge Patch).

    Members of objects are merged, and null removes one. A patch that is no object replaces everything. `before` may be
    empty. Values that are not merged keep their text.
    """
    if not patch.startswith(b"{"):
        return patch
    found = _members(before) if before.startswith(b"{") else {}
    for name, value in _members(patch).items():
        text = bytes(value)
        if text == b"null":
            found.pop(name, None)
        elif text.startswith(b"{"):
            found[name] = msgspec.Raw(merged(bytes(found.get(name, b"")), text))
        else:
            found[name] = value
    return _encode(found)


def chan_info(given: bytes, data: bytes) -> bytes:
    """Return what a token or a backend has given, with the presence data.

    Both are JSON texts, or empty.

    Raises:
        ThalamusError: 108, what was given is no object, so it has no place for data.
    """
    if not data:
        return given
    if not given:
        return data
    if not given.startswith(b"{"):
        raise ThalamusError("presence data: `info` of the subscription is no object", ErrorCode.NOT_AVAILABLE)
    return _encode(_members(given) | {"presence": msgspec.Raw(data)})
