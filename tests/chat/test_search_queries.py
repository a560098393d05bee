"""What people type, and what it means."""

from __future__ import annotations

import pytest

from services.persistence.chat.domain.state import Content
from services.persistence.chat.index.analyser import Phrase
from services.persistence.chat.index.query import MAX_ATOMS, MAX_PREFIXES, BadQuery, Query, read_query

DAY = 86_400_000


def content(text: str = "", **others: object) -> Content:
    given = {"format": "plain", "attachments": (), "mentions": (), "mention_all": False, "meta": {}} | others
    return Content(text=text, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("See you", Query((Phrase(("see",)), Phrase(("you",))))),
        ('"See  you" see', Query((Phrase(("see", "you")), Phrase(("see",))))),
        ("ship* -draft", Query((Phrase(("ship",), True),), (Phrase(("draft",)),))),
        ('a -"b c" -d*', Query((Phrase(("a",)),), (Phrase(("b", "c")),))),
        ("京都* x", Query((Phrase(("京", "都")), Phrase(("x",))))),
        ("http://a.b to:c", Query((Phrase(("http", "a", "b")), Phrase(("to", "c"))))),
        ('"open end', Query((Phrase(("open", "end")),))),
        ("twice twice !!! ...", Query((Phrase(("twice",)),))),
        ('from:me from:"u 2"', Query(authors=("me-id", "u 2"))),
        ("x in:conv:g.a", Query((Phrase(("x",)),), channels=("conv:g.a",))),
        ("mentions:me has:attachment", Query(mentions=("me-id",), has_attachment=True)),
        ("x after:1970-01-02 before:1970-01-03", Query((Phrase(("x",)),), before=2 * DAY, since=DAY)),
        ("x after:1970-01-01T01:00:00+01:00", Query((Phrase(("x",)),), since=0)),
        ("x before:1700000000000", Query((Phrase(("x",)),), before=1_700_000_000_000)),
        ("x before:1970-01-03 before:1970-01-02", Query((Phrase(("x",)),), before=DAY)),
    ],
)
def test_a_query_is_read(text: str, query: Query) -> None:
    if "-d*" in text:
        with pytest.raises(BadQuery):
            read_query(text, "me-id")
        return
    assert read_query(text, "me-id") == query


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "-only",
        "before:2026-01-01",
        "in:conv:g.a",
        "x before:soon",
        "x before:99999-01-01",
        "x has:link",
        "-from:u2 x",
        "a* x",
        'from:""',
        " ".join(f"w{number}" for number in range(MAX_ATOMS + 1)),
        " ".join(f"w{number}*" for number in range(MAX_PREFIXES + 1)),
        "x " + " ".join(f"-w{number}*" for number in range(MAX_PREFIXES + 1)),
        " ".join("京都東北大阪名古屋"),
    ],
)
def test_a_query_that_asks_for_nothing_or_too_much_is_refused(text: str) -> None:
    with pytest.raises(BadQuery):
        read_query(text, "me-id")


def test_so_many_beginnings_may_be_in_a_query() -> None:
    """One that comes twice is one; of Chinese words those of one character count."""
    beginnings = " ".join(f"w{number}*" for number in range(MAX_PREFIXES))
    assert len(read_query(f"{beginnings} w0* 京都 東北 大阪", "me-id").phrases) == MAX_PREFIXES + 3


def test_the_platform_is_nobody_in_a_query() -> None:
    with pytest.raises(BadQuery):
        read_query("from:me", "")
    assert read_query("from:u2", "").authors == ("u2",)


def test_who_mentions_all_mentions_everybody() -> None:
    query = read_query("mentions:u2", "u1")
    assert query.fits("u3", 1, content(mentions=("u2",)))
    assert query.fits("u3", 1, content(mention_all=True))
    assert not query.fits("u3", 1, content(mentions=("u1",)))


def test_the_score_depends_on_the_message_alone_and_prefers_short_ones_with_more_of_it() -> None:
    query = read_query("sea", "u1")
    scores = [query.score(text) for text in ("sea sea", "sea", "sea " + "and " * 30, "land")]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 0


def test_the_score_counts_in_the_beginning_of_a_message_alone() -> None:
    """As an answer may need the scores of 1,000 messages."""
    query = read_query("sea -and", "u1")
    assert query.score("and " * 511 + "sea") > 0
    assert query.score("and " * 512 + "sea") == 0
