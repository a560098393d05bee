"""`python -m bench.search`: how long a search takes among a million messages.

A file of SQLite gets conversations with a million messages and their index, before the platform starts on it. One user
is a member of some of them, and searches: for common and rare words, phrases and beginnings, the newest and the best.
Words are as often as in real texts (Zipf). What is found is checked: it has the words, and is the user's to read.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

import click
import msgspec

from bench.callers import NO_LIMITS, Caller, caller
from bench.measure.usage import usage
from bench.servers.platform import platform
from bench.servers.target import Target
from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.sqlite_search import SqliteSearchIndex
from services.persistence.chat.domain.names import RANDOM_BYTES, group_channel
from services.persistence.chat.index.ports import Document, Update
from services.persistence.chat.index.query import author_tag
from services.persistence.domain.ports import Row
from services.shared.hotlog.hotlog import CHANGES_MEMBERSHIP, COUNTS, GRANTS
from services.shared.hotlog.keys import pair
from thalamus.common.v1.common_pb2 import ClientInfo, Publication

_SETTINGS = {**NO_LIMITS, "EDGE_SEARCHES_PER_USER_PER_S": "0", "PERSISTENCE_SEARCH": "on"}
_FILE = "persistence.sqlite3"
_READER, _OWNER = "reader", "owner"
_WORDS_OF_A_MESSAGE = 12
_VOCABULARY = 50_000
_DAYS = 400.0  # over which the messages are spread
_WARM = 20  # searches before the first one that counts
_SEED = 1
_encode = msgspec.json.Encoder().encode


class _Words:
    """Words, of which the first ones are the most frequent."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        self.all = ["".join(chance.choices(letters, k=chance.randint(2, 9))) + str(rank) for rank in range(_VOCABULARY)]
        self._sums = list(itertools.accumulate(1 / (rank + 3) for rank in range(_VOCABULARY)))

    def text(self) -> str:
        """Return the text of a message."""
        return " ".join(self._chance.choices(self.all, cum_weights=self._sums, k=_WORDS_OF_A_MESSAGE))


def _row(channel: str, offset: int, author: str, event: object, time_ms: int, counted: tuple[int, int, int]) -> Row:
    flags, n, mv = counted
    publication_id = offset.to_bytes(8, "big") + channel.encode()[-8:]
    one = Publication(
        id=publication_id, data=_encode(event), info=ClientInfo(user=author), time_ms=time_ms, flags=flags
    )
    return Row(channel, offset, one.id, one.SerializeToString(), pair("bench", str(offset)), flags, n, mv)


async def _fill(data: Path, channels: Sequence[str], own: int, messages: int) -> None:
    """Write conversations and their index; the reader is a member of the first `own`."""
    now = time.time()
    store = SqliteLogStore(data / _FILE, clock=lambda: now - 7_200)  # their keys count no more
    index = SqliteSearchIndex(store.database, store.note_erasure)
    words = _Words(random.Random(_SEED))
    each = messages // len(channels)
    for number, channel in enumerate(channels):
        await store.open(channel)
        begin = int(1_000 * (now - _DAYS * 86_400)) + number
        create = {"kind": "conversation", "op": "create", "type": "group", "name": f"Group {number}"}
        rows = [_row(channel, 1, _OWNER, create, begin, (CHANGES_MEMBERSHIP | GRANTS, 0, 1))]
        member = {"kind": "member", "op": "add", "user": _READER if number < own else "stranger", "role": "member"}
        rows.append(_row(channel, 2, _OWNER, member, begin, (GRANTS, 0, 1)))
        documents: dict[int, Document | None] = {}
        for offset in range(3, each + 3):
            time_ms = begin + int(_DAYS * 86_400_000 * offset / (each + 3))
            text = words.text()
            rows.append(
                _row(channel, offset, _OWNER, {"kind": "message", "text": text}, time_ms, (COUNTS, offset - 2, 1))
            )
            documents[offset] = Document(time_ms, text.split(" "), (author_tag(_OWNER),))
        await store.write(rows)
        await index.apply([Update(channel, 0, each + 2, documents)])
    await store.close()


def _queries(words: Sequence[str], chance: random.Random) -> dict[str, list[str]]:
    """Return queries by kind."""

    def some(first: int, last: int) -> str:
        return words[chance.randrange(first, last)]

    count = range(200)
    return {
        "a common word (one of the first 20)": [some(0, 20) for _ in count],
        "a word in some conversations": [some(1_000, 3_000) for _ in count],
        "a rare word": [some(20_000, _VOCABULARY) for _ in count],
        "two common words": [f"{some(0, 50)} {some(0, 50)}" for _ in count],
        "a phrase": [f'"{some(0, 50)} {some(0, 50)}"' for _ in count],
        "the beginning of a word": [f"{some(0, 500)[:3]}*" for _ in count],
        "a common word without another": [f"{some(0, 20)} -{some(20, 40)}" for _ in count],
    }


async def _ask(
    target: Target, client: Caller, queries: Sequence[str], own: set[str], searches: int, sort: str
) -> list[float]:
    """Return the CPU of persistence for a search, and times of searches, ms."""
    took: list[float] = []
    before = 0.0
    for number in range(_WARM + searches):
        query = queries[number % len(queries)]
        if number == _WARM:
            before = usage(target.pids()).cpu["persistence"]
        began = time.perf_counter()
        found = await client.call("messages.search", query=query, sort=sort)
        if number >= _WARM:
            took.append(1e3 * (time.perf_counter() - began))
        wanted = query.split(" -")[0].replace('"', "")
        words = wanted.split(" ")
        for one in found["messages"]:
            text = one["text"] + " "
            is_right = all(word.rstrip("*") in text for word in words) and (query[0] != '"' or wanted + " " in text)
            if one["channel"] not in own or not is_right:
                raise click.ClickException(f"{query}: {one} was found")
    after = usage(target.pids()).cpu["persistence"]
    cuts = quantiles(took, n=100, method="inclusive")
    return [1e3 * (after - before) / searches, cuts[49], cuts[98], max(took)]


def _copied(file: Path, to: Path) -> bool:
    """Copy a file if it is there; return whether it is."""
    if not file.exists():
        return False
    shutil.copy(file, to)
    return True


async def measure(*, conversations: int, own: int, messages: int, searches: int, kept: Path | None = None) -> str:
    """Return a table with a row for each kind of query.

    `kept`: a file that was filled by an earlier run, or will be by this one.
    """
    chance = random.Random(_SEED)
    channels = [group_channel("conv", chance.randbytes(RANDOM_BYTES)) for _ in range(conversations)]
    words = _Words(random.Random(_SEED)).all
    lines = ["| query | order | CPU of persistence, ms | p50, ms | p99, ms | longest, ms |"]
    lines.append("|---|---|---:|---:|---:|---:|")

    async def prepare(data: Path) -> None:
        if kept is None or not _copied(kept, data / _FILE):
            await _fill(data, channels, own, messages)
            if kept is not None:
                _copied(data / _FILE, kept)

    async with platform(edges=1, environment=_SETTINGS, prepare=prepare) as target, caller(target, _READER) as client:
        for channel in channels[:own]:  # a change has the read model written, which knows of the member then
            await client.call("reactions.add", channel=channel, of=3, name="+")
        await _listed(client, own)
        for kind, queries in _queries(words, chance).items():
            for sort in ("newest", "best"):
                row = await _ask(target, client, queries, set(channels[:own]), searches, sort)
                lines.append(f"| {kind} | {sort} | {' | '.join(f'{value:,.1f}' for value in row)} |")
    return "\n".join(lines) + "\n"


async def _listed(client: Caller, own: int) -> None:
    """Wait until the user's list has all conversations."""
    async with asyncio.timeout(120):
        while True:
            found, cursor = 0, ""
            while True:
                page = await client.call("conversations.list", limit=1_000, cursor=cursor)
                found, cursor = found + len(page["conversations"]), page.get("cursor", "")
                if not cursor:
                    break
            if found == own:
                return
            await asyncio.sleep(0.2)


@click.command()
@click.option("--conversations", default=600, show_default=True)
@click.option("--own", default=300, show_default=True, help="Conversations of the user who searches.")
@click.option("--messages", default=1_000_000, show_default=True, help="In all conversations.")
@click.option("--searches", default=400, show_default=True, help="Of each kind.")
@click.option("--file", "kept", type=click.Path(path_type=Path), help="Filled once, and used again by later runs.")
def main(conversations: int, own: int, messages: int, searches: int, kept: Path | None) -> None:
    """Measure how long a search takes among a million messages."""
    table = measure(conversations=conversations, own=own, messages=messages, searches=searches, kept=kept)
    click.echo(asyncio.run(table))


if __name__ == "__main__":
    main()
