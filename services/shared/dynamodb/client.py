"""Calls to DynamoDB: boto3 in threads, each with a deadline, repeated with jitter where that is safe."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from prometheus_client import Counter, Histogram

from services.shared.dynamodb.budget import RetryBudget, pause_s
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from services.shared.process.metrics import SECONDS_BUCKETS

logger = logging.getLogger(__name__)

DEADLINE_S = 2.5
_CONNECT_TIMEOUT_S = 1.0
_READ_TIMEOUT_S = 2.0
_BATCH_WRITE = 25
_LOOK_S = 1.0  # between looks for credentials
_LOG_S = 60.0  # between two log lines of the same refusal
_TEMPORARY = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "ThrottledException",
        "RequestLimitExceeded",
        "InternalServerError",
        "InternalFailure",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "TransactionConflictException",
        "TransactionInProgressException",
        "ReplicatedWriteConflictException",
    }
)
_UNASKED = (NoCredentialsError, PartialCredentialsError, ParamValidationError)
_CALLS = Counter("thalamus_dynamodb_calls", "First tries of calls to DynamoDB.", ["op"])
_REPEATS = Counter("thalamus_dynamodb_repeats", "Repetitions of calls to DynamoDB.", ["op", "reason"])
_SECONDS = Histogram("thalamus_dynamodb_seconds", "Seconds of one try of a call.", ["op"], buckets=SECONDS_BUCKETS)

_serializer = TypeSerializer()
_deserializer = TypeDeserializer()


class CallRefused(Unavailable):
    """It answered, or could not be asked, and repeating does not change that: rights, credentials, limits."""


class _ForeignAnswerError(BotoCoreError):
    fmt = "the answer is not DynamoDB's"


class TableMissing(Unavailable):
    """There is no such table."""


class TableExists(Exception):
    """A table of that name is there, or being made or removed."""


class ConditionFailed(Exception):
    """A condition of a write did not hold, now or when a try whose answer was lost was carried out.

    `item`: what is there, where the call asked for it (ReturnValuesOnConditionCheckFailure).
    """

    def __init__(self, op: str, item: Mapping[str, Any] | None = None) -> None:
        super().__init__(op)
        self.item = item or {}


def item_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Python values as DynamoDB's attributes: int and Decimal are N, bytes B, str S, bool BOOL."""
    return {name: _serializer.serialize(value) for name, value in values.items()}


def values_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse: B as bytes, N as Decimal."""
    found = {name: _deserializer.deserialize(value) for name, value in item.items()}
    return {name: bytes(value) if hasattr(value, "value") else value for name, value in found.items()}


class DynamoDb:
    """One client and its threads. `call` names operations as boto3's client does: "put_item"."""

    def __init__(self, settings: DynamoDbSettings, *, deadline_s: float = DEADLINE_S) -> None:
        """Makes no request to DynamoDB; boto3 may ask the host for credentials.

        Raises:
            ConfigError: boto3 can't make a client of the settings.
        """
        self._deadline_s = deadline_s
        self._executor = ThreadPoolExecutor(settings.threads, "dynamodb")
        self._reconnecting = threading.Lock()
        self._budget = RetryBudget()
        self._settings = settings
        self._client = self._connect()
        self._connected_at = time.monotonic()
        self._refusals: dict[str, float] = {}  # code of a refusal → when it was logged

    async def close(self) -> None:
        """Let what runs end, then close the connections."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._client.close()

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """One operation, repeated while its failure is temporary.

        So a write may have been carried out more than once, or although it failed: make it idempotent or conditional.

        Raises:
            ConditionFailed: its condition does not hold.
            TableMissing, TableExists: as they say.
            CallRefused: repeating is of no use now (logged).
            Unavailable: no success within the deadline (2.5 s) and the budget.
        """
        self._budget.deposit()
        _CALLS.labels(op).inc()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._tries(op, arguments)
        except TimeoutError:
            raise Unavailable("DynamoDB did not answer in time") from None

    async def write_all(self, table: str, requests: Sequence[dict[str, Any]]) -> None:
        """BatchWriteItem of any number of put and delete requests; what comes back unprocessed is repeated.

        Raises:
            Unavailable: some may not be written.
        """
        for start in range(0, len(requests), _BATCH_WRITE):
            left: Sequence[dict[str, Any]] = requests[start : start + _BATCH_WRITE]
            attempt = 0
            while left:
                answer = await self.call("batch_write_item", RequestItems={table: list(left)})
                left = answer.get("UnprocessedItems", {}).get(table, [])
                if left:
                    await self._pause("batch_write_item", "unprocessed", attempt)
                    attempt += 1

    async def query(self, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """Items of a query, page after page, until the caller has enough."""
        while True:
            answer = await self.call("query", **arguments)
            for item in answer.get("Items", []):
                yield item
            if "LastEvaluatedKey" not in answer:
                return
            arguments["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _tries(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        attempt = 0
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._once, op, arguments)
            except ClientError as error:
                reason = _temporary(error)
                if reason is None:
                    raise self._refused(op, error) from error
            except _UNASKED as error:
                raise CallRefused(f"DynamoDB can't be asked: {error}") from error
            except BotoCoreError as error:  # no connection, no answer, or one that can't be read
                reason = type(error).__name__
            await self._pause(op, reason, attempt)
            attempt += 1

    async def _pause(self, op: str, reason: str, attempt: int) -> None:
        if not self._budget.withdraw():
            raise Unavailable(f"DynamoDB fails too often: {reason}")
        _REPEATS.labels(op, reason).inc()
        await asyncio.sleep(pause_s(attempt))

    def _connect(self) -> Any:
        try:
            return boto3.session.Session().client(
                "dynamodb",
                region_name=self._settings.region,
                endpoint_url=self._settings.endpoint or None,
                config=Config(
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    max_pool_connections=self._settings.threads,
                    retries={"total_max_attempts": 1, "mode": "standard"},  # repeating is ours
                    tcp_keepalive=True,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"DYNAMODB_ENDPOINT, AWS_REGION: {error}") from error

    def _once(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """In a thread."""
        started = time.perf_counter()
        try:
            answer: dict[str, Any] = getattr(self._client, op)(**arguments)
        except (NoCredentialsError, PartialCredentialsError):
            self._look_for_credentials()
            raise
        finally:
            _SECONDS.labels(op).observe(time.perf_counter() - started)
        # botocore takes a body that it can't read as an empty answer: something between us may have written it.
        if "x-amzn-requestid" not in answer["ResponseMetadata"]["HTTPHeaders"]:
            raise _ForeignAnswerError
        return answer

    def _look_for_credentials(self) -> None:
        """boto3 does so once, when a client is made; those of a role or a file may come later."""
        with self._reconnecting:
            if time.monotonic() - self._connected_at >= _LOOK_S:
                self._client = self._connect()
                self._connected_at = time.monotonic()

    def _refused(self, op: str, error: ClientError) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", [])]
        if code == "ConditionalCheckFailedException" or "ConditionalCheckFailed" in reasons:
            return ConditionFailed(op, error.response.get("Item"))  # type: ignore[arg-type]
        if code == "ResourceNotFoundException":
            return TableMissing(f"DynamoDB has no such table: {error}")
        if code == "ResourceInUseException":
            return TableExists(str(error))
        now = time.monotonic()
        if now - self._refusals.get(code, -_LOG_S) >= _LOG_S:
            self._refusals[code] = now
            logger.error("DynamoDB refused", extra={"op": op, "code": code, "error": str(error)})
        return CallRefused(f"DynamoDB refused: {code} {error.response.get('Error', {}).get('Message', '')}".rstrip())


def _temporary(error: ClientError) -> str | None:
    """Why it may be repeated; None: it may not."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "TransactionCanceledException":
        reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])} - {"None", None}
        passing = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
        return "transaction" if reasons and reasons <= passing else None
    if code in _TEMPORARY or status >= 500:
        return code or str(status)
    return None
