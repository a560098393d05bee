"""The newest messages of a conversation, as far as counting them goes.

Purpose. Unread messages of a user are those that count, are not deleted, are of others, and stand above the user's
marker. One object for each conversation answers that for all of its users, exactly, as of the conversation's position.

Rules.

* It has all messages above `low`: offsets of those that are live and count, by author and all together, and whom
  messages mention. What is deleted is taken out, so nothing is subtracted but the user's own.
* It goes with the conversation in memory: whatever that folds is taken in at the same moment (`Live`). So an answer
  needs nothing but a look at sorted offsets, and holds for the position.
* A message mentions a user once, also if it mentions everybody besides, and never its author. Silent messages mention
  nobody; answers in threads do, though they don't count as unread.
* A row may have been erased because of an event that is not folded yet. Whose message it was is not known then. Until
  that event is folded the counts are `unclear`.

Example. Offsets 5 and 7 are messages of u1, 6 one of u2 that mentions u1; `low` is 4. Above 4 u1 has 1 unread, which
mentions u1, and u2 has 2. The delete of 7 is folded: u2 has 1.

Trade-offs. 16 bytes for each message, and some for each author, for as long as somebody asks. In return neither the
store nor Redis has anything of it: no write for a message, nothing to erase, nothing to repair after a crash.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from services.persistence.chat.said import NOBODY, Mentions

if TYPE_CHECKING:
    Offsets = array[int]


class Found(NamedTuple):
    """A live message, as it is found in the log; `counts`: it counts as unread."""

    offset: int
    author: str
    counts: bool
    mentions: Mentions = NOBODY


class Recent:
    """Messages above `low`, as of the position of the conversation that has it."""

    __slots__ = (
        "_authors",
        "_by",
        "_by_to_all",
        "_mentioning",
        "_offsets",
        "_to",
        "_to_all",
        "low",
        "unasked",
        "unclear_until",
    )

    def __init__(self, low: int) -> None:
        """Begin behind an offset: nothing above it was folded yet."""
        self.low = low
        self.unclear_until = 0  # the counts are unclear below this position
        self.unasked = 0  # messages that came since somebody asked
        self._offsets, self._authors = _none(), list[str]()  # of live messages that count, ascending
        self._by: dict[str, Offsets] = {}  # the same by author
        self._mentioning: dict[int, tuple[str, Mentions]] = {}  # live message that mentions → author, whom
        self._to: dict[str, Offsets] = {}  # user → messages of others that mention the user and not everybody
        self._to_all = _none()  # that mention everybody
        self._by_to_all: dict[str, Offsets] = {}  # the same by author

    def __len__(self) -> int:
        return len(self._offsets) + len(self._mentioning)

    # Questions.

    def unread(self, user: str, above: int) -> int:
        """Count messages of others above an offset, which is `low` or above it."""
        return _above(self._offsets, above) - _above(self._by.get(user), above)

    def mentions(self, user: str, above: int) -> int:
        """Count messages of others above an offset that mention a user."""
        if not self._mentioning:
            return 0
        everybody = _above(self._to_all, above) - _above(self._by_to_all.get(user), above)
        return everybody + _above(self._to.get(user), above)

    # What the conversation folds.

    def add(self, offset: int, author: str, *, counts: bool, mentions: Mentions = NOBODY) -> None:
        """Take in the next message."""
        self.unasked += 1
        if counts:
            self._offsets.append(offset)
            self._authors.append(author)
            self._by.setdefault(author, _none()).append(offset)
        self._mention(offset, author, mentions)

    def erased(self, by: int) -> None:
        """Take in a message that is erased, because of the event at `by`."""
        self.unclear_until = max(self.unclear_until, by)

    def edit(self, offset: int, author: str, mentions: Mentions) -> None:
        """Take in that a message mentions others now."""
        if offset > self.low:
            self._mention_nobody(offset)
            self._mention(offset, author, mentions)

    def delete(self, offset: int) -> None:
        """Take in that a message is deleted."""
        self._mention_nobody(offset)
        index = bisect_left(self._offsets, offset)
        if index < len(self._offsets) and self._offsets[index] == offset:
            del self._offsets[index]
            _remove(self._by, self._authors.pop(index), offset)

    def purge(self, user: str, upto: int) -> None:
        """Take in that all messages of a user up to an offset are deleted."""
        own = self._by.get(user, _none())
        gone = set(own[: bisect_right(own, upto)])
        if gone:
            self._filter(lambda offset: offset not in gone)
        mentioning = [offset for offset, (author, _) in self._mentioning.items() if author == user and offset <= upto]
        for offset in mentioning:
            self._mention_nobody(offset)

    # What is read from the log.

    def prepend(self, low: int, found: Iterable[Found]) -> None:
        """Have the messages between another `low` and the present one, in any order."""
        older = sorted(found)
        counting = [one for one in older if one.counts]
        self._offsets[:0] = array("q", [one.offset for one in counting])
        self._authors[:0] = [one.author for one in counting]
        by: dict[str, Offsets] = {}
        for one in counting:
            by.setdefault(one.author, _none()).append(one.offset)
        for author, offsets in by.items():
            offsets.extend(self._by.get(author, ()))
            self._by[author] = offsets
        for one in older:
            self._mention(one.offset, one.author, one.mentions)
        self.low = low

    def forget(self, upto: int) -> None:
        """Have nothing up to an offset any more."""
        if upto <= self.low:
            return
        self._filter(lambda offset: offset > upto)
        for offset in [offset for offset in self._mentioning if offset <= upto]:
            self._mention_nobody(offset)
        self.low = upto

    def _filter(self, stays: Callable[[int], bool]) -> None:
        kept = [(offset, author) for offset, author in zip(self._offsets, self._authors, strict=True) if stays(offset)]
        self._offsets, self._authors = array("q", [offset for offset, _ in kept]), [author for _, author in kept]
        self._by = {}
        for offset, author in kept:
            self._by.setdefault(author, _none()).append(offset)

    def _mention(self, offset: int, author: str, mentions: Mentions) -> None:
        if mentions is NOBODY:
            return
        self._mentioning[offset] = author, mentions
        if mentions.everybody:
            _insert(self._to_all, offset)
            _insert(self._by_to_all.setdefault(author, _none()), offset)
            return
        for user in mentions.users:
            if user != author:
                _insert(self._to.setdefault(user, _none()), offset)

    def _mention_nobody(self, offset: int) -> None:
        author, mentions = self._mentioning.pop(offset, ("", NOBODY))
        if mentions.everybody:
            del self._to_all[bisect_left(self._to_all, offset)]
            _remove(self._by_to_all, author, offset)
            return
        for user in mentions.users:
            if user != author:
                _remove(self._to, user, offset)


def _none() -> Offsets:
    return array("q")


def _above(offsets: Offsets | None, above: int) -> int:
    return 0 if offsets is None else len(offsets) - bisect_right(offsets, above)


def _insert(offsets: Offsets, offset: int) -> None:
    if not offsets or offsets[-1] < offset:
        offsets.append(offset)
    else:
        offsets.insert(bisect_left(offsets, offset), offset)


def _remove(offsets: dict[str, Offsets], name: str, offset: int) -> None:
    """Remove an offset that is there, and the name with its last one."""
    some = offsets[name]
    del some[bisect_left(some, offset)]
    if not some:
        del offsets[name]
