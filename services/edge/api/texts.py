"""Texts in requests that follow a rule: a pattern in OpenAPI, words in errors."""

from __future__ import annotations

import re

import msgspec

from services.shared.text_rules import TextRule

LINE = TextRule(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)", "one line without control characters")
_MISMATCH = re.compile(r"matching regex (.+?)(?= - at `|$)", re.DOTALL)
_words: dict[str, str] = {}  # by pattern, as msgspec's errors show it


def text_of(rule: TextRule, *, max_length: int | None = None) -> msgspec.Meta:
    """Return what msgspec checks: a text of the rule, and its length."""
    _words[repr(rule.pattern)] = rule.words
    return msgspec.Meta(pattern=rule.pattern, max_length=max_length)


def in_words(message: str) -> str:
    """Return an error of msgspec with the words of a rule in place of its pattern."""
    return _MISMATCH.sub(lambda found: f"that is {_words.get(found[1], 'of the form that OpenAPI says')}", message)
