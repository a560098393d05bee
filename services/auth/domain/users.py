"""Users as operators manage them: make, find, change, disable, enable, delete.

**Disabled users.** A user who is disabled has no session and gets none: logins and refreshes are refused here. Tokens
that are good already, of whatever issuer, are refused by the edges, which hold the digests of all disabled users
(`Watch`). So nothing depends on when a token was issued: once the user is enabled, every token is good again but those
of sessions that have ended.

**Deleted users.** Name, password, profile and sessions are removed. The name is free again: nothing in the platform
gives rights by name. The id is refused for as long as a refresh token is good, and nobody can be made with it until
then: neither by an operator nor by a change of the profile at the same moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

from services.auth.domain.password_rules import check_new_password
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy
from services.auth.domain.ports import AccountStore
from services.auth.domain.profile_rules import ProfileChange, changed
from services.auth.domain.refusals import Conflict, Invalid, Missing, Taken
from services.auth.domain.registration import Registration
from services.auth.domain.user_ports import Profile, UserRecord

MAX_DISABLED = 100_000  # users; every edge holds 16 bytes of each
MAX_PAGE = 1_000  # users
MAX_PROFILES = 100  # users that are asked for at once
MAX_PAGE_BYTES = 2 * 1024 * 1024  # of the texts of a page; a message may have 4 MiB
_FOR_BANS = 20_000  # of `MAX_DISABLED`, which users who were deleted leave free
_GRANTS_AT_ONCE = 100  # that the store takes in one call
_MOST_WITH_GRANTS = 1_024  # bytes of an id; no store keeps grants of a longer one
_TRIES = 5  # of a change, while others change the same profile


class Users:
    """The rules of users. All state is in the store.

    `changed` is set when edges must be told.
    """

    def __init__(
        self,
        store: AccountStore,
        registration: Registration,
        passwords: Passwords,
        policy: Policy,
        changed: asyncio.Event,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._accounts, self._store = store, store.users
        self._registration, self._passwords, self._policy = registration, passwords, policy
        self._changed, self._now = changed, now

    async def create(self, username: str, password: str, change: ProfileChange) -> UserRecord:
        """Create a user with a password.

        Raises:
            Invalid: a value is not allowed.
            Taken: the username is taken.
            Busy: too many passwords wait already.
        """
        profile = changed(Profile(), change)
        self._registration.check(username, password)
        user = await self._registration.create(username, password)
        if profile.version:
            await self._store.put_profile(user.id, profile, self._now())
        return await self.get(user.id)

    async def create_foreign(self, user_id: str, change: ProfileChange) -> UserRecord:
        """Create a user whose tokens come from another login server.

        Raises:
            Invalid: a value is not allowed.
            Taken: the user exists.
        """
        profile = changed(Profile(), change)
        if await self._store.get(user_id) is not None:
            raise Taken("that user exists")
        if await self._store.is_disabled(user_id, self._now()):
            raise Taken("a user of that id was deleted, and is still refused")
        if not profile.version:
            await self._store.add_users([user_id], self._now())
        elif not await self._store.put_profile(user_id, profile, self._now()):
            raise Taken("that user exists")
        return await self.get(user_id)

    @property
    def wants_users(self) -> bool:
        """Whether users of other login servers are added when edges see them."""
        return self._policy.insert_unknown_users

    async def add_seen(self, names: Mapping[str, str]) -> None:
        """Add the users of other login servers that are not known, where that is wanted.

        `names`: display names by id. One that is none is left out: whoever made the token did not ask for a profile.
        """
        if self.wants_users and names:
            await self._store.add_seen({user_id: _display_name(name) for user_id, name in names.items()}, self._now())

    async def get(self, user_id: str) -> UserRecord:
        """Return a user.

        Raises:
            Missing: there is none of that id.
        """
        found = await self._store.get(user_id)
        if found is None:
            raise Missing("there is no such user")
        return found

    async def by_name(self, username: str) -> UserRecord:
        """Return the user of that name; raise as `get` does."""
        user = await self._accounts.find_user(username)
        if user is None:
            raise Missing("there is no such user")
        return await self.get(user.id)

    async def visible(self, user_ids: Collection[str]) -> list[UserRecord]:
        """Return those of the users that others may see.

        Hidden ones too: only their names can't be searched. Neither disabled nor deleted ones.

        Raises:
            Invalid: these are too many at once.
        """
        if len(user_ids) > MAX_PROFILES:
            raise Invalid(f"ids: at most {MAX_PROFILES}")
        found = await self._store.get_many(user_ids)
        return [user for user in found.values() if not user.disabled_at]

    async def page(self, after: str, limit: int) -> tuple[list[UserRecord], str]:
        """Return some users, and where the next page begins; see the store."""
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"limit: 1 to {MAX_PAGE:,}")
        while True:
            users, following = await self._store.page(after, limit)
            if limit == 1 or sum(map(_size, users)) <= MAX_PAGE_BYTES:
                return users, following
            limit //= 2

    async def update(
        self, user_id: str, change: ProfileChange, *, if_version: int | None = None, create: bool = False
    ) -> UserRecord:
        """Change a profile.

        `create`: a user that is not known is added, as one of another login server.

        Raises:
            Missing: there is no such user.
            Conflict: the profile has another version than `if_version`, or is changed all the time.
            Invalid: a value is not allowed.
        """
        for _ in range(_TRIES):
            found = await self._store.get(user_id)
            if found is None:
                if not create or await self._store.is_disabled(user_id, self._now()):
                    raise Missing("there is no such user")
                found = UserRecord(user_id)
            if if_version is not None and if_version != found.profile.version:
                raise Conflict(f"the profile has version {found.profile.version}")
            profile = changed(found.profile, change)
            if profile is found.profile:
                return found
            if await self._store.put_profile(user_id, profile, self._now()):
                return await self.get(user_id)
        raise Conflict("others change this profile at the same time")

    async def disable(self, user_id: str) -> list[str]:
        """Refuse the user from now on; return the sessions that have ended.

        A user who is not known is added, as one of another login server. A repeat returns the sessions again while
        their access tokens may be good.

        Raises:
            Missing: the user was deleted, and is refused already.
            Invalid: too many users are disabled.
        """
        found = await self._store.get(user_id)
        if found is None:
            if await self._store.is_disabled(user_id, self._now()):
                raise Missing("there is no such user")
            await self._check_room()
            await self._store.add_users([user_id], self._now())
        if found is None or not found.disabled_at:
            await self._check_room()
            await self._store.disable(user_id, self._now())
            self._changed.set()
        return await self._end_all(user_id)

    async def enable(self, user_id: str) -> None:
        """Accept the user again.

        Raises:
            Missing: there is no such user.
        """
        if (await self.get(user_id)).disabled_at:
            await self._store.enable(user_id)
            self._changed.set()

    async def delete(self, user_id: str) -> list[str]:
        """Remove the user; return the sessions that have ended.

        Raises:
            Missing: there is no such user.
            Invalid: too many users are refused.
        """
        await self.get(user_id)
        await self._check_room(spare=_FOR_BANS)
        ended = await self._end_all(user_id)
        if len(user_id.encode()) <= _MOST_WITH_GRANTS:
            grants = await self._accounts.grants.of(user_id)
            for start in range(0, len(grants), _GRANTS_AT_ONCE):
                await self._accounts.grants.take(user_id, grants[start : start + _GRANTS_AT_ONCE])
        now = self._now()
        await self._store.delete(user_id, now, now + self._policy.refresh_ttl_s)
        self._changed.set()
        return ended

    async def set_password(self, user_id: str, password: str) -> list[str]:
        """Set a password; return the sessions that have ended: all.

        Raises:
            Missing: there is no such user, or tokens of the user come from another login server.
            Invalid: the password is not allowed.
            Conflict: it was changed meanwhile.
            Busy: too many passwords wait already.
        """
        user = await self._accounts.user_by_id(user_id)
        if user is None:
            raise Missing("there is no such user with a password")
        check_new_password(password, user.username, self._policy.password_min_length)
        if not await self._store.set_password(user_id, await self._passwords.hash(password), user.password_hash):
            raise Conflict("the password was changed meanwhile")
        return await self._end_all(user_id)

    async def _end_all(self, user_id: str) -> list[str]:
        now = self._now()
        return await self._store.end_all(user_id, "", now, now + self._policy.access_ttl_s)

    async def disabled_version(self) -> int:
        """Return a version of the list of disabled users that has every change so far."""
        return await self._store.disabled_version()

    async def _check_room(self, *, spare: int = 0) -> None:
        if len(await self._store.disabled(self._now())) >= MAX_DISABLED - spare:
            raise Invalid(f"{MAX_DISABLED:,} users are disabled or were deleted: enable or wait")


def _display_name(name: str) -> str:
    try:
        return changed(Profile(), ProfileChange(display_name=name)).display_name
    except Invalid:
        return ""


def _size(user: UserRecord) -> int:
    """Return the bytes of a user's texts, about."""
    profile = user.profile
    texts = (user.id, user.username, profile.display_name, profile.avatar_url, profile.status)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + len(profile.custom) + 64
