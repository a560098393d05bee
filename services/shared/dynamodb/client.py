"""DynamoDB client: boto3 in threads, with a deadline per call and bounded retries.

Only temporary failures are retried, after random pauses.
"""

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

from services.shared.dynamodb.budget import RetryBudget, retry_backoff
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.config import ConfigError
from services.shared.process.metrics import SECONDS_BUCKETS

logger = logging.getLogger(__name__)

DEADLINE_S = 2.5  # longest call with its retries, seconds
_CONNECT_TIMEOUT_S = 1.0  # longest wait for a connection, seconds
_READ_TIMEOUT_S = 2.0  # longest wait for data of a response, seconds
_BATCH_WRITE = 25  # most requests of one BatchWriteItem
_CHECK_S = 1.0  # seconds between looks for credentials
_LOG_S = 60.0  # seconds between two log lines of the same refusal
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
    """The call was refused, or could not be made, and a retry would not help.

    Reasons are missing rights or credentials, and limits.
    """


class _ForeignResponseError(BotoCoreError):
    """Something between us and DynamoDB answered in its place."""

    fmt = "the response is not DynamoDB's"


class TableMissing(Unavailable):
    """The table does not exist."""


class TableExists(Exception):
    """The table exists, or is being created or deleted."""


class ConditionFailed(Exception):
    """The condition of a write did not hold.

    That may be the result of a retry after an earlier try was executed and its response lost.

    `item`: what is there, if the call asked for it (ReturnValuesOnConditionCheckFailure).
    `parts`: the same for each part of a transaction whose condition did not hold, by its index.
    """

    def __init__(
        self, op: str, item: Mapping[str, Any] | None = None, parts: Mapping[int, Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__(op)
        self.item = item or {}
        self.parts = parts or {}


def item_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert Python values to attributes of DynamoDB.

    int and Decimal become N, bytes B, str S, bool BOOL.
    """
    return {name: _serializer.serialize(value) for name, value in values.items()}


def values_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert attributes to Python values: B to bytes, N to Decimal."""
    found = {name: _deserializer.deserialize(value) for name, value in item.items()}
    return {name: bytes(value) if hasattr(value, "value") else value for name, value in found.items()}


class DynamoDb:
    """One boto3 client with its threads.

    `call` names operations as boto3's client does: "put_item".
    """

    def __init__(self, settings: DynamoDbSettings, *, deadline_s: float = DEADLINE_S) -> None:
        """Create the client; no request to DynamoDB yet.

        boto3 may ask the host for credentials.

        Raises:
            ConfigError: boto3 does not accept the settings.
        """
        self._deadline_s = deadline_s
        self._executor = ThreadPoolExecutor(settings.threads, "dynamodb")
        self._reconnecting = threading.Lock()
        self._budget = RetryBudget()
        self._settings = settings
        self._client = self._connect()
        self._connected_at = time.monotonic()
        self._refusals: dict[str, float] = {}  # code of a refusal → monotonic seconds when it was logged

    async def close(self) -> None:
        """Wait for running requests, then close the connections."""
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._client.close()

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Make one call, and retry it while the failure is temporary.

        A write may be executed more than once, or although the call failed: make it idempotent or conditional.

        Raises:
            ConditionFailed: its condition does not hold.
            TableMissing, TableExists: as they say.
            CallRefused: a retry would not help (logged).
            Unavailable: no success within the deadline (2.5 s) and the retry budget.
        """
        self._budget.deposit()
        _CALLS.labels(op).inc()
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._tries(op, arguments)
        except TimeoutError:
            raise Unavailable("DynamoDB did not answer in time") from None

    async def write_all(self, table: str, requests: Sequence[dict[str, Any]]) -> None:
        """Send any number of put and delete requests with BatchWriteItem.

        Requests that DynamoDB returns as unprocessed are sent again.

        Raises:
            Unavailable: some requests may not have been executed.
        """
        for start in range(0, len(requests), _BATCH_WRITE):
            left: Sequence[dict[str, Any]] = requests[start : start + _BATCH_WRITE]
            backoff = retry_backoff()
            while left:
                response = await self.call("batch_write_item", RequestItems={table: list(left)})
                left = response.get("UnprocessedItems", {}).get(table, [])
                if left:
                    await self._pause("batch_write_item", "unprocessed", backoff)

    async def query(self, **arguments: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield the items of a query, page after page, as long as the caller reads."""
        while True:
            response = await self.call("query", **arguments)
            for item in response.get("Items", []):
                yield item
            if "LastEvaluatedKey" not in response:
                return
            arguments["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    async def _tries(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Try a call until it succeeds or fails for good."""
        backoff = retry_backoff()
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._once, op, arguments)
            except ClientError as error:
                reason = _temporary(error)
                if reason is None:
                    raise self._refused(op, error) from error
            except _UNASKED as error:
                raise CallRefused(f"DynamoDB can't be asked: {error}") from error
            except BotoCoreError as error:  # no connection, no response, or an unreadable one
                reason = type(error).__name__
            await self._pause(op, reason, backoff)

    async def _pause(self, op: str, reason: str, backoff: Backoff) -> None:
        """Wait before a retry.

        Raises:
            Unavailable: the retry budget is used up.
        """
        if not self._budget.withdraw():
            raise Unavailable(f"DynamoDB fails too often: {reason}")
        _REPEATS.labels(op, reason).inc()
        await asyncio.sleep(backoff.next_s())

    def _connect(self) -> Any:
        """Create the boto3 client."""
        try:
            return boto3.session.Session().client(
                "dynamodb",
                region_name=self._settings.region,
                endpoint_url=self._settings.endpoint or None,
                config=Config(
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    read_timeout=_READ_TIMEOUT_S,
                    max_pool_connections=self._settings.threads,
                    retries={"total_max_attempts": 1, "mode": "standard"},  # `call` does the retries
                    tcp_keepalive=True,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"DYNAMODB_ENDPOINT, AWS_REGION: {error}") from error

    def _once(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Try a call once; called in a thread."""
        started = time.perf_counter()
        try:
            response: dict[str, Any] = getattr(self._client, op)(**arguments)
        except (NoCredentialsError, PartialCredentialsError):
            self._look_for_credentials()
            raise
        finally:
            _SECONDS.labels(op).observe(time.perf_counter() - started)
        # botocore takes an unreadable body for an empty response; a proxy may have written it.
        if "x-amzn-requestid" not in response["ResponseMetadata"]["HTTPHeaders"]:
            raise _ForeignResponseError
        return response

    def _look_for_credentials(self) -> None:
        """Create the client again, at most once a second.

        boto3 looks for credentials only then, and those of a role or a file may come later.
        """
        with self._reconnecting:
            if time.monotonic() - self._connected_at >= _CHECK_S:
                self._client = self._connect()
                self._connected_at = time.monotonic()

    def _refused(self, op: str, error: ClientError) -> Exception:
        """Convert a failure that is not temporary; logs what is unexpected."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        reasons = error.response.get("CancellationReasons", [])
        parts = {
            index: reason.get("Item", {})
            for index, reason in enumerate(reasons)
            if reason.get("Code") == "ConditionalCheckFailed"
        }
        if code == "ConditionalCheckFailedException" or parts:
            return ConditionFailed(op, error.response.get("Item"), parts)  # type: ignore[arg-type]
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
    """Why a failure may be retried; None: it may not."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "TransactionCanceledException":
        reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])} - {"None", None}
        passing = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
        return "transaction" if reasons and reasons <= passing else None
    if code in _TEMPORARY or status >= 500:
        return code or str(status)
    return None
