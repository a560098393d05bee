"""What is deleted is gone from the index, too: no byte of it is in any file."""

from __future__ import annotations

import contextlib
import random
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import redis.asyncio

from services.persistence.chat.adapters import sqlite_search
from services.shared.errors import Unavailable
from tests.chat.search_play import planted
from tests.support.chat_calls import Replica, Site, group, say, sqlite_site
from tests.support.full import sized

STORAGE = Path(__file__).parents[2] / "docs" / "storage.md"


class Files:
    """The files of a store, and the words that are in them."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder

    async def words(self) -> set[str]:
        """Return the ends of planted words that are still in the files."""
        index = self.site.store.search
        await index.scrub()
        await self.site.rows.scrub()
        return self.found()

    def found(self) -> set[str]:
        """Return them, without having them erased before."""
        found: set[str] = set()
        for file in self.folder.iterdir():
            found |= {word.decode() for word in re.findall(rb"[0-9a-f]{12}zz", file.read_bytes())}
        return found


@pytest.fixture
async def site(redis_conn: redis.asyncio.Redis, redis_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with sqlite_site(redis_url, tmp_path / "log.sqlite3", has_search=True) as found:
        yield found


@pytest.fixture
def files(site: Site, tmp_path: Path) -> Files:
    return Files(site, tmp_path)


async def index_all(*replicas: Replica) -> None:
    """Have everything in the index that these replicas have to bring there."""
    for replica in replicas:
        assert replica.chat.indexing is not None
        for _ in range(1_000):  # a page or some each time
            await replica.chat.projection.flush()
            await replica.chat.indexing.flush()
            if not (await replica.store.search.behind("", 1_000))[0]:
                break


async def test_deleted_edited_and_purged_words_are_in_no_file(site: Site, a: Replica, files: Files) -> None:
    """Of messages that stand among others, in several conversations."""
    rng = random.Random(5)
    kept: set[str] = set()
    gone: set[str] = set()
    for _ in range(sized(3, 12)):
        channel = await group(a, "ann", "bob", versions="erase")
        for number in range(sized(12, 200)):
            word = planted(rng)
            user = rng.choice(("ann", "bob"))
            offset = await say(a, user, channel, f"see {word} and {number}")
            fate = rng.random()
            if number % 5 == 0:
                await index_all(a)
                assert word[1:] in await files.words()
            if user == "bob" or fate < 0.4:
                gone.add(word[1:])
            else:
                kept.add(word[1:])
            if user == "ann" and fate < 0.2:
                await a.call(user, "messages.delete", channel=channel, of=offset)
            elif user == "ann" and fate < 0.4:
                new = planted(rng)
                kept.add(new[1:])
                await a.call(user, "messages.edit", channel=channel, of=offset, text=f"now {new}")
        await index_all(a)
        await a.call("ann", "messages.purge", channel=channel, user="bob", upto=10_000)
    await index_all(a)
    found = await files.words()
    assert found & gone == set()
    assert kept <= found
    for word in kept:
        answer = await a.call("ann", "messages.search", query="q" + word)
        assert len(answer["messages"]) == 1


async def test_the_words_of_a_deleted_conversation_are_in_no_file(site: Site, a: Replica, files: Files) -> None:
    rng = random.Random(6)
    words = [planted(rng) for _ in range(sized(40, 700))]
    channel, other = await group(a, "ann", "bob"), await group(a, "ann", "bob")
    for word in words:
        await say(a, "ann", channel, f"see {word}")
    stays = planted(rng)
    await say(a, "ann", other, f"see {stays}")
    await index_all(a)
    await a.call("ann", "conversations.delete", channel=channel)
    await index_all(a)
    for removal in await site.rows.removals():
        await site.rows.finish_removal(removal)
    assert await files.words() == {stays[1:]}


async def test_what_a_dead_process_left_in_the_index_another_one_takes_out(
    site: Site, a: Replica, b: Replica, files: Files
) -> None:
    """The process that deleted dies before it has told the index."""
    word = planted(random.Random(7))
    channel = await group(a, "ann", "bob")
    offset = await say(a, "ann", channel, f"see {word}")
    await index_all(a)
    await a.rest()  # nothing goes on behind its answers
    await a.call("ann", "messages.delete", channel=channel, of=offset)
    assert await b.call("bob", "messages.search", query=word) == {"messages": []}
    assert word[1:] in await files.words()
    assert await b.chat.projection.sweep(-1.0) > 0
    assert word[1:] not in await files.words()


async def test_a_mark_stays_until_the_index_has_it(site: Site, a: Replica, b: Replica, files: Files) -> None:
    """A deletion that can't be written to the index now is written later."""
    word = planted(random.Random(8))
    channel = await group(a, "ann", "bob")
    offset = await say(a, "ann", channel, f"see {word}")
    await index_all(a)
    for replica in (a, b):
        await replica.rest()
    apply = site.store.search.apply

    async def fail(*_: object) -> list[bool]:
        raise RuntimeError("the disk is full")

    site.store.search.apply = fail
    await a.call("ann", "messages.delete", channel=channel, of=offset)
    await a.chat.projection.flush()
    assert await b.chat.projection.sweep(-1.0) == 0
    site.store.search.apply = apply
    assert await b.chat.projection.sweep(-1.0) > 0
    assert word[1:] not in await files.words()


async def test_what_was_never_indexed_and_is_deleted_never_is(site: Site, a: Replica, files: Files) -> None:
    word = planted(random.Random(9))
    channel = await group(a, "ann", "bob")
    await a.rest()
    offset = await say(a, "ann", channel, f"see {word}")
    await a.call("ann", "messages.delete", channel=channel, of=offset)
    await index_all(a)
    assert await files.words() == set()


@pytest.mark.skipif(sqlite3.sqlite_version_info >= (3, 42), reason="FTS5 erases at once")
async def test_a_round_of_scrubbing_that_fails_is_done_again(
    site: Site, a: Replica, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever that is, and whatever is erased meanwhile."""
    monkeypatch.setattr(sqlite_search, "_MERGED_AT_ONCE", 1)
    rng = random.Random(11)
    merge = sqlite_search._merge  # noqa: SLF001
    channel = await group(a, "ann", "bob", versions="erase")
    gone: set[str] = set()
    for round_ in range(sized(4, 40)):
        words = [planted(rng) for _ in range(8)]
        others = [" ".join(f"{rng.getrandbits(40):x}" for _ in range(300)) for _ in words]
        offsets = [await say(a, "ann", channel, f"{word} {other}") for word, other in zip(words, others, strict=True)]
        await index_all(a)
        left = 1 + rng.randrange(2)

        def fail(connection: sqlite3.Connection, pages: int, left: list[int] = [left]) -> bool:  # noqa: B006
            left[0] -= 1
            if left[0] < 0:
                raise sqlite3.OperationalError("the disk is full")
            return merge(connection, pages)

        for word, offset in zip(words[:4], offsets, strict=False):
            gone.add(word[1:])
            await a.call("ann", "messages.delete", channel=channel, of=offset)
        await index_all(a)
        monkeypatch.setattr(sqlite_search, "_merge", fail)
        with contextlib.suppress(Unavailable):
            await site.store.search.scrub()
        monkeypatch.setattr(sqlite_search, "_merge", merge)
        if round_ % 2:
            assert await files.words() & gone == set(), (round_, left)
        gone.add(words[4][1:])
        await a.call("ann", "messages.delete", channel=channel, of=offsets[4])
        await index_all(a)
        assert await files.words() & gone == set(), (round_, left)


async def test_an_index_can_be_dropped_as_the_docs_say(site: Site, a: Replica, files: Files, tmp_path: Path) -> None:
    """Then no word is left that the log does not have."""
    word = planted(random.Random(10))
    channel = await group(a, "ann", "bob")
    offset = await say(a, "ann", channel, f"see {word}")
    await index_all(a)
    for replica in site.replicas:
        await replica.rest()
    await a.call("ann", "messages.delete", channel=channel, of=offset)
    assert word[1:] in await files.words()
    (statements,) = re.findall(r'sqlite3 data/persistence.sqlite3 "(.*DROP TABLE.*)"', STORAGE.read_text())
    with closing(sqlite3.connect(tmp_path / "log.sqlite3", isolation_level=None)) as db:
        for statement in statements.split(";"):
            db.execute(statement)
        assert db.execute("SELECT name FROM sqlite_schema WHERE name LIKE 'search%'").fetchall() == []
    assert word[1:] not in files.found()
