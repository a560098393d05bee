"""Registration: who may make an account, and with which name and password."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.auth.domain.invites import Invites, digest_of_code
from services.auth.domain.minted import new_id
from services.auth.domain.password_rules import check_new_password
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy, RegistrationMode
from services.auth.domain.ports import AccountStore, NameTaken, NoInvite, User
from services.auth.domain.refusals import Forbidden, Invalid, Taken
from services.auth.domain.sessions import Pair, Sessions
from services.auth.metrics import REGISTRATIONS
from services.shared.text_rules import USERNAME

_NO_INVITE = "registration needs an invite that is good"  # the same for none, and one unknown, used or expired


class Registration:
    """Makes accounts with a password."""

    def __init__(
        self,
        store: AccountStore,
        passwords: Passwords,
        sessions: Sessions,
        policy: Policy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._passwords, self._sessions, self._policy = store, passwords, sessions, policy
        self._now = now
        self._invites = Invites(store.invites, now)

    async def register(
        self, username: str, password: str, peer: str, user_agent: str = "", *, invite: str = ""
    ) -> Pair:
        """Create a user and begin a session.

        `invite`: the code, where registration is for invited ones; else it is ignored.

        Raises:
            Forbidden: registration is closed, or the invite is not good.
            Invalid: the username or the password is not allowed.
            Taken: the username is taken.
            TooMany: too many attempts from this address.
        """
        if self._policy.registration is RegistrationMode.CLOSED:
            REGISTRATIONS.labels("closed").inc()
            raise Forbidden("registration is closed (AUTH_REGISTRATION)")
        self.check(username, password)
        await self._sessions.limit_address(peer)
        needs_invite = self._policy.registration is RegistrationMode.INVITE
        if needs_invite and not await self._invites.is_good(invite):  # before a password is hashed for strangers
            raise _not_invited()
        user = await self.create(username, password, digest_of_code(invite) if needs_invite else b"")
        return await self._sessions.begin(user, peer, user_agent)

    def check(self, username: str, password: str) -> None:
        """Check name and password of a new user.

        Raises:
            Invalid: one of them is not allowed; the text says which and why.
        """
        if not USERNAME.allows(username):
            raise Invalid(f"username: {USERNAME.words}")
        check_new_password(password, username, self._policy.password_min_length)

    async def create(self, username: str, password: str, invite: bytes = b"") -> User:
        """Create a user whose name and password were checked.

        `invite`: the digest of the code that is used up; empty: none is needed.

        Raises:
            Forbidden: the invite is not good.
            Taken: the username is taken.
            Busy: too many passwords wait already.
        """
        user = User(new_id(9), username, await self._passwords.hash(password))
        try:
            await self._store.add_user(user, self._now(), invite)
        except NameTaken:
            REGISTRATIONS.labels("taken").inc()
            raise Taken("that username is taken") from None
        except NoInvite:
            raise _not_invited() from None
        REGISTRATIONS.labels("ok").inc()
        return user


def _not_invited() -> Forbidden:
    REGISTRATIONS.labels("not_invited").inc()
    return Forbidden(_NO_INVITE)
