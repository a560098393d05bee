"""Validates JSON texts that are passed on to subscribers byte for byte.

A publication is copied into frames unchanged. A text that is not JSON would break the frame parser of every subscriber.
msgspec checks the grammar of a `Raw` fully (numbers, escapes, surrogate pairs, control characters), but not its UTF-8
and, within the interpreter's recursion limit, not its depth. Both are checked here. So are numbers that some clients
can't read: those beyond the range of doubles, and integers with very many digits, on which the `json` module of Python
fails and ends the official SDK. Decision: docs/decisions/0015.
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
_THREE_DIGITS = re.compile(rb"[0-9]{3}")  # a run of 310 digits gives at least three digits in a row in the samples
_LONG_INTEGER = re.compile(rb"(?:^|[\s,:\[])-?[0-9]{310}[0-9]*+(?![.eE])")
_RAW = msgspec.json.Decoder(msgspec.Raw)


def _refuse_infinity(number: str) -> None:
    """Raise ValueError if the number is infinite as a double.

    msgspec calls this with the text of every number that has a fraction or an exponent.
    """
    if ("e" in number or "E" in number or len(number) > MAX_INTEGER_DIGITS) and isinf(float(number)):
        raise ValueError(number)


# msgspec's own number parser takes 20 times as long for `1e300`.
_decode_numbers = msgspec.json.Decoder(float_hook=_refuse_infinity).decode


class InvalidJson(ThalamusError):
    """Not a JSON text, or one that some clients can't read. Error 107."""

    code = ErrorCode.BAD_REQUEST


class JsonText(bytes):
    """A JSON text that every client can read: it passed the checks of this module.

    Made by decoders that check a whole message before they hand out a part of it, so that nobody parses the part again.
    Code that needs a JSON text checks whatever is not of this type. A part or a copy of it is plain bytes again.
    """

    __slots__ = ()


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
    """Whether arrays and objects of a JSON text are nested deeper than `limit`.

    Counting the opening brackets settles nearly every text. The strings must be well-formed, or the result is
    meaningless.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    steps = _STRINGS.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def unreadable_number(text: bytes) -> str:
    """Say which number of a JSON text many clients can't read; "" if there is none.

    The text must be well-formed and not nested too deeply.
    """
    if len(text) > MAX_INTEGER_DIGITS and _has_long_integer(text):
        return f"an integer of more than {MAX_INTEGER_DIGITS} digits"
    try:
        _decode_numbers(text)
    except msgspec.ValidationError:
        return "a number beyond doubles"
    return ""


def _has_long_integer(text: bytes) -> bool:
    """Whether the text has an integer of more than 309 digits.

    Looking at every hundredth byte settles nearly every text. A search for a long run of digits settles most of the
    rest.
    """
    if _THREE_DIGITS.search(text[::_SAMPLE_EVERY]) is None:
        return False
    if _A_LONG_RUN not in text.translate(_DIGITS):
        return False
    return _LONG_INTEGER.search(_STRINGS.sub(b"", text)) is not None


def checked_json(text: bytes) -> bytes:
    """Return the text without surrounding whitespace.

    Raises:
        InvalidJson: as for `well_formed_json`, or a number in it can't be read by many clients.
    """
    value = well_formed_json(text)
    if wrong := unreadable_number(value):
        raise InvalidJson(wrong)
    return value


def well_formed_json(text: bytes) -> bytes:
    """Return the text without surrounding whitespace.

    Raises:
        InvalidJson: it is not exactly one JSON value in UTF-8, has a lone surrogate, or is nested too deeply.
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
