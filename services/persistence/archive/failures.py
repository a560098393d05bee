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
            self.note(error)
            if self.is_away:
                raise
        else:
            self.note_success()

    def note(self, error: Unavailable) -> None:
        """Note a failure."""
        self._first = self._first or error
        self._in_a_row += not isinstance(error, SegmentUnreadable)

    def note_success(self) -> None:
        """Note that an object was written, read or deleted."""
        self._in_a_row = 0

    @property
    def is_away(self) -> bool:
        """Whether so much failed in a row that trying others is of no use now."""
        return self._in_a_row >= _IN_A_ROW

    def end(self) -> None:
        """Raise the first failure, if there was any."""
        if self._first is not None:
            raise self._first
