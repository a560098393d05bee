"""Real texts in many languages and scripts."""

from __future__ import annotations

import functools
import random
from pathlib import Path


@functools.cache
def by_language() -> dict[str, list[str]]:
    """Return headings and paragraphs of one text, by language."""
    found: dict[str, list[str]] = {}
    for line in (Path(__file__).parent / "udhr.tsv").read_text(encoding="utf-8").splitlines():
        language, _, text = line.partition("\t")
        found.setdefault(language, []).append(text)
    return found


def pieces(rng: random.Random, count: int) -> list[str]:
    """Return pieces of these texts, such as people write: a few words to a paragraph."""
    texts = by_language()
    languages = sorted(texts)
    found: list[str] = []
    for number in range(count):
        text = rng.choice(texts[languages[number % len(languages)]])
        parts = text.split(" ") if " " in text else list(text)
        size = min(len(parts), rng.choice((1, 2, 3, 5, 8, 13, 21, 400)))
        start = rng.randrange(len(parts) - size + 1)
        found.append((" " if " " in text else "").join(parts[start : start + size]))
    return found
