"""What every `InviteStore` promises; inherited by the tests of the stores."""

from __future__ import annotations

import asyncio
import random

import pytest

from services.auth.domain.ports import AccountStore, Invite, NameTaken, NoInvite, User

NOW = 1_000.0
SEED = 20_262
ROUNDS = 8  # of each race


def invite(number: int, expires_at: float = NOW + 60) -> Invite:
    return Invite(bytes([number]) * 32, f"for {number}", NOW + number / 4, expires_at)


class InviteStoreContract:
    """Inherit, and give `store` and `other`: two objects on the same data."""

    async def test_an_invite_is_good_once_and_until_it_expires(self, store: AccountStore, other: AccountStore) -> None:
        for made in (invite(1), invite(2, NOW + 0.5)):
            await store.invites.add(made, NOW)
        assert sorted(await other.invites.all(NOW), key=lambda one: one.created_at) == [invite(1), invite(2, NOW + 0.5)]
        assert await other.invites.all(NOW + 0.5) == [invite(1)]
        with pytest.raises(NoInvite):
            await store.add_user(User("u2", "late", "hash"), NOW + 0.5, invite(2).sha256)
        await other.add_user(User("u1", "Ann", "hash"), NOW, invite(1).sha256)
        assert await store.user_by_id("u1") == User("u1", "Ann", "hash")
        for at, sha256 in ((NOW, invite(1).sha256), (NOW + 1, invite(2).sha256), (NOW, b"unknown".ljust(32))):
            assert not await store.invites.is_good(sha256, at)
            with pytest.raises(NoInvite):
                await other.add_user(User("u3", "bob", "hash"), at, sha256)
        assert await store.invites.all(NOW + 0.5) == []
        assert await store.user_by_id("u3") is None
        await other.add_user(User("u3", "bob", "hash"), NOW)  # one who needs none

    async def test_a_name_that_is_taken_uses_no_invite_up(self, store: AccountStore, other: AccountStore) -> None:
        await store.add_user(User("u1", "Ann", "hash"), NOW)
        await store.invites.add(invite(1), NOW)
        with pytest.raises(NameTaken):
            await other.add_user(User("u2", "aNN", "hash"), NOW, invite(1).sha256)
        assert await store.invites.is_good(invite(1).sha256, NOW)
        await other.add_user(User("u2", "bob", "hash"), NOW, invite(1).sha256)
        with pytest.raises(NoInvite):  # and not `NameTaken`: who has no invite learns of no name
            await other.add_user(User("u3", "ann", "hash"), NOW, invite(1).sha256)

    async def test_of_two_who_use_one_invite_at_once_one_registers(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        order = random.Random(SEED)
        for number in range(ROUNDS):
            await store.invites.add(invite(number), NOW)
            users = [User(f"{number}-{place}", f"name-{number}-{place}", "hash") for place in range(2)]
            stores = order.sample([store, other], 2)
            results = await asyncio.gather(
                *(by.add_user(user, NOW, invite(number).sha256) for by, user in zip(stores, users, strict=True)),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["NoInvite", "NoneType"], (SEED, number)
            for user, result in zip(users, results, strict=True):
                assert await store.find_user(user.username) == (user if result is None else None), (SEED, number)

    async def test_a_revoked_invite_is_worth_nothing_and_a_used_one_can_not_be_revoked(
        self, store: AccountStore, other: AccountStore
    ) -> None:
        for number in (1, 2):
            await store.invites.add(invite(number), NOW)
        assert await other.invites.remove(invite(1).sha256)
        with pytest.raises(NoInvite):
            await store.add_user(User("u1", "ann", "hash"), NOW, invite(1).sha256)
        await store.add_user(User("u1", "ann", "hash"), NOW, invite(2).sha256)
        assert not await other.invites.remove(invite(2).sha256)
        assert not await other.invites.remove(b"unknown".ljust(32))
        assert await other.invites.all(NOW) == []
