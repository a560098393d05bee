"""What every `UserStore` promises of noted changes; tests of stores inherit it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from services.auth.domain.ports import AccountStore, User
from services.auth.domain.user_ports import Profile, ProfileVersion
from tests.contract.user_store import HOSTILE, NOW, SEED


def newest(changes: Iterable[ProfileVersion]) -> dict[str, int]:
    found: dict[str, int] = {}
    for user, version in changes:
        found[user] = max(version, found.get(user, 0))
    return found


def profile(version: int) -> Profile:
    return Profile(display_name=f"Ann {version}", version=version)


class ProfileChangesContract:
    """Inherit, and give `store` and `other`: two objects on the same data."""

    async def test_every_change_is_noted_with_its_user_and_version(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        await store.users.add_users(["u2"], NOW)
        await store.users.add_seen({"u3": "Cat"}, NOW)
        assert await other.users.profile_changes(0, 100) == [], "a user who is new has changed nothing"
        for number, user in enumerate(HOSTILE):
            assert await store.users.put_profile(user, profile(1), NOW + number)
        assert newest(await other.users.profile_changes(NOW, 100)) == dict.fromkeys(HOSTILE, 1)
        assert await store.users.put_profile(HOSTILE[0], profile(2), NOW + 50)
        assert newest(await other.users.profile_changes(NOW + 3, 100)) == {
            HOSTILE[0]: 2,
            **dict.fromkeys(HOSTILE[3:], 1),
        }

    async def test_what_is_not_changed_is_not_noted(self, store: AccountStore, other: AccountStore) -> None:
        assert await store.users.put_profile("u1", profile(1), NOW)
        assert not await store.users.put_profile("u1", Profile(status="another", version=1), NOW + 10)
        assert not await store.users.put_profile("u1", profile(7), NOW + 10)
        assert not await store.users.put_profile("nobody", profile(2), NOW + 10)
        await store.users.delete("u1", NOW + 10, NOW + 60)
        assert not await store.users.put_profile("u1", profile(1), NOW + 11)
        assert not await store.users.put_profile("u1", profile(2), NOW + 11)
        assert await other.users.profile_changes(NOW + 5, 100) == []

    async def test_of_changes_at_once_that_is_noted_which_is_stored(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        stored = dict.fromkeys(("u1", "u2", "u3"), 0)
        for step in range(12):
            calls = [
                (by, user, stored[user] + 1)
                for by in (store, other)
                for user in order.sample(sorted(stored), order.randint(1, 3))
            ]
            done = await asyncio.gather(
                *(
                    by.users.put_profile(user, Profile(status=f"{step}.{number}", version=version), NOW + step)
                    for number, (by, user, version) in enumerate(calls)
                )
            )
            for (_, user, version), is_stored in zip(calls, done, strict=True):
                stored[user] = version if is_stored else stored[user]
            found = newest(await (store, other)[step % 2].users.profile_changes(NOW, 100))
            assert found == {user: version for user, version in stored.items() if version}, (SEED, step)

    async def test_of_too_many_the_newest_are_returned_and_the_oldest_are_forgotten(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        for number in range(7):
            await store.users.put_profile(f"u{number}", profile(1), NOW + number)
        assert newest(await other.users.profile_changes(NOW, 3)) == {"u4": 1, "u5": 1, "u6": 1}
        await other.users.forget_profile_changes(NOW + 5, 2)
        assert len(await store.users.profile_changes(0, 100)) == 5
        await other.users.forget_profile_changes(NOW + 5, 100)
        assert newest(await store.users.profile_changes(0, 100)) == {"u5": 1, "u6": 1}
        await other.users.forget_profile_changes(NOW + 5, 100)
        found = await store.users.get("u0")
        assert found is not None
        assert found.profile == profile(1), "the profile stays"
