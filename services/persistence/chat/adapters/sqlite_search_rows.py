"""Rows and tokens of the index in SQLite.

The row of a document is the number of its conversation × 2^36 + its offset. A token is the number, `_`, and the token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.persistence.chat.index.analyser import Condition, tokens_of
from services.persistence.chat.index.query import Query

_BITS = 36  # of an offset
MAX_OFFSET = (1 << _BITS) - 1
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NAME = "\0"  # stands for the number of a conversation, in a pattern; no token has it


def row_of(number: int, offset: int) -> int:
    """Return the row of a document."""
    return (number << _BITS) + offset


def rows_of(number: int, above: int, upto: int) -> tuple[int, int]:
    """Return the first and the last row of a range of offsets."""
    return row_of(number, above + 1), row_of(number, upto)


def offset_of(row: int) -> int:
    """Return the offset of the document in a row."""
    return row & MAX_OFFSET


def body_of(number: int, atoms: Sequence[str], tags: Sequence[str]) -> str:
    """Return the text that FTS5 gets of a document."""
    name = _name(number)
    return " ".join([name + token for token in (*tokens_of(atoms), *tags)])


def with_tag(number: int, tag: str) -> str:
    """Return a question of FTS5: which documents of a conversation have this tag."""
    return _quoted(Condition((tag,))).replace(_NAME, _name(number))


def question_of(query: Query) -> Callable[[int], str]:
    """Return what makes a query a question of FTS5, by the number of a conversation."""
    conditions = [_quoted(one) for phrase in query.phrases for one in phrase.conditions()]
    for tags in query.tags:
        conditions.append("(" + " OR ".join([_quoted(Condition((tag,))) for tag in tags]) + ")")
    without = [_quoted(only) for phrase in query.without if (only := phrase.exactly()) is not None]
    pattern = f"({' AND '.join(conditions)})" + "".join([f" NOT {one}" for one in without])
    return lambda number: pattern.replace(_NAME, _name(number))


def _name(number: int) -> str:
    """Return a number as tokens begin with it, in base 36."""
    digits = ""
    while number:
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits + "_"


def _quoted(condition: Condition) -> str:
    star = "*" if condition.is_prefix else ""
    return f'"{" ".join([_NAME + token for token in condition.tokens])}"{star}'
