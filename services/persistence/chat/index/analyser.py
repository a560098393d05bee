"""Which words a text has, for all that search.

Purpose. Messages and queries are cut up by the same rules, whatever store keeps the index. So what is found depends on
the text alone.

Rules.

* Letters are made equal: NFKC, case folding, then the marks U+0300 to U+036F go. `Café`, `CAFE` and full-width letters
  are one word. Other marks are letters in their scripts, and stay.
* Characters that nobody sees (category Cf), variation selectors and marks around symbols are taken out.
* An *atom* is a run of letters, digits and marks; or one character of a script that has no spaces between words (Han,
  Kana, Bopomofo, Thai, Lao, Myanmar, Khmer); or one symbol, as emoji are. All else separates.
* A text contains a phrase if the phrase's atoms stand in it one behind the other. A word of a query that has several
  atoms is a phrase.
* The index has *tokens*. An atom is its own token, cut to 64 characters. A run of characters without spaces gives its
  pairs, and its last character.

Example. `Café 東京都!` has the atoms `cafe 東 京 都` and the tokens `cafe 東京 京都 都`. The query `京都` asks for the
token `京都`, `京` for tokens that begin with it.

Trade-offs. Words of Chinese or Thai are not known, so `京都` is found in `東京都`, too: nothing is missed, whatever the
dictionary. Endings stay, so `walks` is not found by `walk`, and is by `walk*`.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_TOKEN = 64  # characters of a token
_ASCII_WORD = re.compile("[a-z0-9]+")
_UNSPACED = (  # first and last character of blocks of scripts without spaces
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u2e80", "\u2fdf"),  # parts of Han
    ("\u3005", "\u3007"),
    ("\u3021", "\u3029"),
    ("\u3031", "\u3035"),
    ("\u3038", "\u303c"),
    ("\u3041", "\u30ff"),  # Kana
    ("\u3100", "\u312f"),  # Bopomofo
    ("\u31a0", "\u31bf"),
    ("\u31f0", "\u31ff"),
    ("\u3400", "\u4dbf"),  # Han
    ("\u4e00", "\u9fff"),
    ("\ua9e0", "\ua9ff"),  # Myanmar
    ("\uaa60", "\uaa7f"),
    ("\uf900", "\ufaff"),  # Han
    ("\U0001aff0", "\U0001b16f"),  # Kana
    ("\U00020000", "\U0003ffff"),
)
_TAKEN_OUT = (("\u0300", "\u036f"), ("\u20d0", "\u20ff"), ("\ufe00", "\ufe0f"), ("\U000e0000", "\U000e0fff"))
_CLASSIFIED = 0x34000  # code points; above there is nothing but what is taken out
_PIECES = {"word": "[{}]+", "unspaced": "[{}]", "symbol": "[{}]"}


class Condition(NamedTuple):
    """Tokens one behind the other in the index; the last one may be a prefix."""

    tokens: tuple[str, ...]
    is_prefix: bool = False


class Phrase(NamedTuple):
    """Atoms one behind the other; of the last one perhaps only the beginning."""

    atoms: tuple[str, ...]
    is_prefix: bool = False

    def is_in(self, spaced: str) -> bool:
        """Whether a text has it; `spaced`: see there."""
        return self._pattern() in spaced

    def count_in(self, spaced: str) -> int:
        """Return how many times a text has it, apart from those that overlap."""
        return spaced.count(self._pattern())

    def _pattern(self) -> str:
        return f" {'  '.join(self.atoms)}{'' if self.is_prefix else ' '}"

    def conditions(self) -> list[Condition]:
        """Return what the index has of every text that contains it, and of few others."""
        found: list[Condition] = []
        for is_unspaced, run in _runs(self.atoms):
            if is_unspaced and len(run) > 1:
                found.append(Condition(tuple(map("".join, itertools.pairwise(run)))))
            else:
                found.append(Condition(tuple(atom[:MAX_TOKEN] for atom in run), is_unspaced))
        last = self.atoms[-1]
        if self.is_prefix and len(last) <= MAX_TOKEN and found[-1].tokens[-1] == last:
            found[-1] = found[-1]._replace(is_prefix=True)
        return found

    def exactly(self) -> Condition | None:
        """Return what the index has of all texts that contain it, and of no others.

        None: it has no such thing.
        """
        conditions = self.conditions()
        return conditions[0] if len(conditions) == 1 and max(map(len, self.atoms)) <= MAX_TOKEN else None


def atoms_of(text: str) -> list[str]:
    """Return the atoms of a text, in their order."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    taken_out, atom, _ = _patterns()
    text = unicodedata.normalize("NFKC", text).casefold()
    text = taken_out.sub("", unicodedata.normalize("NFD", text))
    return atom.findall(unicodedata.normalize("NFC", text))


def spaced(atoms: Sequence[str]) -> str:
    """Return atoms as the text in which `Phrase` looks for its own.

    Each atom has a space before and behind it, which no atom has. So a phrase is a part of a string, and a search for
    it takes some microseconds in a long message, whatever both are.
    """
    return f" {'  '.join(atoms)} "


def tokens_of(atoms: Sequence[str]) -> list[str]:
    """Return the tokens of a text with these atoms, in their order."""
    tokens: list[str] = []
    for is_unspaced, run in _runs(atoms):
        if is_unspaced:
            tokens += map("".join, itertools.pairwise(run))
            tokens.append(run[-1])
        else:
            tokens += [atom[:MAX_TOKEN] for atom in run]
    return tokens


def is_unspaced(atom: str) -> bool:
    """Whether an atom is a character of a script without spaces."""
    return not atom.isascii() and _patterns()[2].match(atom) is not None


def _runs(atoms: Sequence[str]) -> Iterator[tuple[bool, Sequence[str]]]:
    """Yield the longest runs of atoms of one kind, and if they are without spaces."""
    start = 0
    kinds = list(map(is_unspaced, atoms))
    for end in range(1, len(atoms) + 1):
        if end == len(atoms) or kinds[end] != kinds[start]:
            yield kinds[start], atoms[start:end]
            start = end


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return patterns of what is taken out, of an atom, and of one without spaces.

    Made at the first text that needs them, as they take some hundredths of a second.
    """
    found: dict[str, list[str]] = {"word": [], "unspaced": [], "symbol": [], "out": []}
    start, before = 0, ""
    for point in range(_CLASSIFIED + 1):
        kind = _kind(chr(point)) if point < _CLASSIFIED else ""
        if kind != before:
            if before:
                found[before].append(f"{re.escape(chr(start))}-{re.escape(chr(point - 1))}")
            start, before = point, kind
    found["out"].append("\U000e0000-\U000e0fff")
    classes = {kind: "".join(ranges) for kind, ranges in found.items()}
    atom = "|".join(piece.format(classes[kind]) for kind, piece in _PIECES.items())
    return re.compile(f"[{classes['out']}]+"), re.compile(atom), re.compile(f"[{classes['unspaced']}]")


def _kind(character: str) -> str:
    """Return what a character is part of; "": of nothing, it separates."""
    category = unicodedata.category(character)
    if category == "Cf" or any(first <= character <= last for first, last in _TAKEN_OUT):
        return "out"
    if category == "So":
        return "symbol"
    if category[0] not in "LNM":
        return ""
    return "unspaced" if any(first <= character <= last for first, last in _UNSPACED) else "word"
