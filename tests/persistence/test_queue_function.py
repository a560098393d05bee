"""The worker as a function of Lambda: only messages that failed come again."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.domain.ports import Row
from services.persistence.queue.function import Function
from services.persistence.queue.messages import encode
from services.shared.dynamodb import tables
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.aws import client, make_stack
from tests.support.aws_rights import refuse
from tests.support.dynamodb import CREDENTIALS, settings_of
from tests.support.dynamodb_faults import DynamoDbFaults, Shares, dynamodb_faults
from tests.support.full import sized
from tests.support.stack import clean_environment

CHANNELS = ("post:a", "post:b", "post:c")


class Site:
    """Tables, a queue of the template, and the function between them."""

    def __init__(self, address: str, faults: DynamoDbFaults, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults, self._monkeypatch = faults, monkeypatch
        self.settings: DynamoDbSettings = settings_of(faults.address, f"{uuid.uuid4().hex}-")
        self.function = Function(self.settings)
        self._sqs: Any = client("sqs", address)
        name = uuid.uuid4().hex
        urls = make_stack(address, f"q{name}", "queue", {"QueueName": name})
        self.queue, self.dead = urls["QueueUrl"], urls["DeadLetterQueueUrl"]

    def send(self, bodies: list[str]) -> None:
        for body in bodies:
            self._sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def call(self) -> tuple[int, list[str]]:
        """Call with 10 messages at most, delete those that did not fail, as AWS does.

        Those that failed can be received at once. Returns how many there were, and the bodies of those that failed.
        """
        found = self._sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=0)
        messages = {one["MessageId"]: one for one in found.get("Messages", [])}
        event = {"Records": [{"messageId": name, "body": one["Body"]} for name, one in messages.items()]}
        answer = self.function.answer(event)
        failed = [one["itemIdentifier"] for one in answer["batchItemFailures"]]
        for name, one in messages.items():
            what = {"QueueUrl": self.queue, "ReceiptHandle": one["ReceiptHandle"]}
            if name in failed:
                self._sqs.change_message_visibility(**what, VisibilityTimeout=0)
            else:
                self._sqs.delete_message(**what)
        return len(messages), [messages[name]["Body"] for name in failed]

    def dead_bodies(self) -> list[str]:
        found = self._sqs.receive_message(QueueUrl=self.dead, MaxNumberOfMessages=10, WaitTimeSeconds=0)
        return [one["Body"] for one in found.get("Messages", [])]

    def begin(self) -> dict[str, str]:
        """Make channels, then have the rights of a worker alone; return the epochs."""

        async def make() -> dict[str, str]:
            db = DynamoDb(self.settings)
            await tables.create(db, self.settings)
            store = DynamoDbLogStore(db, self.settings.log_table)
            epochs = {channel: (await store.open(channel)).epoch for channel in CHANNELS}
            await db.close()
            return epochs

        epochs = asyncio.run(make())
        refuse(self._monkeypatch, "Worker")
        return epochs

    def stored(self, channel: str) -> list[tuple[int, bytes]]:
        async def read() -> list[tuple[int, bytes]]:
            db = DynamoDb(self.settings)
            store = DynamoDbLogStore(db, self.settings.log_table)
            top = (await store.open(channel)).top
            found = await store.read(channel, since_offset=0, upto=top, limit=10_000, reverse=False)
            await db.close()
            return found

        return asyncio.run(read())


@pytest.fixture
def site(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with dynamodb_faults(dynamodb, seed=1) as faults:
        made = Site(dynamodb, faults, monkeypatch)
        yield made
        made.function.close()


def rows(channel: str, first: int, last: int) -> list[Row]:
    return [
        Row(channel, offset, f"{channel}{offset:>10}".encode()[-16:], f"{channel} {offset}".encode(), "")
        for offset in range(first, last + 1)
    ]


def test_only_what_failed_comes_again(site: Site) -> None:
    epochs = site.begin()
    good = encode(epochs["post:a"], rows("post:a", 1, 3))
    early = encode(epochs["post:b"], rows("post:b", 3, 4))  # 1 and 2 are not there
    site.send([good, early, "poison"])
    assert site.call() == (3, [early, "poison"]) or site.call() == (3, ["poison", early])
    assert site.stored("post:a") == [(offset, f"post:a {offset}".encode()) for offset in (1, 2, 3)]
    site.send([encode(epochs["post:b"], rows("post:b", 1, 2))])
    while site.call()[1] != ["poison"]:
        pass
    assert [offset for offset, _ in site.stored("post:b")] == [1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(sized(1, 20)))
def test_all_is_stored_once_in_order_or_in_the_dead_letter_queue(site: Site, seed: int) -> None:
    print(f"seed {seed}")
    chance, epochs = random.Random(seed), site.begin()
    wanted, sent = {}, []
    for channel in CHANNELS:
        wanted[channel] = rows(channel, 1, 8)
        first = 0
        while first < 8:
            size = chance.randint(1, 4)
            sent.append(encode(epochs[channel], wanted[channel][first : first + size]))
            first += size
    poison = "{}"
    site.faults.begin(seed, Shares(throttled=0.05, lost=0.05))
    # In order enough that nobody waits five times for what is in front of it; some twice.
    moved = sorted(range(len(sent)), key=lambda index: index + chance.uniform(0, 3))
    site.send([*(sent[index] for index in moved), poison, *chance.sample(sent, 3)])
    while site.call()[0]:
        pass
    site.faults.begin(seed, Shares())
    dead = site.dead_bodies()
    assert poison in dead
    for body in dead:  # what waited too long for others is sent again, as `thalamus dlq replay` does
        if body != poison:
            site.send([body])
    while site.call()[0]:
        pass
    for channel in CHANNELS:
        assert site.stored(channel) == [(row.offset, row.publication) for row in wanted[channel]]


def test_a_call_whose_store_is_away_fails_all_and_loses_nothing(site: Site) -> None:
    epochs = site.begin()
    body = encode(epochs["post:a"], rows("post:a", 1, 3))
    site.send([body])
    site.faults.refused = "TableName"
    assert site.call() == (1, [body])
    site.faults.refused = ""
    assert site.call() == (1, [])
    assert [offset for offset, _ in site.stored("post:a")] == [1, 2, 3]


def test_the_handler_of_lambda_reads_its_settings_from_the_environment(site: Site) -> None:
    epochs = site.begin()
    records = [
        {"messageId": "1", "body": encode(epochs["post:a"], rows("post:a", 1, 3))},
        {"messageId": "2", "body": ""},
    ]
    code = "import json, sys; from services.persistence.queue.function import handler as f"
    code += "; print([f(json.loads(line), None) for line in sys.stdin][-1])"
    environment = {"DYNAMODB_ENDPOINT": site.settings.endpoint, "DYNAMODB_TABLE_PREFIX": site.settings.table_prefix}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=f"{json.dumps({'Records': records})}\n" * 2,  # two calls of one process
        env={**clean_environment(), **CREDENTIALS, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "{'batchItemFailures': [{'itemIdentifier': '2'}]}\n"
    assert [offset for offset, _ in site.stored("post:a")] == [1, 2, 3]
