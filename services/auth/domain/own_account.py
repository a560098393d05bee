"""What signed-in users do with their own account: password and sessions."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.auth.domain.limited import count_attempt
from services.auth.domain.password_rules import check_new_password, check_password_bytes
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy
from services.auth.domain.ports import AccountStore, Limits
from services.auth.domain.refusals import Conflict, Forbidden, Missing
from services.auth.domain.sessions import Sessions
from services.auth.domain.user_ports import SessionRecord, UserRecord
from services.shared.user_digest import digest_of

MAX_FINDS = 30  # of one user in a window of the limits
MAX_CHANGES = 100  # of one profile by its user, in such a window
MAX_ENDS = 5  # of all sessions by their user, in such a window; each tells all edges of every session that ended lately


class OwnAccount:
    """The rules. All state is in the store."""

    def __init__(
        self,
        store: AccountStore,
        limits: Limits,
        sessions: Sessions,
        passwords: Passwords,
        policy: Policy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._accounts, self._store, self._sessions = store, store.users, sessions
        self._limits, self._passwords, self._policy, self._now = limits, passwords, policy, now

    async def change_password(self, user_id: str, session: str, old: str, new: str) -> list[str]:
        """Change the password; return the sessions that have ended: all but `session`.

        Raises:
            Missing: the user has no password here.
            Forbidden: the old password is wrong.
            Invalid: the new one is not allowed.
            Conflict: the password was changed meanwhile.
            TooMany: too many wrong passwords of this account; they count as failed logins do.
            Busy: too many passwords wait already.
        """
        check_password_bytes(old)
        user = await self._accounts.user_by_id(user_id)
        if user is None:
            raise Missing("there is no such user with a password")
        check_new_password(new, user.username, self._policy.password_min_length)
        # It may be a repeat, after the response was lost or an edge did not answer: then the new one is right already.
        may_be_repeat = await self._store.ended(user_id, self._now())
        right = await self._sessions.right_one(user, old, *([new] if may_be_repeat else []))
        if right is None:
            raise Forbidden("the old password is wrong")
        if right == old and not await self._store.set_password(
            user_id, await self._passwords.hash(new), user.password_hash
        ):
            raise Conflict("the password was changed meanwhile")
        return await self.end_sessions(user_id, except_session=session)

    async def find(self, asker: str, username: str) -> UserRecord:
        """Find a user by name for another user.

        Raises:
            Missing: there is none, or the user is hidden or disabled: the answer and the reads are the same.
            TooMany: the asker has asked too often.
        """
        await self._count("find", asker, MAX_FINDS)
        account = await self._accounts.find_user(username)
        found = await self._store.get(account.id if account else "-")
        if account is None or found is None or found.profile.hidden or found.disabled_at:
            raise Missing("there is no such user")
        return found

    async def sessions(self, user_id: str) -> list[SessionRecord]:
        """Return the sessions of the user, newest first."""
        return await self._store.sessions(user_id, self._now())

    async def end_session(self, user_id: str, session: str) -> list[str]:
        """End one session and return it.

        Raises:
            Missing: the user has no such session.
        """
        ended = await self._store.end_sessions(user_id, [session], self._now() + self._policy.access_ttl_s)
        if not ended:
            raise Missing("there is no such session")
        return ended

    async def end_sessions(self, user_id: str, *, except_session: str = "") -> list[str]:
        """End all sessions of the user, but for one; return those that have ended.

        Also those that ended before, while their access tokens may be good: so a repeat has them revoked again.
        """
        now = self._now()
        return await self._store.end_all(user_id, except_session, now, now + self._policy.access_ttl_s)

    async def limit_changes(self, user_id: str) -> None:
        """Count a change of the own profile.

        Raises:
            TooMany: there were too many.
        """
        await self._count("profile", user_id, MAX_CHANGES)

    async def limit_ends(self, user_id: str) -> None:
        """Count a request to end all sessions.

        Raises:
            TooMany: there were too many.
        """
        await self._count("end", user_id, MAX_ENDS)

    async def _count(self, what: str, user_id: str, most: int) -> None:
        name = f"{what}:{digest_of(user_id).hex()}"
        await count_attempt(self._limits, name, most, self._policy.limit_window_s)
