"""What a search must find, told by the slowest and plainest way.

Written from the rules in docs/chat.md, without any code of the platform: it looks at each character by its name in
Unicode, and at each message by itself.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass, field

_WITHOUT_SPACES = (
    "CJK ",
    "HIRAGANA",
    "HENTAIGANA",
    "KATAKANA",
    "COMBINING KATAKANA",
    "BOPOMOFO",
    "KANGXI",
    "IDEOGRAPHIC ITERATION",
    "IDEOGRAPHIC CLOSING",
    "IDEOGRAPHIC NUMBER",
    "HANGZHOU",
    "VERTICAL KANA",
    "VERTICAL IDEOGRAPHIC",
    "MASU",
    "THAI",
    "LAO",
    "MYANMAR",
    "KHMER",
)


@functools.lru_cache(100_000)
def words_of(text: str) -> list[str]:
    """Return words, and single characters of scripts without spaces."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    kept = [one for one in folded if not _is_dropped(one)]
    words: list[str] = []
    is_open = False
    for one in unicodedata.normalize("NFC", "".join(kept)):
        category = unicodedata.category(one)
        name = unicodedata.name(one, "")
        if category == "So" or (category[0] in "LNM" and name.startswith(_WITHOUT_SPACES)):
            words.append(one)
            is_open = False
        elif category[0] in "LNM":
            words[-1:] = [words[-1] + one] if is_open else [*words[-1:], one]
            is_open = True
        else:
            is_open = False
    return words


def _is_dropped(one: str) -> bool:
    point = ord(one)
    return (
        unicodedata.category(one) == "Cf"
        or 0x300 <= point <= 0x36F
        or 0x20D0 <= point <= 0x20FF
        or 0xFE00 <= point <= 0xFE0F
        or 0xE0000 <= point <= 0xE0FFF
    )


def has(text: str, phrase: str, *, is_beginning: bool = False) -> bool:
    """Whether a text has the words of a phrase one behind the other."""
    there, wanted = words_of(text), words_of(phrase)
    for start in range(len(there) - len(wanted) + 1):
        part = there[start : start + len(wanted)]
        if part[:-1] == wanted[:-1] and (part[-1].startswith(wanted[-1]) if is_beginning else part[-1] == wanted[-1]):
            return True
    return False


@dataclass
class Said:
    """A message, as somebody reads it."""

    channel: str
    offset: int
    author: str
    time_ms: int
    text: str
    attachments: int = 0
    mentions: list[str] = field(default_factory=list)
    mention_all: bool = False


@dataclass
class Wish:
    """A query in pieces, and as one types it."""

    words: list[str] = field(default_factory=list)
    phrases: list[str] = field(default_factory=list)
    beginnings: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    author: str = ""
    mentions: str = ""
    has_attachment: bool = False
    since: int | None = None
    before: int | None = None

    def typed(self) -> str:
        """Return the text of the query."""
        pieces = [*self.words, *(f'"{one}"' for one in self.phrases), *(f"{one}*" for one in self.beginnings)]
        pieces += [f'-"{one}"' for one in self.without]
        pieces += [f'from:"{self.author}"'] if self.author else []
        pieces += [f'mentions:"{self.mentions}"'] if self.mentions else []
        pieces += ["has:attachment"] if self.has_attachment else []
        pieces += [] if self.since is None else [f"after:{self.since}"]
        pieces += [] if self.before is None else [f"before:{self.before}"]
        return " ".join(pieces)

    def fits(self, one: Said) -> bool:
        """Whether a message is to be found."""
        return (
            all(has(one.text, wanted) for wanted in (*self.words, *self.phrases))
            and all(has(one.text, wanted, is_beginning=True) for wanted in self.beginnings)
            and not any(has(one.text, unwanted) for unwanted in self.without)
            and (not self.author or one.author == self.author)
            and (not self.mentions or one.mention_all or self.mentions in one.mentions)
            and (not self.has_attachment or one.attachments > 0)
            and (self.since is None or one.time_ms >= self.since)
            and (self.before is None or one.time_ms < self.before)
        )


def newest_first(one: Said) -> tuple[int, str, int]:
    """Return the key of the order."""
    return -one.time_ms, one.channel, -one.offset
