"""Makes patches between two payloads, in the format of Fossil's deltas.

**Purpose.** A subscriber that has the previous publication of a channel needs only what changed.

**Format.** All integers are in base 64 with the digits `0-9 A-Z _ a-z ~`, the most significant first:

    <length of the result> LF
    <n> @ <offset> ,     copy n bytes of the base from offset     } any number of these,
    <n> : <n bytes>      insert these bytes                       } in any order
    <checksum> ;         sum of the result's big-endian 32-bit words, modulo 2**32

**How.** What both payloads begin and end with is copied. The rest is looked up in the base in pieces of `_PIECE` bytes:
a piece that is there is extended in both directions and copied. What is left is inserted.

**Rules.**

1. No cut in the result is inside a UTF-8 character, so the patch of a text is text.
2. A piece is first looked up close behind the last copy, where it is if the payload was edited in place. Only if the
   piece before was not found either, it is looked up in the whole base.
3. The work has a bound that does not depend on the payloads: `_PIECES` pieces, and `_SEARCHED` bytes of the base for
   each of the two kinds of look-up. What is not looked up is inserted.

**Example.** Base `{"n":10,"text":"…"}`, result `{"n":11,"text":"…"}`: insert `{"n":11`, copy the rest. What both begin
with is too short for a copy.

**Trade-off.** A piece that moved is found only where the pieces of the result happen to lie, so a patch may be longer
than the best one. Source: the file format of Fossil SCM. Decision: docs/decisions/0036-deltas.md.
"""

from __future__ import annotations

import sys
from array import array

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_PIECE = 32  # bytes of a piece that is looked up in the base
_PIECES = 512  # largest number of pieces: about 2 ms
_SEARCHED = 131_072  # largest number of bytes that are searched, near and in the whole base each: about 2 ms
_NEAR = 1_024  # bytes behind the last copy that are close to it
_SHORTEST = 12  # bytes of the shortest copy: its instruction, and that of one more insertion, take about as many
_LONGEST_CHARACTER = 4  # bytes
_CONTINUATION = 0b10  # the two highest bits of a byte that continues a UTF-8 character


def create(base: bytes, result: bytes) -> bytes:
    """Return a patch that makes `result` of `base`; it may be longer than `result`."""
    patch = [_number(len(result)), b"\n"]
    common = min(len(base), len(result))
    prefix = _character_start(result, _length_forwards(base, 0, result, 0, common))
    if prefix < _SHORTEST:
        prefix = 0
    suffix = _length_backwards(base, len(base), result, len(result), common - prefix)
    end = _next_character(result, len(result) - suffix)
    if len(result) - end < _SHORTEST:
        end = len(result)
    if prefix:
        _copy(patch, prefix, 0)
    _middle(patch, base, result, prefix, end)
    if end < len(result):
        _copy(patch, len(result) - end, len(base) - (len(result) - end))
    patch += (_number(_checksum(result)), b";")
    return b"".join(patch)


def _middle(patch: list[bytes], base: bytes, result: bytes, start: int, end: int) -> None:
    """Add the instructions for the bytes of the result from `start` to `end`."""
    at = behind = start  # position in the result; position in the base behind the last copy
    near = far = _SEARCHED  # bytes that may still be searched
    for _ in range(_PIECES):
        if end - at < _PIECE or near <= 0:
            break
        piece = result[at : at + _PIECE]
        last = min(len(base), behind + _NEAR + at - start)
        found = base.find(piece, behind, last)
        near -= (last if found < 0 else found) - behind + _PIECE
        if found < 0 and at > start and far > 0:
            found = base.find(piece, 0, far)
            far -= min(far, len(base)) if found < 0 else found + _PIECE
        if found < 0:
            at += _PIECE
            continue
        begin = _next_character(result, at - _length_backwards(base, found, result, at, min(found, at - start)))
        source = found - (at - begin)
        length = _length_forwards(base, source, result, begin, min(len(base) - source, end - begin))
        length = _character_start(result, begin + length) - begin
        if length < _SHORTEST:
            at += _PIECE
            continue
        _insert(patch, result[start:begin])
        _copy(patch, length, source)
        start = at = begin + length
        behind = source + length
    _insert(patch, result[start:end])


def _copy(patch: list[bytes], length: int, offset: int) -> None:
    patch += (_number(length), b"@", _number(offset), b",")


def _insert(patch: list[bytes], data: bytes) -> None:
    if data:
        patch += (_number(len(data)), b":", data)


def _length_forwards(one: bytes, at: int, other: bytes, other_at: int, most: int) -> int:
    """Return how many bytes from the two positions on are equal, `most` at most.

    The time depends on the result, not on `most`.
    """
    low, step = 0, 64
    while low < most:
        high = min(low + step, most)
        if one[at + low : at + high] != other[other_at + low : other_at + high]:
            break
        low, step = high, 2 * step
    else:
        return most
    while low < high:  # the first `low` bytes are equal, and the first `high` are not
        middle = (low + high) // 2
        if one[at + low : at + middle + 1] == other[other_at + low : other_at + middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


def _length_backwards(one: bytes, at: int, other: bytes, other_at: int, most: int) -> int:
    """Return how many bytes before the two positions are equal, `most` at most."""
    low, step = 0, 64
    while low < most:
        high = min(low + step, most)
        if one[at - high : at - low] != other[other_at - high : other_at - low]:
            break
        low, step = high, 2 * step
    else:
        return most
    while low < high:
        middle = (low + high) // 2
        if one[at - middle - 1 : at - low] == other[other_at - middle - 1 : other_at - low]:
            low = middle + 1
        else:
            high = middle
    return low


def _character_start(text: bytes, at: int) -> int:
    """Return the last position up to `at` that is not inside a UTF-8 character.

    `at` itself if this is no UTF-8.
    """
    for position in range(at, max(at - _LONGEST_CHARACTER, 0), -1):
        if position == len(text) or text[position] >> 6 != _CONTINUATION:
            return position
    return at if at >= _LONGEST_CHARACTER else 0


def _next_character(text: bytes, at: int) -> int:
    """Return the first position from `at` on that is not inside a UTF-8 character.

    `at` itself if this is no UTF-8.
    """
    for position in range(at, min(at + _LONGEST_CHARACTER, len(text))):
        if text[position] >> 6 != _CONTINUATION:
            return position
    return at if at + _LONGEST_CHARACTER <= len(text) else len(text)


def _number(value: int) -> bytes:
    """Return a number in base 64."""
    digits = bytearray()
    while True:
        value, digit = divmod(value, 64)
        digits.append(_DIGITS[digit])
        if not value:
            digits.reverse()
            return bytes(digits)


def _checksum(data: bytes) -> int:
    words = array("I", data + bytes(-len(data) % 4))
    if sys.byteorder == "little":
        words.byteswap()
    return sum(words) % 2**32
