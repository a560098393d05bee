"""Large changes of conversations in DynamoDB, cut off at each request."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from services.persistence.chat.adapters.dynamodb.store import DynamoDbChatStore
from services.persistence.chat.ports import Changes
from services.shared.dynamodb.client import DynamoDb
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import Unavailable
from tests.support.chat_dynamodb import (
    CHANNEL,
    assert_same,
    changes,
    crowd,
    kept,
    model_of,
    store_of,
)
from tests.support.chat_dynamodb import db as db
from tests.support.chat_dynamodb import store as store
from tests.support.dynamodb_dying import Dying
from tests.support.dynamodb_tables import PATIENCE_S
from tests.support.full import FULL, sized

BEFORE = changes(5, people=crowd(30, "before"), listed=crowd(30, "before"), overlays=dict.fromkeys(range(1, 21), b"5"))
LARGE = {
    "overlays": changes(9, people=crowd(2, "after"), overlays=dict.fromkeys(range(10, 130), b"9"), directory="after"),
    "people": changes(9, people=crowd(50, "after", 15), listed=crowd(50, "after", 15), overlays={1: b"9", 500: b"9"}),
    "both": changes(
        9,
        people={**crowd(70, "after", 15), **dict.fromkeys(crowd(15, ""))},
        listed=dict.fromkeys(crowd(15, "")),
        overlays=dict.fromkeys(range(9_950, 10_051), b"9"),
        directory="after",
    ),
}


def requests() -> range:
    """The requests at which a change is cut off: all, the odd or the even ones."""
    first = 1 if FULL else random.SystemRandom().randrange(1, 3)
    print(f"from request {first}")
    return range(first, 40, sized(2, 1))


@pytest.mark.parametrize("carried_out", [False, True])
@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["both", *(pytest.param(one, marks=pytest.mark.full) for one in ("overlays", "people"))]
)
async def test_a_large_change_cut_off_at_any_request_is_all_there_or_not(
    db: DynamoDb, settings: DynamoDbSettings, kind: str, is_new: bool, carried_out: bool
) -> None:
    change = LARGE[kind]
    begun: list[tuple[int | None, Changes]] = [] if is_new else [(None, BEFORE)]
    expected = None if is_new else 5
    before, after = await model_of(*begun), await model_of(*begun, (expected, change))
    outcomes = set()
    for at in requests():
        name = f"{CHANNEL}-{at}"
        store = _Named(store_of(db, settings), name)
        for one in begun:
            assert await store.apply(CHANNEL, *one)
        dying = Dying(settings, at, carried_out, deadline_s=PATIENCE_S)
        with contextlib.suppress(Unavailable):
            await _Named(store_of(dying, settings), name).apply(CHANNEL, expected, change)
        has_died = dying.has_died
        await dying.close()
        overlays = await store.overlays_between(CHANNEL, 1, 20_000)
        loaded = await store.load(CHANNEL)
        is_done = loaded is not None and loaded.position == 9
        outcomes.add(is_done)
        assert loaded == await (after if is_done else before).load(CHANNEL)
        old, new = [await one.overlays_between(CHANNEL, 1, 20_000) for one in (before, after)]
        for offset in old.keys() | new.keys() | overlays.keys():  # as of the position, or newer
            assert overlays.get(offset) in ((new.get(offset),) if is_done else (old.get(offset), new.get(offset)))
        if is_done:
            assert not await store.apply(CHANNEL, expected, change)
        else:
            assert await store.apply(CHANNEL, expected, change)
        await assert_same(store, after)
        await store.drop(CHANNEL)
        if not has_died:
            break
    else:
        pytest.fail("it never came to an end")
    # With nothing ahead, the first request is that with the head.
    assert outcomes == ({True} if kind == "people" and carried_out else {False, True})
    assert await kept(db, settings) == {}


class _Named(DynamoDbChatStore):
    """The store, with another name for the channel: each attempt has its own."""

    def __init__(self, inner: DynamoDbChatStore, name: str) -> None:
        self._inner, self._name = inner, name

    def __getattribute__(self, method: str) -> Any:
        if method.startswith("_"):
            return object.__getattribute__(self, method)
        call = getattr(self._inner, method)
        name = self._name

        async def renamed(*arguments: Any) -> Any:
            found = await call(*(name if one == CHANNEL else one for one in arguments))
            if method in ("conversations_of", "directory"):
                return [tuple(CHANNEL if part == name else part for part in one) for one in found]
            return found

        return renamed


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [True, pytest.param(False, marks=pytest.mark.full)])
async def test_a_drop_cut_off_at_any_request_leaves_nothing_behind(
    db: DynamoDb, settings: DynamoDbSettings, store: DynamoDbChatStore, carried_out: bool
) -> None:
    whole = changes(
        25_000,
        people=crowd(30, "a"),
        listed=crowd(40, "a"),
        overlays=dict.fromkeys([*range(1, 20), 10_001, 24_999, 40_000], b"a"),
        directory="here",
    )
    after = changes(3, people=crowd(3, "b", 28), listed=crowd(3, "b", 28), overlays={2: b"b"}, directory="there")
    for at in requests():
        assert await store.apply(CHANNEL, None, whole)
        dying = Dying(settings, at, carried_out, deadline_s=PATIENCE_S)
        with contextlib.suppress(Unavailable):
            await store_of(dying, settings).drop(CHANNEL)
        has_died, is_hidden = dying.has_died, at > 2 or (at == 2 and carried_out)
        await dying.close()
        if not is_hidden:
            await assert_same(store, await model_of((None, whole)))
            await store.drop(CHANNEL)
        if at % 3 == 0:
            assert await store.load(CHANNEL) is None
            assert await kept(db, settings) == {}
        elif at % 3 == 1:
            await store.drop(CHANNEL)
            assert await kept(db, settings) == {}
        assert await store.apply(CHANNEL, None, after)
        await assert_same(store, await model_of((None, after)))
        await store.drop(CHANNEL)
        if not has_died:
            break
    else:
        pytest.fail("it never came to an end")
    assert await kept(db, settings) == {}
