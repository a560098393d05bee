"""Numbers that Redis gave to the append calls of this edge; none comes twice.

If one does, Redis went back.

**Purpose.** Several calls are under way at the same time. Redis may go back to older data between two of them, without
a broken connection, and give the second one the positions of the first. What the edge knew when it sent the second call
can't show that, and what other edges write meanwhile may make up for what Redis counts of all.

**Rules.**

1. Redis counts the calls that it executed of each edge, and answers a call with its number. Two calls with one number
   mean that the count went back between them: the data that the first one wrote is gone.
2. A call brings the highest number that is known. A Redis that has counted fewer calls of this edge does nothing.
3. Replies may come in any order: one may wait for a script to be loaded, or come over an earlier connection. So what is
   compared is not their order, but whether a number was given before.
4. When no call is under way, every number up to the highest one counts as given: rule 2 keeps later calls above.

**Example.** 7 is known, and two calls are under way. Redis executes the first one as number 8, goes back to 7, and
executes the second one as number 8, too. The second reply shows it, and the edge begins a new generation.

Decision: docs/decisions/0039-an-edge-counts-its-own-appends.md.
"""

from __future__ import annotations


class OwnAppends:
    """The numbers of one edge, in one incarnation of Redis."""

    def __init__(self) -> None:
        self.highest = 0  # what Redis must have counted at least
        self._token = ""
        self._missing: set[int] = set()  # below the highest, and without a reply
        self._under_way = 0

    def use(self, token: str, counted: int) -> None:
        """Begin with what Redis has counted, if this incarnation is new."""
        if token != self._token:
            self._token, self.highest = token, counted
            self._missing.clear()

    def began(self) -> None:
        """Note that calls are being sent. Call `ended` once their replies were taken."""
        self._under_way += 1

    def ended(self) -> None:
        """Note that the calls have replies or are given up; later replies are ignored."""
        self._under_way -= 1
        if not self._under_way:
            self._missing.clear()

    def is_new(self, number: int) -> bool:
        """Take the number of a call; return False if another call had it: Redis went back."""
        if number > self.highest:
            self._missing.update(range(self.highest + 1, number))
            self.highest = number
            return True
        if number in self._missing:
            self._missing.remove(number)
            return True
        return False
