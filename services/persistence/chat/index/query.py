"""What somebody searches for: a query, read and compared with messages.

    ship* "see you at eight" -draft from:u2 in:conv:g.… after:2026-01-31 has:attachment mentions:me

Words and phrases must all be there; those with `-` must not. `ship*` is the beginning of a word. What stands before a
colon and is no name of a filter is a word.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

from services.persistence.chat.domain.state import Content
from services.persistence.chat.index.analyser import Phrase, atoms_of, is_unspaced, spaced

MIN_PREFIX = 2  # characters; so many words begin with one that it would take long
MAX_ATOMS = 32  # of a query
MAX_PREFIXES = 8  # of a query: each is looked for among all words that begin so
_PIECE = re.compile(
    r'(?P<no>-?)(?:(?P<filter>from|in|before|after|has|mentions):)?(?:"(?P<quoted>[^"]*)"?|(?P<bare>\S+))'
)
_MS = re.compile(r"\d{10,16}")
_ME = "me"
_SATURATION, _LENGTH_WEIGHT, _USUAL_LENGTH = 1.2, 0.75, 12.0  # k1 and b of BM25; atoms of a usual message
SCORED_ATOMS = 512  # atoms of a message in which the score counts words
HAS_ATTACHMENT = "_f"
MENTIONS_ALL = "_e"


class BadQuery(ValueError):
    """The query can't be understood; the text says why."""


class Query(NamedTuple):
    """A query that was read.

    `authors`, `channels`: one of them, unless there are none. `mentions`: each of these users. `before`, `since`: Unix
    ms; the first is not part of it, the second is.
    """

    phrases: tuple[Phrase, ...] = ()
    without: tuple[Phrase, ...] = ()
    authors: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    has_attachment: bool = False
    before: int | None = None
    since: int | None = None

    @property
    def tags(self) -> list[list[str]]:
        """Tags that a message has: of each list one."""
        tags = [[author_tag(one) for one in self.authors]] if self.authors else []
        tags += [[mention_tag(user), MENTIONS_ALL] for user in self.mentions]
        return tags + ([[HAS_ATTACHMENT]] if self.has_attachment else [])

    def fits(self, author: str, time_ms: int, content: Content) -> bool:
        """Whether a message is found."""
        return (
            (not self.authors or author in self.authors)
            and (self.before is None or time_ms < self.before)
            and (self.since is None or time_ms >= self.since)
            and self.fits_content(content)
        )

    def fits_content(self, content: Content) -> bool:
        """Whether what a message says is found, whoever says it."""
        if self.has_attachment and not content.attachments:
            return False
        if not content.mention_all and any(user not in content.mentions for user in self.mentions):
            return False
        if not self.phrases and not self.without:
            return True
        text = spaced(atoms_of(content.text))
        return all(phrase.is_in(text) for phrase in self.phrases) and not any(
            phrase.is_in(text) for phrase in self.without
        )

    def score(self, atoms: str) -> float:
        """Return how good a message with these atoms is: more is better.

        `atoms`: with a space between them.

        BM25 without the rarity of words: every message that is found has them all. It depends on nothing but the
        message, so it tells nothing of others, and pages in this order stay what they are. Words are counted among the
        first 512 alone: 1,000 messages of 32,000 bytes each may have to be compared for one answer.
        """
        text = spaced(atoms.split(" ", SCORED_ATOMS)[:SCORED_ATOMS] if atoms else ())
        length = atoms.count(" ") + 1 if atoms else 0
        return self.score_of((phrase.count_in(text) for phrase in self.phrases), length)

    def score_of(self, counts: Iterable[int], length: int) -> float:
        """Return the score of a message with so many atoms.

        `counts`: how often it has each phrase, among the first 512 atoms.
        """
        weight = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length / _USUAL_LENGTH)
        return round(sum(count / (count + weight) for count in counts), 9)


def author_tag(user: str) -> str:
    """Return what the index has in place of an author."""
    return "_a" + _digest(user)


def mention_tag(user: str) -> str:
    """Return what the index has in place of a user who is mentioned."""
    return "_m" + _digest(user)


def tags_of(author: str, content: Content) -> list[str]:
    """Return all tags of a message."""
    tags = [author_tag(author), *(mention_tag(user) for user in dict.fromkeys(content.mentions))]
    tags += [MENTIONS_ALL] if content.mention_all else []
    return tags + ([HAS_ATTACHMENT] if content.attachments else [])


def read_query(text: str, user: str) -> Query:
    """Read a query of a user.

    Raises:
        BadQuery: it asks for nothing, for too much, or a filter has no such value.
    """
    phrases: list[Phrase] = []
    without: list[Phrase] = []
    filters: dict[str, list[str]] = {}
    for piece in _PIECE.finditer(text):
        name, quoted, bare = piece["filter"], piece["quoted"], piece["bare"] or ""
        if name:
            if piece["no"]:
                raise BadQuery("`-` goes before words and phrases")
            filters.setdefault(name, []).append(bare if quoted is None else quoted)
            continue
        atoms = tuple(atoms_of(bare if quoted is None else quoted))
        if atoms:
            is_prefix = quoted is None and bare.endswith("*") and not is_unspaced(atoms[-1])
            if is_prefix and len(atoms[-1]) < MIN_PREFIX:
                raise BadQuery(f"the beginning of a word has at least {MIN_PREFIX} characters")
            phrase = Phrase(atoms, is_prefix)
            (without if piece["no"] else phrases).append(phrase)
    if sum(len(phrase.atoms) for phrase in (*phrases, *without)) > MAX_ATOMS:
        raise BadQuery(f"a query has at most {MAX_ATOMS} words")
    conditions = [one for phrase in (*phrases, *without) for one in phrase.conditions()]
    if len({one for one in conditions if one.is_prefix}) > MAX_PREFIXES:
        raise BadQuery(
            f"a query has at most {MAX_PREFIXES} beginnings of words, or characters of scripts without spaces"
        )
    query = Query(
        tuple(dict.fromkeys(phrases)),
        tuple(dict.fromkeys(without)),
        authors=_users(filters.get("from", ()), user),
        channels=tuple(dict.fromkeys(filters.get("in", ()))),
        mentions=_users(filters.get("mentions", ()), user),
        has_attachment=_has_attachment(filters.get("has", ())),
        before=min((_time_ms(one) for one in filters.get("before", ())), default=None),
        since=max((_time_ms(one) for one in filters.get("after", ())), default=None),
    )
    if not (query.phrases or query.tags):
        raise BadQuery("a query needs a word, a phrase, `from:`, `mentions:` or `has:attachment`")
    return query


def _users(names: Collection[str], user: str) -> tuple[str, ...]:
    if not all(names) or (_ME in names and not user):
        raise BadQuery("`from:` and `mentions:` need a user")
    return tuple(dict.fromkeys(user if name == _ME else name for name in names))


def _has_attachment(values: Collection[str]) -> bool:
    if any(value != "attachment" for value in values):
        raise BadQuery("`has:` takes `attachment`")
    return bool(values)


def _time_ms(text: str) -> int:
    """Return a time, Unix ms; a day is its beginning in UTC."""
    if _MS.fullmatch(text):
        return int(text)
    try:
        time = datetime.datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=datetime.UTC)
        return int(time.timestamp() * 1_000)
    except (ValueError, OverflowError):
        raise BadQuery("`before:` and `after:` take a day (2026-01-31), a time, or Unix milliseconds") from None


def _digest(user: str) -> str:
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:16]
