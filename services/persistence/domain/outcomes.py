"""Outcomes of an append: a stream position, or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from services.shared.errors import ErrorCode, ThalamusError


class AppendedPosition(NamedTuple):
    """Stream position; `repeated_key`: that of an earlier publish with the same key."""

    offset: int
    epoch: str
    repeated_key: bool


class TooLarge(ThalamusError):
    """The publication is larger than the store can keep; nothing was done."""

    code = ErrorCode.BAD_REQUEST


class Recheck(ThalamusError):
    """Membership version or epoch is not that of the guard, or it is too late.

    It got no offset.

    `mv`: the membership version. Its publication may not be readable yet, and is dropped if it can't be stored.
    """

    def __init__(self, mv: int) -> None:
        super().__init__(f"the membership version is {mv}, or it is later", ErrorCode.INTERNAL)
        self.mv = mv


Outcome = AppendedPosition | ThalamusError
OutcomeCallback = Callable[[int, Outcome], None]
