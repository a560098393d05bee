"""Goes on with other objects when one fails, but not for long when all do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.persistence.archive.ports import SegmentUnreadable
from services.shared.errors import Unavailable

_IN_A_ROW = 5  # failures after which the store or the place of the objects counts as away


class Failed:
    """What has failed of some work on many objects."""

    def __init__(self) -> None:
        self._first: Unavailable | None = None
        self._in_a_row = 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note a failure of the block, and go on behind it.

        Raises:
            Unavailable: that of the block, if several in a row did not answer. A single object that is missing or
                damaged does not count.
        """
        try:
            yield
        except Unavailable as error:
            self._first = self._first or error
            self._in_a_row += not isinstance(error, SegmentUnreadable)
            if self._in_a_row >= _IN_A_ROW:
                raise
        else:
            self._in_a_row = 0

    def end(self) -> None:
        """Raise the first failure, if there was any."""
        if self._first is not None:
            raise self._first
