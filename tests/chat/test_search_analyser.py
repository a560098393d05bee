"""Which words texts have: as an analyser says that knows nothing of ours."""

from __future__ import annotations

import random
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.persistence.chat.index.analyser import MAX_TOKEN, Condition, Phrase, atoms_of, spaced, tokens_of
from tests.chat.naive_search import has, words_of
from tests.chat.texts import by_language, pieces
from tests.support.full import sized

_EDGES = "aB1_- .é\u0301ßİ\u0131Σς漢字かなアー々ไทยລາວမြန်ខ្មែรहिंदी한글👍🏽👩\u200d💻🇩🇪\u200c\u00ad\ufe0f①Ⅷﬁ\uff12"
texts = st.text(alphabet=st.one_of(st.sampled_from(_EDGES), st.characters(exclude_categories=["Cs"])), max_size=40)


def test_every_character_of_unicode_is_what_the_naive_analyser_says() -> None:
    step = sized(usual=23, full=1)
    first = random.randrange(step)
    print("from", first, "in steps of", step)
    for point in range(first, sys.maxunicode + 1, step):
        if unicodedata.category(chr(point)) not in ("Cs", "Cn", "Co") or point % 97 == 0:
            text = f"a{chr(point)}b {chr(point)}漢"
            assert point in range(0xD800, 0xE000) or atoms_of(text) == words_of(text), hex(point)


@given(texts)
def test_any_text_has_the_words_that_the_naive_analyser_finds(text: str) -> None:
    assert atoms_of(text) == words_of(text)


def test_real_texts_in_25_languages_have_the_same_words() -> None:
    assert len(by_language()) == 25
    for lines in by_language().values():
        for line in lines:
            assert atoms_of(line) == words_of(line)


def _meets(tokens: list[str], condition: Condition) -> bool:
    *head, last = condition.tokens
    for end in range(len(head), len(tokens)):
        found = tokens[end].startswith(last) if condition.is_prefix else tokens[end] == last
        if found and tokens[end - len(head) : end] == head:
            return True
    return False


def _phrases(rng: random.Random, atoms: list[str], others: list[str]) -> list[Phrase]:
    """Return phrases of a text, and such that may be none."""
    found: list[Phrase] = []
    for source in (atoms, others):
        start = rng.randrange(len(source))
        part = source[start : start + rng.randint(1, 4)]
        cut = part[-1][: rng.randint(1, len(part[-1]))]
        found += [Phrase(tuple(part)), Phrase((*part[:-1], cut), True), Phrase((part[0], part[-1]))]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_index_has_what_a_phrase_asks_for_wherever_the_phrase_is(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    texts = [one for one in pieces(rng, sized(usual=500, full=5_000)) if atoms_of(one)]
    counts = {True: 0, False: 0}
    for text, other in zip(texts, reversed(texts), strict=True):
        atoms = atoms_of(text)
        tokens = tokens_of(atoms)
        for phrase in _phrases(rng, atoms, atoms_of(other)):
            is_there = has(text, " ".join(phrase.atoms), is_beginning=phrase.is_prefix)
            assert phrase.is_in(spaced(atoms)) is (phrase.count_in(spaced(atoms)) > 0) is is_there
            conditions = phrase.conditions()
            assert not is_there or all(_meets(tokens, one) for one in conditions)
            exactly = phrase.exactly()
            assert exactly is None or _meets(tokens, exactly) is is_there
            counts[is_there] += 1
    assert min(counts.values()) > 200


def test_a_long_word_is_found_by_all_of_it_and_by_its_beginning() -> None:
    long = "x" * (MAX_TOKEN + 30)
    tokens = tokens_of(atoms_of(f"a {long} b"))
    assert tokens == ["a", "x" * MAX_TOKEN, "b"]
    for phrase in (Phrase((long,)), Phrase((long[:-1],), True), Phrase((long[:50],), True), Phrase(("a", long, "b"))):
        assert all(_meets(tokens, one) for one in phrase.conditions())
        assert phrase.count_in(spaced(atoms_of(f"a {long} b"))) == 1
    assert Phrase((long[:-1],)).count_in(spaced(atoms_of(long))) == 0
    assert Phrase((long,)).exactly() is None
