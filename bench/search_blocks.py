"""`python -m bench.search_blocks`: what an index of messages in DynamoDB costs.

Indexes a conversation as persistence does, 100 messages of twelve words at a time, and searches it for the newest 20
messages. Units are computed from the sizes of items (`aws/units.py`), so they are the same on any machine.
DYNAMODB_ENDPOINT names the emulator, as moto's server; tables are made there.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections import Counter
from pathlib import Path

import click

from bench.aws.units import MeteredDynamoDb
from services.persistence.chat.adapters.dynamodb.search.index import DynamoDbSearchIndex
from services.persistence.chat.index.analyser import atoms_of
from services.persistence.chat.index.ports import Asked, Document, Scope, Update
from services.persistence.chat.index.query import author_tag, read_query
from services.shared.dynamodb import tables
from services.shared.dynamodb.settings import DynamoDbSettings

_CHANNEL = "conv:g.aaaaaaaaaaaaaaaaaaaaaaaaaa"
_WORDS_OF_A_MESSAGE = 12
_SEALED = 100  # messages
_PATIENCE_S = 60.0
_SEED = 1


def _texts(chance: random.Random, count: int) -> list[str]:
    """Return texts of twelve words each, cut out of the documentation."""
    pages = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))
    words = [word for page in pages for word in page.read_text().split()]
    starts = [chance.randrange(len(words) - _WORDS_OF_A_MESSAGE) for _ in range(count)]
    return [" ".join(words[start : start + _WORDS_OF_A_MESSAGE]) for start in starts]


async def measure(settings: DynamoDbSettings, messages: int) -> list[str]:
    """Return lines of a table."""
    chance = random.Random(_SEED)
    texts = _texts(chance, messages)
    counts = Counter(word for text in texts for word in set(atoms_of(text)))
    db = MeteredDynamoDb(settings, deadline_s=_PATIENCE_S)
    await tables.create(db, settings)
    index = DynamoDbSearchIndex(db, settings.chat_table, deadline_s=_PATIENCE_S, long_deadline_s=_PATIENCE_S)
    units = db.begin()
    for top in range(0, messages, _SEALED):
        documents = {
            offset: Document(offset, atoms_of(texts[offset - 1]), [author_tag(f"user {chance.randrange(20)}")])
            for offset in range(top + 1, top + _SEALED + 1)
        }
        if not (await index.apply([Update(_CHANNEL, top, top + _SEALED, documents)]))[0]:
            raise RuntimeError("the table was not empty")
    lines = [
        "| what | requests | write units | read units | found |",
        "|---|---:|---:|---:|---:|",
        f"| index a message (mean of {messages:,}) | {units.requests / messages:.3f} | {units.writes / messages:.2f} "
        f"| {units.reads / messages:.2f} | |",
    ]
    ((common, often),) = counts.most_common(1)
    rare = [word for word, count in sorted(counts.items()) if count == 1]
    asked = {
        f"a word of {often:,} messages": common,
        "a word of one message": rare[0],
        "two such words, not of the same one": f"{rare[0]} {rare[-1]}",
        "a word of none": "absentest",
        "the beginning of a word of none": "absentest*",
    }
    for name, query in asked.items():
        units = db.begin()
        hits = await index.find(Asked(read_query(query, ""), [Scope(_CHANNEL, 0, messages)], 20))
        lines.append(f"| search for {name} | {units.requests} | 0 | {units.reads:g} | {len(hits.places)} |")
    for name, offset in (("the newest 1,000", messages - 5), ("the first 1,000", 5)):
        units = db.begin()
        await index.apply([Update(_CHANNEL, messages, messages, {offset: None})])
        lines.append(f"| delete a message of {name} | {units.requests} | {units.writes:g} | {units.reads:g} | |")
    await db.close()
    return lines


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--messages", default=10_000, show_default=True, help="Of the conversation; a multiple of 100.")
def main(messages: int) -> None:
    """Measure, and print a table."""
    endpoint = os.environ["DYNAMODB_ENDPOINT"]
    settings = DynamoDbSettings(endpoint=endpoint, table_prefix=f"{uuid.uuid4().hex}-", create_tables=True)
    print("\n".join(asyncio.run(measure(settings, messages))))


if __name__ == "__main__":
    main()
