"""What every `DeviceStore` promises: the model in memory, SQLite and DynamoDB."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from services.persistence.adapters.sqlite_store import SqliteLogStore
from services.persistence.chat.adapters.sqlite import SqliteChatStore
from services.persistence.chat.devices.device import Device
from services.persistence.chat.devices.devices import MAX_DEVICES, Devices
from services.persistence.chat.devices.ports import DeviceStore, Kept
from services.shared.dynamodb.settings import DynamoDbSettings
from services.shared.errors import ErrorCode, ThalamusError
from tests.support.chat_dynamodb import store_of
from tests.support.chat_store import MemoryDeviceStore
from tests.support.dynamodb_tables import Connect, OnDynamoDb
from tests.support.full import sized

Make = Callable[[], DeviceStore]
USERS = ["ann", "#", "é" * 255, "😀" * 255, "x" * 2_000, " ", "a\x00b", "'; --"]


def phone(number: int = 1, token: str = "", ms: int = 1) -> Device:
    return Device(id=f"phone{number}", platform="fcm", token=token or f"token{number}", set_ms=ms)


class DeviceStoreContract:
    """`make` gives another object on the same data, as another process would have it."""

    steps = sized(150, 2_000)
    many = 520  # more than a request takes

    @pytest.fixture
    async def store(self, make: Make) -> DeviceStore:
        return make()

    @pytest.fixture
    async def other(self, make: Make) -> DeviceStore:
        return make()

    async def test_only_who_knows_the_version_replaces(self, store: DeviceStore, other: DeviceStore) -> None:
        assert await store.devices([]) == await store.devices(USERS) == {}
        for user in USERS:
            assert not await store.set_devices(user, "v0", Kept("v1", b"1"))
            assert await store.set_devices(user, "", Kept("v1", b"1"))
            assert not await other.set_devices(user, "", Kept("v2", b"2"))
        assert await other.devices([*USERS, "nobody"]) == {user: Kept("v1", b"1") for user in USERS}
        for user in USERS:
            assert await other.set_devices(user, "v1", Kept("v2", user.encode() * 200))
            assert not await store.set_devices(user, "v1", None)
        assert await store.devices(USERS) == {user: Kept("v2", user.encode() * 200) for user in USERS}
        for user in USERS:
            assert await store.set_devices(user, "v2", None)
        assert await store.devices(USERS) == {}

    async def test_of_those_who_expect_the_same_one_replaces(self, store: DeviceStore, other: DeviceStore) -> None:
        writes = [(store, other)[n % 2].set_devices("ann", "", Kept(f"v{n}", b"")) for n in range(6)]
        done = await asyncio.gather(*writes)
        assert sum(done) == 1
        assert (await store.devices(["ann"]))["ann"].version == f"v{done.index(True)}"

    async def test_an_address_belongs_to_who_came_last(self, store: DeviceStore, other: DeviceStore) -> None:
        assert await store.owners([]) == await store.owners(["a", "b"]) == {}
        assert await store.own("a", "ann") is None
        assert await other.own("a", "ann") == "ann"
        assert await other.own("a", "x" * 2_000) == "ann"
        await store.disown("a", "ann")
        assert await store.owners(["a", "b"]) == {"a": "x" * 2_000}
        await store.disown("a", "x" * 2_000)
        assert await other.owners(["a"]) == {}

    async def test_more_than_one_request_takes(self, store: DeviceStore) -> None:
        users = [f"user{number}" for number in range(self.many)]
        for user in users:
            assert await store.set_devices(user, "", Kept("v", user.encode()))
            await store.own(f"address of {user}", user)
        assert {user: one.document.decode() for user, one in (await store.devices(users)).items()} == {
            user: user for user in users
        }
        found = await store.owners([f"address of {user}" for user in users])
        assert found == {f"address of {user}": user for user in users}

    async def test_devices_are_as_the_model_has_them(self, store: DeviceStore, other: DeviceStore) -> None:
        """Random steps of two processes; after each, a device is with its last user alone."""
        seed = 8
        print(f"seed {seed}")
        rng, both = random.Random(seed), [Devices(store), Devices(other)]
        model: dict[str, dict[str, Device]] = {user: {} for user in USERS[:3]}
        for step in range(self.steps):
            devices, user = rng.choice(both), rng.choice(list(model))
            match rng.choice(["set", "set", "set", "remove", "gone", "forget"]):
                case "set":
                    device = phone(rng.randrange(6), f"token{rng.randrange(8)}", step)
                    await devices.set(user, device)
                    for others in model.values():
                        for name in [name for name, one in others.items() if one.address == device.address]:
                            del others[name]
                    model[user].pop(device.id, None)
                    model[user][device.id] = device
                case "remove":
                    name = f"phone{rng.randrange(6)}"
                    assert await devices.remove(user, name) == (model[user].pop(name, None) is not None)
                case "gone":
                    address = phone(0, f"token{rng.randrange(8)}").address
                    await devices.gone(user, address)
                    model[user] = {name: one for name, one in model[user].items() if one.address != address}
                case "forget" if rng.random() < 0.2:
                    await devices.forget(user)
                    model[user].clear()
            found = await rng.choice(both).of(list(model))
            assert found == {one: list(had.values()) for one, had in model.items() if had}, step

    async def test_there_are_25_at_most_whoever_sets_them_at_once(self, store: DeviceStore, other: DeviceStore) -> None:
        both = [Devices(store), Devices(other)]
        for number in range(MAX_DEVICES - 2):
            await both[0].set("ann", phone(number))
        tries = [both[number % 2].set("ann", phone(100 + number)) for number in range(5)]
        refused = [error for error in await asyncio.gather(*tries, return_exceptions=True) if error is not None]
        assert [getattr(error, "code", error) for error in refused] == [ErrorCode.LIMIT_EXCEEDED] * 3
        assert len((await both[0].of(["ann"]))["ann"]) == MAX_DEVICES
        await both[0].set("ann", phone(3, "another token"))
        with pytest.raises(ThalamusError):
            await both[1].set("ann", phone(500))

    @pytest.mark.parametrize("dies_at", ["own", "set_devices of the former"])
    async def test_a_device_that_changes_hands_is_at_no_time_with_two(self, store: DeviceStore, dies_at: str) -> None:
        await Devices(store).set("ann", phone())
        with pytest.raises(_Died):
            await Devices(cast(DeviceStore, _Dying(store, dies_at))).set("bob", phone(ms=2))
        found = await Devices(store).of(["ann", "bob"])
        assert found == ({"ann": [phone()]} if dies_at == "own" else {"bob": [phone(ms=2)]})
        await Devices(store).set("bob", phone(ms=3))
        assert await Devices(store).of(["ann", "bob"]) == {"bob": [phone(ms=3)]}


class _Died(Exception):
    pass


class _Dying:
    """A store whose process dies before one of its steps."""

    def __init__(self, store: DeviceStore, at: str) -> None:
        self._store, self._at, self._sets = store, at, 0

    def __getattr__(self, name: str) -> Any:
        self._sets += name == "set_devices"
        if name == self._at or (self._at != "own" and self._sets == 2):
            raise _Died
        return getattr(self._store, name)


class TestMemoryDeviceStore(DeviceStoreContract):
    @pytest.fixture
    def make(self) -> Make:
        store = MemoryDeviceStore()
        return lambda: store


class TestSqliteDeviceStore(DeviceStoreContract):
    @pytest.fixture
    async def make(self, tmp_path: Path) -> AsyncIterator[Make]:
        made: list[SqliteLogStore] = []

        def make() -> DeviceStore:
            made.append(SqliteLogStore(tmp_path / "log.sqlite3"))
            return SqliteChatStore(made[-1].database).devices

        yield make
        for one in made:
            await one.close()


class TestDynamoDbDeviceStore(OnDynamoDb, DeviceStoreContract):
    steps = sized(40, 400)
    many = 105

    @pytest.fixture
    def make(self, connect: Connect, settings: DynamoDbSettings) -> Make:
        return lambda: store_of(connect(), settings).devices
