"""A sweep does not stop at what fails for good.

A sweep takes a number of the oldest marks. Those that fail stay where they are, in front of all others; the next sweep
leaves out as many, until it has come to the end of the marks. Then it begins with the oldest ones again.
"""

from __future__ import annotations


class Rotation:
    """Says how many of the oldest marks the next sweep leaves out: `skip`."""

    def __init__(self) -> None:
        self.skip = 0

    def swept(self, *, left: int, is_end: bool) -> None:
        """Note a sweep: how many of its marks are left, and whether there are no more."""
        self.skip = 0 if is_end else self.skip + left
