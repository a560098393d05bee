"""JSON texts that are carried byte for byte: what is wrong with one must show before it reaches a subscriber.

A publication is spliced into frames as it is, so a text that is no JSON would break the frame parser of every client of
the channel. msgspec skips over a `Raw` with a full check of its grammar (numbers, escapes, surrogate pairs, control
characters) but neither of its UTF-8 nor, within the interpreter's recursion limit, of its depth; both are done here.
So are numbers that clients' readers refuse or can't hold: beyond doubles, and integers of very many digits, with which
`json` of Python ends the official SDK. Docs: decision 15.
"""

from __future__ import annotations

import re
from itertools import accumulate
from math import isinf

import msgspec

from services.shared.errors import ErrorCode, ThalamusError

MAX_NESTING = 100
"""Arrays and objects within one another. Far below what any client's parser takes (Rust's serde_json stops at 128,
Python 3.11 near 1,000): what one client may send, every other must be able to read, inside a reply too."""

MAX_INTEGER_DIGITS = 309
"""As many as the greatest double has (1.8e308)."""

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_STEPS = bytes({0x5B: 1, 0x7B: 1, 0x5D: 0xFF, 0x7D: 0xFF}.get(byte, 0) for byte in range(256))  # 0xFF: -1, signed
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_SAMPLE_EVERY = 100
_DIGITS = bytes(0x30 if byte in b"0123456789" else 0x20 for byte in range(256))
_A_LONG_RUN = b"0" * (MAX_INTEGER_DIGITS + 1)
_THREE_DIGITS = re.compile(rb"[0-9]{3}")  # in the samples: no run of 310 digits holds fewer
_LONG_INTEGER = re.compile(rb"(?:^|[\s,:\[])-?[0-9]{310}[0-9]*+(?![.eE])")
_RAW = msgspec.json.Decoder(msgspec.Raw)


def _refuse_infinity(number: str) -> None:
    """Told the text of every number that has a fraction or an exponent."""
    if ("e" in number or "E" in number or len(number) > MAX_INTEGER_DIGITS) and isinf(float(number)):
        raise ValueError(number)


# The reader of its own takes 20 times as long for `1e300`.
_decode_numbers = msgspec.json.Decoder(float_hook=_refuse_infinity).decode


class InvalidJson(ThalamusError):
    """No JSON text, or one that is nested too deeply; error 107 where a client gets to see it."""

    code = ErrorCode.BAD_REQUEST


def is_utf8(text: bytes) -> bool:
    """Whether the bytes are UTF-8 without surrogates (RFC 3629)."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def nests_too_deep(text: bytes, limit: int = MAX_NESTING) -> bool:
    """Whether more than `limit` arrays and objects of a JSON text lie within one another.

    Few brackets can't: two counts settle nearly every text. Strings must be well-formed, or the answer means nothing.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    steps = _STRINGS.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def unreadable_number(text: bytes) -> str:
    """What is wrong with a number of a JSON text, if any is such that many clients can't read it; else "".

    The text must be well-formed and not be nested too deeply.
    """
    if len(text) > MAX_INTEGER_DIGITS and _has_long_integer(text):
        return f"an integer of more than {MAX_INTEGER_DIGITS} digits"
    try:
        _decode_numbers(text)
    except msgspec.ValidationError:
        return "a number beyond doubles"
    return ""


def _has_long_integer(text: bytes) -> bool:
    """Every hundredth byte settles nearly every text, a search for a long run of digits the rest of those without."""
    if _THREE_DIGITS.search(text[::_SAMPLE_EVERY]) is None:
        return False
    if _A_LONG_RUN not in text.translate(_DIGITS):
        return False
    return _LONG_INTEGER.search(_STRINGS.sub(b"", text)) is not None


def checked_json(text: bytes) -> bytes:
    """The text without the blanks around it.

    Raises:
        InvalidJson: as `well_formed_json`, or a number in it is one that clients can't read.
    """
    value = well_formed_json(text)
    if wrong := unreadable_number(value):
        raise InvalidJson(wrong)
    return value


def well_formed_json(text: bytes) -> bytes:
    """The text without the blanks around it.

    Raises:
        InvalidJson: it is not exactly one JSON value in UTF-8, holds a lone surrogate, or is nested too deeply.
    """
    try:
        value = bytes(_RAW.decode(text))
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidJson(f"not JSON: {error}") from error
    if not is_utf8(value):
        raise InvalidJson("not UTF-8")
    if nests_too_deep(value):
        raise InvalidJson("nested too deeply")
    return value
