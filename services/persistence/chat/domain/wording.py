"""Turns msgspec's complaints into words for whoever sent the event."""

from __future__ import annotations

import re

_AT = re.compile(r" - at `\$\.?([^`]*)`$")
_WORDS: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"Object contains unknown field `(.{1,64}).*`", re.DOTALL), r"{in_it}there is no member `\1`"),
    (re.compile(r"Object missing required field `(.*)`"), r"{in_it}`\1` is missing"),
    (re.compile(r"Invalid (?:enum )?value .*", re.DOTALL), r"{it} is none of the values that it may be"),
    (re.compile(r"Expected `str` of length <= (\d+)"), r"{it} is longer than \1 characters"),
    (re.compile(r"Expected `array` of length <= (\d+)"), r"{it} has more than \1 entries"),
    (re.compile(r"Expected `\w+` of length >= 1"), r"{it} is empty"),
    (re.compile(r"(?:Integer value|Number) out of range"), r"{it} has a number that is too large"),
    (re.compile(r"Expected `int` >= (\d+)"), r"{it} is less than \1"),
    (re.compile(r"Expected `int` <= (\d+)"), r"{it} is more than \1"),
    (re.compile(r"Expected `str` matching regex.*"), r"{it} has not the form that it must have"),
    (re.compile(r"Expected `(.*)`, got `(.*)`"), r"{it} must be \1, not \2"),
    (re.compile(r"Expected `(.*)`"), r"{it} must be \1"),
]
_TYPES = {
    "int | null": "an integer or null",
    "str | null": "a string or null",
    "object": "an object",
    "array": "an array",
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "float": "a number with a fraction or exponent",
}


def in_words(complaint: str) -> str:
    """Return in words what a complaint of msgspec says, as "`of` is less than 1"."""
    place = _AT.search(complaint)
    path = place[1] if place else ""
    what = complaint[: place.start()] if place else complaint
    for pattern, words in _WORDS:
        if match := pattern.fullmatch(what):
            said = re.sub(r"\\(\d)", lambda group: _named(match[int(group[1])]), words)
            return said.replace("{it}", f"`{path}`" if path else "the event").replace(
                "{in_it}", f"in `{path}` " if path else ""
            )
    return what


def _named(value: str) -> str:
    """Return the words for a type; anything else as it is."""
    return _TYPES.get(value, value)
