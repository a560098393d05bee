"""Sessions of users: login, rotation of refresh tokens, logout.

**Purpose.** A session gives a client short-lived access tokens. Its refresh token is traded for a new pair and is good
once, so that a stolen refresh token is noticed. At the same time no failure of the store may end the session of an
honest client.

**Rules of the rotation.**

* A session is a family of refresh tokens. Each token but the first is derived from the token before it.
* The first use of a token stores a random seed for it. The text of the successor is an HMAC of the old token under that
  seed. So a repeated use gives the same successor, whichever step failed before.
* A token is marked as used up as the last step, when only the response is left to send. If that mark fails, the
  response is given all the same.
* Using a token that is used up ends the family: two parties may have it, and nobody can tell which one is honest. So
  does using a token whose successor was used already.
* A family that ended stays ended: a token added to it later is revoked from the start.
* The trade may take 1.5 s and the mark 0.5 s, together less than edges wait for the response.

**Example.**

    client shows R1                → seed S1 is stored, R2 = HMAC(S1, R1) is stored, R1 is used up, the client gets R2
    the store fails before "used up", and the client shows R1 again           → the same R2
    a thief shows R1 later         → R1 is used up: the family ends, R2 is refused, open connections are closed

**Trade-offs.** If the response is lost between auth and the client, the client has only a token that is used up. Trying
it ends the session, and the client has to log in again. A few seconds in which a used token is still good would avoid
that, but a thief would have them too. Access tokens of an ended session are refused by the edges, which
revoke them.

See docs/storage-accounts.md; how sessions are ended on edges: docs/decisions/0009.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.auth.domain.limited import count_attempt
from services.auth.domain.password_rules import check_password_bytes
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy
from services.auth.domain.ports import AccountStore, EndedSession, Limits, Refresh, User
from services.auth.domain.refusals import Denied, Forbidden, TooMany
from services.auth.domain.tokens import Tokens
from services.auth.domain.user_ports import SessionRecord
from services.auth.metrics import LOGINS, REFRESHES
from services.shared.errors import Busy, Unavailable

_TRADE_S = 1.5  # longest time of a trade, seconds
_ENDED_AT_ONCE = 10  # sessions that one login ends because there are too many
_LIST_S = 0.5  # longest time to list the sessions of who logs in, seconds
_USER_AGENT = 256  # characters of a user agent that are kept
_USE_UP_S = 0.5  # longest time to mark a token as used up, seconds; both together are less than edges wait


_WRONG = "the username or the password is wrong"


class _Used(Exception):
    """The successor of the token was used already."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Access token and refresh token of a session."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: User
    session: str  # its family, the `sid` of the access token
    ended: tuple[str, ...] = ()  # older sessions of the user that have ended, because there were too many


class Sessions:
    """The rules of sessions. All state is in the store."""

    def __init__(
        self,
        store: AccountStore,
        limits: Limits,
        passwords: Passwords,
        tokens: Tokens,
        policy: Policy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._limits, self._passwords, self._policy = store, limits, passwords, policy
        self._tokens = tokens
        self._now = now

    async def login(self, username: str, password: str, peer: str, user_agent: str = "") -> Pair:
        """Begin a session for username and password.

        Raises:
            Denied: unknown user or wrong password, not told apart.
            Forbidden: the password is right, but the user is disabled.
            Invalid: the password is too long.
            TooMany: too many failures of this account, or attempts from this address.
        """
        check_password_bytes(password)
        await self.limit_address(peer)
        found = await self._checked(username, password)
        if found is None:
            LOGINS.labels("denied").inc()
            raise Denied(_WRONG)
        user, _ = found
        pair = await self.begin(user, peer, user_agent)
        # Looked at again now that the session is stored: whoever changes the password or disables the user later ends
        # it, and who did so before is seen here.
        now, is_disabled = await asyncio.gather(
            self._store.user_by_id(user.id), self._store.users.is_disabled(user.id, self._now())
        )
        is_same = now is not None and now.password_hash == user.password_hash
        if not is_same or is_disabled:
            await self._store.revoke_family(_digest(pair.refresh_token))
            LOGINS.labels("disabled" if is_same else "denied").inc()
            raise Forbidden("this account is disabled") if is_same else Denied(_WRONG)
        LOGINS.labels("ok").inc()
        return replace(pair, ended=await self._end_surplus(user.id, pair.session))

    async def _end_surplus(self, user_id: str, session: str) -> tuple[str, ...]:
        """End the sessions of a user that are too many, but not `session`.

        Those that were used longest ago end. All logins take the same order, so two at the same moment do not end each
        other; they may leave one too many.
        Ten at most are ended; the next login ends more. None where the store fails or is slow, which it may be for a
        user with thousands of sessions: that is not worth refusing a login.
        """
        most = self._policy.sessions_per_user
        if not most:
            return ()
        now = self._now()
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_LIST_S):
                live = await self._store.users.sessions(user_id, now)
            surplus = [one.family for one in live[most:] if one.family != session][-_ENDED_AT_ONCE:]
            if surplus:
                return tuple(await self._store.users.end_sessions(user_id, surplus, now + self._policy.access_ttl_s))
        return ()

    async def _checked(self, username: str, *passwords: str) -> tuple[User, str] | None:
        """Return the user of that name, and which of the passwords is right.

        None: there is no such user or no right one, which counts as one failed login.

        Raises:
            TooMany: too many failures of this name.
        """
        failures = f"login:{hashlib.sha256(username.lower().encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
        # Counted before the password is checked: parallel guesses can't get past the limit.
        await self._count_login(failures, self._policy.logins_per_account)
        try:
            user = await self._store.find_user(username)
            for password in passwords:
                if await self._passwords.matches(password, user.password_hash if user else None) and user is not None:
                    break
            else:
                return None
        except (Busy, Unavailable):
            await self._limits.uncount(failures, self._policy.limit_window_s)
            raise
        await self._limits.uncount(failures, self._policy.limit_window_s)
        return user, password

    async def right_one(self, user: User, *passwords: str) -> str | None:
        """Return which of the passwords is right; None counts as one failed login.

        Raises:
            TooMany: too many failures of this account.
        """
        found = await self._checked(user.username, *passwords)
        return found[1] if found is not None and found[0] == user else None

    async def refresh(self, refresh_token: str, peer: str = "", user_agent: str = "") -> Pair:
        """Trade a refresh token for a new pair. See the module for the rules.

        Raises:
            Denied: the token is not valid. If it was used up, its session has ended.
            Unavailable: the store did not answer in time; the token is still good.
        """
        try:
            async with asyncio.timeout(_TRADE_S):
                pair = await self._trade(refresh_token)
        except TimeoutError:
            raise Unavailable("the store is too slow; the refresh token is as good as before") from None
        # If this fails, a later use of the token gets the same successor, or ends the family if the successor was used.
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_USE_UP_S):
                outcomes = await asyncio.gather(
                    self._store.use_up_refresh(_digest(refresh_token)),
                    self._note(pair.user.id, pair.session, peer, user_agent),
                    return_exceptions=True,
                )
            for error in filter(None, outcomes):
                raise error
        REFRESHES.labels("ok").inc()
        return pair

    async def _trade(self, refresh_token: str) -> Pair:
        """Return the successor pair of a refresh token; does not mark it as used up."""
        digest = _digest(refresh_token)
        found = await self._store.use_refresh(digest, self._now(), secrets.token_bytes(32))
        if found is None or found.used or found.revoked or found.expires_at <= self._now():
            REFRESHES.labels("reused" if found is not None and found.used else "denied").inc()
            over = found is not None and (found.used or found.revoked)
            ended = EndedSession(found.user_id, found.family) if found is not None and over else None
            raise Denied("the refresh token is not valid", ended)
        user, is_disabled, is_over = await asyncio.gather(
            self._store.user_by_id(found.user_id),
            self._store.users.is_disabled(found.user_id, self._now()),
            self._store.users.is_over(found.user_id, found.family),
        )
        if user is None or is_disabled:
            REFRESHES.labels("denied").inc()
            raise Denied("the refresh token is not valid")
        if is_over:
            REFRESHES.labels("denied").inc()
            raise Denied("the refresh token is not valid", await self._store.revoke_family(digest))
        try:
            return await self._pair(user, found.family, _successor(refresh_token, found.seed))
        except _Used:
            ended = await self._store.revoke_family(digest)
            REFRESHES.labels("reused").inc()
            raise Denied("the refresh token is not valid", ended) from None

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """End the session of the token and return it; None if the token is unknown."""
        return await self._store.revoke_family(_digest(refresh_token))

    async def limit_address(self, peer: str) -> None:
        """Count an attempt of this address; an empty one is not counted.

        Raises:
            TooMany: there were too many.
        """
        limit = self._policy.attempts_per_address
        if not limit or not peer:
            return
        await self._count_login(f"address:{peer}", limit)

    async def _count_login(self, name: str, most: int) -> None:
        try:
            await count_attempt(self._limits, name, most, self._policy.limit_window_s)
        except TooMany:
            LOGINS.labels("limited").inc()
            raise

    async def begin(self, user: User, peer: str = "", user_agent: str = "") -> Pair:
        """Begin a session of the user."""
        family = secrets.token_hex(12)
        # Before its first token is stored: a session that is not noted could not be listed, nor ended.
        await self._note(user.id, family, peer, user_agent, begun_at=self._now())
        return await self._pair(user, family, secrets.token_urlsafe(32))

    async def _note(self, user_id: str, family: str, peer: str, user_agent: str, *, begun_at: float = 0.0) -> None:
        now = self._now()
        expires_at = now + self._policy.refresh_ttl_s
        await self._store.users.note_session(
            SessionRecord(user_id, family, begun_at, now, expires_at, peer, user_agent[:_USER_AGENT])
        )

    async def _pair(self, user: User, family: str, refresh_token: str) -> Pair:
        """Store this refresh token and return it with a new access token.

        Raises:
            _Used: the token is there already and was used.
        """
        expires_at = self._now() + self._policy.refresh_ttl_s
        if not await self._store.add_refresh(
            _digest(refresh_token), Refresh(user.id, family, expires_at, False, False)
        ):
            raise _Used
        access = self._tokens.access(user, family)
        return Pair(access, self._policy.access_ttl_s, refresh_token, user, family)


def _successor(refresh_token: str, seed: bytes) -> str:
    """Return the refresh token that follows `refresh_token`.

    Guessing it is as hard as guessing the seed for somebody who has the token, and the token for somebody who has the
    seed.
    """
    made = hmac.digest(seed, refresh_token.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def _digest(refresh_token: str) -> bytes:
    return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).digest()
