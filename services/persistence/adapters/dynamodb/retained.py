"""The list of channels whose publications are removed some day.

Purpose. Retention must find the channels of its namespaces, and reading the whole table for that, once an hour, would
cost more than all else. So there is an item for each such channel.

Rules.

* A channel gets its item when it is compared with Redis, which is before anything is stored in it. The item's number is
  a hash of the name; if two channels have the same one, the second gets the next number.
* Channels from before a namespace had retention are found by a scan of the table. It is done twice, at least an hour
  apart: meanwhile replicas that still have the file of before may begin channels. Then the namespace counts as listed.
* A replica that starts without retention in a namespace puts no channel of it into the list. So the namespace does not
  count as listed any more, and is scanned for once it has retention again.
* A scan that was interrupted begins again. Entries are never deleted.

Example. `chat` gets `retention_days`, and persistence is restarted. The first sweep scans the table, and so does the
second one, an hour later. From then on a sweep reads the list alone. Without the option persistence is restarted once,
and later with it: the table is scanned again, twice.

Trade-offs. A replica that runs for hours with another file than those that sweep begins channels that nobody finds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from services.persistence.adapters.dynamodb.chain import Chains
from services.shared.dynamodb.client import ConditionFailed, item_of, values_of
from services.shared.errors import Unavailable
from services.shared.namespaces import Namespaces

RETAINED = "retained"  # partition key of the list
SCANNED_AGAIN_S = 3_600.0  # least time between the first scan and the one after which a namespace counts as listed
_STATE = {"p": RETAINED, "s": -1}  # what was scanned; all others have a number from 0 on
_AT_ONCE = 8  # items put at the same time
_PAGE = 500  # items of one request
_TRIES = 8  # channels with the same hash
_DEFAULT = "-"  # stands for the namespace of channels without a colon; no other has this name


class _Cursor(msgspec.Struct, array_like=True):
    """Where to go on: behind a number of the list, or in a scan.

    `scan`: when the scan began, Unix seconds; 0: it is in the list.
    """

    after: int = -1
    scan: float = 0.0
    place: str = ""


class RetainedChannels:
    """The list; see the module.

    `operation` is the context of each request or two, and bounds its time.
    Methods raise `Unavailable` if DynamoDB does not answer.
    """

    def __init__(
        self,
        chains: Chains,
        clock: Callable[[], float],
        operation: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._chains, self._clock, self._operation = chains, clock, operation

    async def add(self, channel: str) -> None:
        """Put a channel into the list, unless it is there. One request."""
        number = int.from_bytes(hashlib.sha256(channel.encode()).digest()[:6], "big")
        async with self._operation("retain"):
            for place in range(number, number + _TRIES):
                try:
                    await self._chains.db.call(
                        "put_item",
                        TableName=self._chains.table,
                        Item=item_of({"p": RETAINED, "s": place, "channel": channel}),
                        ConditionExpression="attribute_not_exists(p) OR channel = :channel",
                        ExpressionAttributeValues=item_of({":channel": channel}),
                    )
                    return
                except ConditionFailed:
                    continue
        raise Unavailable(f"there is no place for {channel} in the list of channels with retention")

    async def forget_others(self, namespaces: Namespaces) -> None:
        """Have all but these namespaces count as not listed, nor scanned.

        One request, and another one if that changes anything.
        """
        for _ in range(_TRIES):
            state, kept = await self._state(), _names(namespaces)
            listed, wanted = (set(str(state.get(name, "")).split()) for name in ("listed", "wanted"))
            if listed | wanted <= kept:
                return
            values = {**_STATE, "listed": " ".join(sorted(listed & kept))}
            if wanted <= kept:
                values |= {name: state[name] for name in ("wanted", "since") if name in state}
            if await self._replace(state, values):
                return
        raise Unavailable("what is listed of channels with retention changes all the time")

    async def page(self, cursor: str, namespaces: Namespaces) -> tuple[list[str], str]:
        """Return some channels, and a cursor; see `LogStore.retained`."""
        at = msgspec.json.decode(cursor, type=_Cursor) if cursor else await self._begin(namespaces)
        if at.scan:
            return await self._scan(at, namespaces)
        async with self._operation("retained"):
            response = await self._chains.db.call(
                "query",
                TableName=self._chains.table,
                KeyConditionExpression="p = :p AND s > :after",
                ExpressionAttributeValues=item_of({":p": RETAINED, ":after": at.after}),
                ConsistentRead=True,
                Limit=_PAGE,
            )
        found = [values_of(item) for item in response["Items"]]
        is_end = "LastEvaluatedKey" not in response
        return [one["channel"] for one in found], "" if is_end else _text(_Cursor(int(found[-1]["s"])))

    async def _begin(self, namespaces: Namespaces) -> _Cursor:
        """Return where a sweep begins: in the list, or in a scan."""
        listed = str((await self._state()).get("listed", "")).split()
        is_listed = _names(namespaces) <= set(listed)
        return _Cursor() if is_listed else _Cursor(scan=self._clock())

    async def _scan(self, at: _Cursor, namespaces: Namespaces) -> tuple[list[str], str]:
        """Look for channels that are not in the list yet, and put them there."""
        async with self._operation("retained"):
            some, place = await self._chains.channels(at.place)
        found = [channel for channel in some if (of := namespaces.find(channel)) is not None and of.has_retention]
        for start in range(0, len(found), _AT_ONCE):
            await asyncio.gather(*map(self.add, found[start : start + _AT_ONCE]))
        if not place:
            await self._scanned(at.scan, " ".join(sorted(_names(namespaces))))
        return found, _text(_Cursor(scan=at.scan, place=place)) if place else ""

    async def _scanned(self, begun: float, names: str) -> None:
        """Note that all was scanned for these namespaces.

        `begun`: Unix seconds. If it was scanned before, and long enough ago, they are listed.
        """
        state = await self._state()
        first = float(state.get("since", begun)) if state.get("wanted") == names else begun
        values: dict[str, Any] = {"wanted": names, "since": round(first)}
        if begun >= first + SCANNED_AGAIN_S:
            values["listed"] = names
        elif "listed" in state:
            values["listed"] = state["listed"]
        await self._replace(state, {**_STATE, **values})  # if not, a replica has begun without: it is scanned again

    async def _replace(self, seen: dict[str, Any], values: dict[str, Any]) -> bool:
        """Put what was scanned; return False if another replica has changed it."""
        names = ("listed", "wanted", "since")
        same = [f"{name} = :{name}" if name in seen else f"attribute_not_exists({name})" for name in names]
        expected = item_of({f":{name}": seen[name] for name in names if name in seen})
        async with self._operation("retain"):
            try:
                await self._chains.db.call(
                    "put_item",
                    TableName=self._chains.table,
                    Item=item_of(values),
                    ConditionExpression=" AND ".join(same),
                    **({"ExpressionAttributeValues": expected} if expected else {}),
                )
            except ConditionFailed:
                return False
        return True

    async def _state(self) -> dict[str, Any]:
        async with self._operation("retained"):
            response = await self._chains.db.call(
                "get_item", TableName=self._chains.table, Key=item_of(_STATE), ConsistentRead=True
            )
        return values_of(response.get("Item", {}))


def _names(namespaces: Namespaces) -> set[str]:
    return {name or _DEFAULT for name in namespaces.with_retention()}


def _text(cursor: _Cursor) -> str:
    return msgspec.json.encode(cursor).decode()
