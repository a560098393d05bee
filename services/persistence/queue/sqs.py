"""SQS by boto3, in threads.

Standard queues: messages may come twice, and in another order. The answers to batches are read item by item.

Sending has a client and threads of its own, with a short limit for each call: publications wait for it. Receiving waits
for messages, and so may take long.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.persistence.queue.metrics import CALLS, SENT
from services.persistence.queue.settings import SqsSettings
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError

RECEIPTS = 5  # receipts of a message after which SQS puts it into the dead-letter queue
_AT_ONCE = 10  # messages of one call
_CALL_BYTES = 250_000  # of all messages of one call
_KEPT_S = 14 * 86_400  # how long a created queue keeps messages, seconds
_WAIT_S = 10  # longest wait of a receiver for messages, seconds
_HELD_S = 30  # how long a received message is hidden from other receivers, seconds
_TIMEOUT_S = 5.0  # longest call besides its waiting, seconds
_SEND_S = 2.5  # longest wait for data of an answer to a sender, seconds
_SENT_S = 3.0  # longest call of a sender, with its wait for a thread, seconds
_SENDERS = 8  # concurrent calls of senders


class Message(NamedTuple):
    """A received message; `receipt` is what it is deleted by."""

    name: str
    receipt: str
    body: str


class QueueRefused(Unavailable):
    """SQS refused a call."""


class QueueMissing(QueueRefused):
    """There is no such queue."""


class SqsQueue:
    """One queue, by its name.

    Methods raise `Unavailable` if SQS does not answer or refuses.
    """

    def __init__(self, settings: SqsSettings) -> None:
        """Create the client; no request yet.

        Raises:
            ConfigError: boto3 does not accept the settings.
        """
        self._settings = settings
        self._urls: dict[str, str] = {}
        try:
            self._calls = _Calls(settings, settings.receivers + 4, read_timeout_s=_TIMEOUT_S + _WAIT_S, attempts=2)
            self._sends = _Calls(settings, _SENDERS, read_timeout_s=_SEND_S, attempts=1, deadline_s=_SENT_S)
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"SQS_ENDPOINT, AWS_REGION: {error}") from error

    async def close(self) -> None:
        """Wait for running calls, then close the connections."""
        await self._calls.close()
        await self._sends.close()

    async def prepare(self) -> None:
        """Look for the queue; create it and its dead-letter queue with SQS_CREATE_QUEUES.

        Raises:
            ConfigError: there is no such queue.
        """
        settings = self._settings
        if settings.create_queues:
            dead = await self._calls.call("create_queue", QueueName=settings.dead_queue, Attributes=_attributes())
            url = dead["QueueUrl"]
            found = await self._calls.call("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
            policy = {"deadLetterTargetArn": found["Attributes"]["QueueArn"], "maxReceiveCount": RECEIPTS}
            await self._calls.call(
                "create_queue",
                QueueName=settings.queue,
                Attributes=_attributes(VisibilityTimeout=str(_HELD_S), RedrivePolicy=json.dumps(policy)),
            )
        try:
            await self._url(settings.queue)
        except QueueMissing as error:
            raise ConfigError(f"SQS_QUEUE: {error}") from error

    @property
    def receivers(self) -> int:
        """How many receivers a worker has."""
        return self._settings.receivers

    async def send(self, bodies: Sequence[str]) -> list[bool]:
        """Send messages; return which of them were taken.

        What was not taken is sent again by the caller.

        Raises:
            Unavailable: SQS does not answer within 3 s a call. Some may be sent.
        """
        taken: list[bool] = []
        for portion in _portions(bodies):
            entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(portion)]
            try:
                url = await self._url(self._settings.queue, self._sends)
                reply = await self._sends.call("send_message_batch", QueueUrl=url, Entries=entries)
            except QueueRefused:
                taken += [False] * len(portion)
                continue
            done = {one["Id"] for one in reply.get("Successful", [])}
            taken += [str(index) in done for index in range(len(portion))]
            SENT.inc(len(done))
        return taken

    async def receive(self, *, dead: bool = False, wait_s: int = _WAIT_S, held_s: int = _HELD_S) -> list[Message]:
        """Return up to 10 messages; wait for the first one.

        `dead`: of the dead-letter queue. They are hidden from others for `held_s` seconds.
        """
        url = await self._url(self._settings.dead_queue if dead else self._settings.queue)
        reply = await self._calls.call(
            "receive_message",
            QueueUrl=url,
            MaxNumberOfMessages=_AT_ONCE,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=held_s,
        )
        return [Message(one["MessageId"], one["ReceiptHandle"], one["Body"]) for one in reply.get("Messages", [])]

    async def delete(self, messages: Sequence[Message], *, dead: bool = False) -> None:
        """Delete up to 10 messages. One that can't be deleted comes again."""
        if messages:
            url = await self._url(self._settings.dead_queue if dead else self._settings.queue)
            entries = [{"Id": str(index), "ReceiptHandle": one.receipt} for index, one in enumerate(messages)]
            await self._calls.call("delete_message_batch", QueueUrl=url, Entries=entries)

    async def put_back(self, messages: Sequence[Message], after_s: int, *, dead: bool = False) -> None:
        """Have up to 10 messages come again after some seconds."""
        if messages:
            entries = [
                {"Id": str(index), "ReceiptHandle": one.receipt, "VisibilityTimeout": after_s}
                for index, one in enumerate(messages)
            ]
            url = await self._url(self._settings.dead_queue if dead else self._settings.queue)
            await self._calls.call("change_message_visibility_batch", QueueUrl=url, Entries=entries)

    async def counts(self) -> tuple[int, int]:
        """Return about how many messages wait, and how many are in the dead-letter queue."""
        found: list[int] = []
        for name in (self._settings.queue, self._settings.dead_queue):
            reply = await self._calls.call(
                "get_queue_attributes",
                QueueUrl=await self._url(name),
                AttributeNames=["ApproximateNumberOfMessages"],
            )
            found.append(int(reply["Attributes"]["ApproximateNumberOfMessages"]))
        return found[0], found[1]

    async def _url(self, name: str, calls: _Calls | None = None) -> str:
        """Return the address of a queue."""
        if name not in self._urls:
            self._urls[name] = (await (calls or self._calls).call("get_queue_url", QueueName=name))["QueueUrl"]
        return self._urls[name]


class _Calls:
    """A client with threads of its own."""

    def __init__(
        self,
        settings: SqsSettings,
        threads: int,
        *,
        read_timeout_s: float,
        attempts: int,
        deadline_s: float | None = None,
    ) -> None:
        """Create the client. `deadline_s`: longest call, with its wait for a thread."""
        self._executor, self._deadline_s = ThreadPoolExecutor(threads, "sqs"), deadline_s
        self._client = boto3.session.Session().client(
            "sqs",
            region_name=settings.region,
            endpoint_url=settings.endpoint or None,
            config=Config(
                connect_timeout=1.0,
                read_timeout=read_timeout_s,
                max_pool_connections=threads,
                retries={"total_max_attempts": attempts, "mode": "standard"},
            ),
        )

    async def close(self) -> None:
        """Wait for running calls, then close the connections."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._client.close()

    async def call(self, op: str, **arguments: Any) -> Mapping[str, Any]:
        """Make one call.

        Raises:
            QueueRefused: SQS refused it.
            Unavailable: SQS does not answer.
        """

        def run() -> Mapping[str, Any]:
            with CALLS.labels(op).time():
                reply: Mapping[str, Any] = getattr(self._client, op)(**arguments)
                return reply

        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, run)
        except TimeoutError:
            raise Unavailable("SQS does not answer in time") from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if op == "get_queue_url" and "NonExistentQueue" in code:
                raise QueueMissing(f"there is no queue {arguments['QueueName']}") from error
            raise QueueRefused(f"SQS refused: {code}") from error
        except BotoCoreError as error:
            raise Unavailable(f"SQS does not answer: {type(error).__name__}") from error


def _attributes(**more: str) -> dict[str, str]:
    return {"MessageRetentionPeriod": str(_KEPT_S), **more}


def _portions(bodies: Sequence[str]) -> list[list[str]]:
    """Return messages in portions of one call each."""
    made: list[list[str]] = []
    left = 0
    for body in bodies:
        size = len(body)  # ASCII
        if not made or len(made[-1]) == _AT_ONCE or size > left:
            made.append([])
            left = _CALL_BYTES
        made[-1].append(body)
        left -= size
    return made
