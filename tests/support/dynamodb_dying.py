"""A client of DynamoDB whose process dies at a request."""

from __future__ import annotations

import contextlib
from typing import Any

from services.shared.dynamodb.client import DEADLINE_S, ConditionFailed, DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable


class Dying(DynamoDb):
    """Of a process that dies at a request, before or after it was executed."""

    def __init__(
        self, settings: DynamoDbSettings, at: int, carried_out: bool, *, deadline_s: float = DEADLINE_S
    ) -> None:
        super().__init__(settings, deadline_s=deadline_s)
        self._left, self._carried_out = at, carried_out

    @property
    def has_died(self) -> bool:
        return self._left <= 0

    async def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        self._left -= 1
        if self._left > 0:
            return await super().call(op, **arguments)
        if self._left == 0 and self._carried_out:
            with contextlib.suppress(ConditionFailed):
                await super().call(op, **arguments)
        raise Unavailable("it died")
