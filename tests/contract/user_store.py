"""What every `UserStore` promises; inherited by the tests of the stores."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.auth.domain.ports import AccountStore, Refresh, User
from services.auth.domain.user_ports import Profile, SessionRecord, UserRecord
from services.shared.user_digest import digest_of

NOW = 1_000.0
SEED = 20_261
# Ids as other login servers make them, or as somebody makes them who means harm.
HOSTILE = [
    "a",
    " ",
    "a,b",
    "#a",
    "-",
    "urn:uuid:1",
    "user#u1",
    "x" * 1_025,
    "é" * 4_096,
    "a\x00b",
    "\n",
    "' OR 1=1 --",
    "%",
    "%2c",
    "{x}",
    "a/../b",
    "\u202e\u0000\ufeff",
    "😀" * 16,
]


def profile(version: int = 1, **values: object) -> Profile:
    return Profile(**{"display_name": "Ann", "custom": b'{"a":1}', "version": version, **values})  # type: ignore[arg-type]


def session(user: str, family: str, at: float = NOW, begun_at: float = NOW) -> SessionRecord:
    return SessionRecord(user, family, begun_at, at, at + 60, "192.0.2.1", "agent/1")


async def begin(store: AccountStore, user: str, family: str, at: float = NOW) -> None:
    await store.users.note_session(session(user, family, at))
    digest = f"{user[:20]}-{family}".encode()
    await store.add_refresh(digest, Refresh(user, family, at + 60, used=False, revoked=False))


class UserStoreContract:
    """Inherit, and give `store` and `other`: two objects on the same data."""

    async def test_a_user_with_a_password_is_known_before_a_profile_is_written(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        assert await other.users.get("u1") == UserRecord("u1", "Ann", Profile(), NOW)
        assert await other.users.get("U1") is None
        assert await other.users.put_profile("u1", profile(), NOW + 1)
        assert await store.users.get("u1") == UserRecord("u1", "Ann", profile(), NOW)

    async def test_of_changes_at_once_one_is_stored_for_each_version(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        for version in range(1, 5):
            calls = [
                (store, other)[n % 2].users.put_profile("u1", profile(version, status=str(n)), NOW) for n in range(4)
            ]
            order.shuffle(calls)
            assert sum(await asyncio.gather(*calls)) == 1, version
            found = await store.users.get("u1")
            assert found is not None
            assert found.profile.version == version
        assert not await store.users.put_profile("u1", profile(9), NOW)
        assert not await store.users.put_profile("nobody", profile(2), NOW)
        assert await store.users.get("nobody") is None

    @pytest.mark.parametrize("user", HOSTILE, ids=range(len(HOSTILE)))
    async def test_any_text_is_an_id_of_its_own(self, store: AccountStore, other: AccountStore, user: str) -> None:
        others = [one for one in HOSTILE if one != user]
        assert await store.users.get(user) is None
        assert await store.users.put_profile(user, profile(), NOW)
        await begin(store, user, "family")
        await store.users.disable(user, NOW)
        assert await other.users.get(user) == UserRecord(user, "", profile(), NOW, NOW)
        assert await other.users.is_disabled(user, NOW)
        assert await other.users.get_many(others) == {}
        assert not any(
            [await other.users.is_disabled(one, NOW) or await other.users.sessions(one, NOW) for one in others]
        )
        assert [found.family for found in await other.users.sessions(user, NOW)] == ["family"]
        assert (await other.users.page("", 100))[0] == [await store.users.get(user)]
        await store.users.delete(user, NOW, NOW + 60)
        assert await other.users.get(user) is None

    async def test_users_of_other_login_servers_are_added_once_and_change_nobody(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        await store.users.put_profile("u2", profile(), NOW)
        await asyncio.gather(*(by.users.add_users(["u1", "u2", "u3"], NOW + 1) for by in (store, other)))
        found = await other.users.get_many(["u1", "u2", "u3", "u4"])
        assert found == {
            "u1": UserRecord("u1", "Ann", Profile(), NOW),
            "u2": UserRecord("u2", "", profile(), NOW),
            "u3": UserRecord("u3", "", Profile(), NOW + 1),
        }

    async def test_a_hundred_users_are_read_at_once_each_as_it_is(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        users = [f"u{number}" for number in range(100)]
        await store.users.add_users(users, NOW)
        for number, user in enumerate(users[:30]):
            await store.users.put_profile(user, profile(status=str(number)), NOW)
        await store.add_user(User("u0", "Ann", "hash"), NOW)
        await store.users.disable("u1", NOW + 1)
        await store.users.delete("u2", NOW, NOW + 60)
        found = await other.users.get_many(users)
        assert set(found) == set(users) - {"u2"}
        assert [found[user].profile.status for user in users[3:30]] == [str(number) for number in range(3, 30)]
        assert (found["u0"].username, found["u0"].profile.status) == ("Ann", "0")
        assert [user for user in found if found[user].disabled_at] == ["u1"]
        assert found["u99"] == UserRecord("u99", "", Profile(), NOW)

    async def test_users_that_were_seen_are_added_unless_they_are_known_or_refused(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        await store.users.put_profile("u2", profile(), NOW)
        await store.users.add_users(["gone", "long gone"], NOW)
        await store.users.disable("u2", NOW)
        await store.users.disable("never known", NOW)
        await store.users.delete("gone", NOW, NOW + 60)
        await store.users.delete("long gone", NOW, NOW + 10)
        seen = dict.fromkeys(["u1", "u2", "u3", "u4", "gone", "long gone", "never known", *HOSTILE], "Seen") | {
            "u4": ""
        }
        await asyncio.gather(*(by.users.add_seen(seen, NOW + 30) for by in (store, other)))
        await other.users.add_seen(dict.fromkeys(seen, "Later"), NOW + 31)
        new = {user: UserRecord(user, "", Profile("Seen"), NOW + 30) for user in ("u3", "long gone", *HOSTILE)}
        assert await other.users.get_many(list(seen)) == new | {
            "u1": UserRecord("u1", "Ann", Profile(), NOW),
            "u2": UserRecord("u2", "", profile(), NOW, NOW),
            "u4": UserRecord("u4", "", Profile(), NOW + 30),
        }
        assert await store.users.put_profile("u3", profile(display_name="Cat"), NOW + 40), "as if it had never changed"
        assert await other.users.get("u3") == UserRecord("u3", "", profile(display_name="Cat"), NOW + 30)

    async def test_a_user_who_is_deleted_while_it_is_seen_does_not_come_back(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        for number in range(8):
            user = f"user-{number}"
            await store.users.add_users([user], NOW)
            calls = [
                store.users.delete(user, NOW, NOW + 60),
                *(other.users.add_seen({user: ""}, NOW) for _ in range(3)),
            ]
            await asyncio.gather(*order.sample(calls, len(calls)))
            assert await store.users.get(user) is None, (SEED, number)

    async def test_pages_have_every_user_once(self, store: AccountStore, other: AccountStore) -> None:
        expected = {f"u{number}" for number in range(11)}
        for number in range(5):
            await store.add_user(User(f"u{number}", f"name{number}", "hash"), NOW)
        await store.users.add_users([f"u{number}" for number in range(5, 11)], NOW)
        await store.users.put_profile("u1", profile(), NOW)  # is in both
        await begin(store, "u1", "family")
        for limit in (1, 3, 11, 100):
            found: list[str] = []
            after, pages = "", 0
            while True:
                users, after = await other.users.page(after, limit)
                assert len(users) <= limit
                found += [user.id for user in users]
                pages += 1
                assert pages < 40
                if not after:
                    break
            assert sorted(found) == sorted(expected), limit
        assert isinstance(await store.users.page("no cursor at all", 5), tuple)

    async def test_disabled_users_are_told_to_every_process_until_they_are_enabled(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        before = await other.version()
        for _ in range(2):  # whoever did not hear the answer asks again
            await store.users.disable("u1", NOW)
        assert await other.version() != before
        assert await other.users.disabled(NOW) == [digest_of("u1")]
        assert await other.users.is_disabled("u1", NOW)
        assert not await other.users.is_disabled("u2", NOW)
        found = await other.users.get("u1")
        assert found is not None
        assert found.disabled_at == NOW
        before = await other.version()
        for _ in range(2):
            await store.users.enable("u1")
        assert await other.version() != before
        assert await other.users.disabled(NOW) == []
        assert not await other.users.is_disabled("u1", NOW)

    async def test_a_user_who_is_deleted_leaves_nothing_but_a_refusal_and_the_name_is_free(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        await store.users.put_profile("u1", profile(), NOW)
        await begin(store, "u1", "family")
        await store.users.disable("u1", NOW)
        for _ in range(2):
            await store.users.delete("u1", NOW, NOW + 60)
        assert await other.users.get("u1") is None
        assert await other.user_by_id("u1") is None
        assert await other.find_user("ann") is None
        assert await other.users.sessions("u1", NOW) == []
        left = await other.use_refresh(b"u1-family", NOW, b"seed")
        assert left is None or left.revoked
        await other.users.enable("u1")
        assert await other.users.is_disabled("u1", NOW)
        assert await other.users.disabled(NOW) == [digest_of("u1")]
        assert await other.users.disabled(NOW + 61) == []
        assert (await other.users.page("", 10))[0] == []
        await other.add_user(User("u2", "aNN", "hash"))

    async def test_a_password_is_replaced_only_if_it_is_the_one_that_was_checked(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        assert await store.users.set_password("u1", "new", "hash")
        for found in (await other.find_user("ann"), await other.user_by_id("u1")):
            assert found == User("u1", "Ann", "new")
        assert not await other.users.set_password("u1", "newer", "hash")
        assert not await other.users.set_password("nobody", "newer", "hash")
        assert await store.user_by_id("u1") == User("u1", "Ann", "new")

    async def test_sessions_are_listed_until_they_end_or_expire(self, store: AccountStore, other: AccountStore) -> None:
        for number, family in enumerate(("a", "b", "c", "d")):
            await begin(store, "u1", family, NOW + number)
        await begin(store, "u2", "e")
        assert await other.users.sessions("u1", NOW) == [
            session("u1", family, NOW + number) for number, family in reversed(list(enumerate("abcd")))
        ]
        await store.revoke_family(b"u1-a")
        assert await other.users.end_sessions("u1", ["b", "e", "unknown"], NOW + 10) == ["b"]
        assert [found.family for found in await store.users.sessions("u1", NOW)] == ["d", "c"]
        ended = await store.use_refresh(b"u1-b", NOW, b"seed")
        assert ended is not None
        assert ended.revoked
        assert [found.family for found in await store.users.sessions("u1", NOW + 62.5)] == ["d"]
        assert [found.family for found in await store.users.sessions("u2", NOW)] == ["e"]

    async def test_the_last_use_of_a_session_replaces_the_one_before_and_not_its_begin(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await begin(store, "u1", "a")
        await other.users.note_session(SessionRecord("u1", "a", 0.0, NOW + 5, NOW + 60, "192.0.2.2", "agent/2"))
        (found,) = await store.users.sessions("u1", NOW)
        assert found == SessionRecord("u1", "a", NOW, NOW + 5, NOW + 60, "192.0.2.2", "agent/2")

    async def test_a_session_that_is_ended_while_it_is_used_stays_ended(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await begin(store, "u1", "a")
        assert await store.users.end_sessions("u1", ["a"], NOW + 10) == ["a"]
        await other.users.note_session(session("u1", "a", NOW + 5, 0.0))
        await other.add_refresh(b"later", Refresh("u1", "a", NOW + 90, used=False, revoked=False))
        assert await store.users.sessions("u1", NOW) == []

    async def test_sessions_that_ended_lately_are_returned_until_their_tokens_have_expired(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        for family in "abc":
            await begin(store, "u1", family)
        await begin(store, "u2", "d")
        assert await store.users.end_sessions("u1", ["a"], NOW + 10) == ["a"]
        assert await other.users.ended("u1", NOW) == ["a"]
        assert sorted(await other.users.end_all("u1", "c", NOW + 5, NOW + 15)) == ["a", "b"]
        assert sorted(await store.users.ended("u1", NOW + 9)) == ["a", "b"]
        assert await store.users.ended("u1", NOW + 12) == ["b"]
        assert await store.users.end_all("u1", "c", NOW + 17, NOW + 27) == []
        assert await store.users.end_sessions("u1", ["a"], NOW + 30) == ["a"], "whoever got no answer asks again"
        assert [found.family for found in await store.users.sessions("u1", NOW)] == ["c"]
        assert not await store.users.is_over("u1", "c")
        assert [found.family for found in await store.users.sessions("u2", NOW)] == ["d"]
        assert await store.users.ended("u2", NOW) == []

    async def test_a_deleted_user_does_not_come_back_while_refused(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        for user in ("u1", "u2"):
            await store.users.put_profile(user, profile(), NOW)
            await store.users.delete(user, NOW, NOW + 60)
            for version in (1, 2):
                assert not await other.users.put_profile(user, profile(version), NOW + 1)
            await other.users.add_users([user], NOW + 1)
            assert await store.users.get(user) is None
            assert await store.users.is_disabled(user, NOW + 59)
            assert not await store.users.is_disabled(user, NOW + 61)
            assert await other.users.put_profile(user, profile(), NOW + 61)
            found = await store.users.get(user)
            assert found == UserRecord(user, "", profile(), NOW + 61)
            await store.users.disable(user, NOW + 61)
            assert await other.users.is_disabled(user, NOW + 500)

    async def test_the_version_of_the_disabled_users_rises_with_every_change(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        await store.users.add_users(["u1"], NOW)
        versions = [await other.users.disabled_version()]
        for change in (
            store.users.disable("u1", NOW),
            other.users.enable("u1"),
            store.users.delete("u1", NOW, NOW + 60),
        ):
            await change
            versions.append(await other.users.disabled_version())
            assert await store.users.disabled_version() == versions[-1]
        assert versions == sorted(set(versions))
