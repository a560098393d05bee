"""Worker as a function of AWS Lambda: SQS calls it with messages.

It answers which of them must come again (`ReportBatchItemFailures`); SQS deletes the others. If the function fails or
takes too long, all of them come again, which does no harm: `store_messages` may be given a message any number of times.
`deploy/aws/function.yaml` is its template.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping
from typing import Any

from services.persistence.adapters.dynamodb.store import DynamoDbLogStore
from services.persistence.queue.storing import store_messages
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.process.logs import setup_logging
from services.shared.process.variables import read_checked_env


class Function:
    """Answers events of SQS; its connections outlive a call."""

    def __init__(self, settings: DynamoDbSettings) -> None:
        """Make no request yet."""
        self._runner = asyncio.Runner()
        self._store = DynamoDbLogStore(DynamoDb(settings), settings.log_table)

    def answer(self, event: Mapping[str, Any]) -> dict[str, list[dict[str, str]]]:
        """Store the messages of an event; return those that must come again."""
        bodies = {record["messageId"]: record["body"] for record in event["Records"]}
        failed = self._runner.run(store_messages(self._store, bodies))
        return {"batchItemFailures": [{"itemIdentifier": name} for name in bodies if name in failed]}

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._store.close())
        self._runner.close()


def handler(event: Mapping[str, Any], _context: object) -> dict[str, list[dict[str, str]]]:
    """Answer an event, as Lambda calls it; see `Function.answer`.

    Raises:
        ConfigError: a setting is wrong. All messages come again.
    """
    return _function().answer(event)


@functools.cache
def _function() -> Function:
    """Return the one of this process."""
    setup_logging("worker", level=os.environ.get("LOG_LEVEL", "INFO"))
    return Function(read_checked_env(DynamoDbSettings, os.environ, "DYNAMODB_"))
