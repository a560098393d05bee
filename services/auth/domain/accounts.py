"""Rules of accounts: registration, login, sessions, tokens for backends, API keys.

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
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from services.auth.domain.passwords import MAX_PASSWORD_BYTES, MIN_PASSWORD_BYTES, Passwords
from services.auth.domain.ports import AccountStore, ApiKeyRow, EndedSession, Limits, NameTaken, Refresh, User
from services.auth.domain.signing import KEY_OVERLAP_S, Signer, new_signing_key
from services.auth.metrics import LOGINS, REFRESHES, REGISTRATIONS, TOKENS
from services.shared.errors import Busy, Unavailable

_USERNAME = re.compile(r"[a-zA-Z0-9._-]{3,64}")
_KEY_PREFIX = "thk_"
_MAX_TTL_S = 10 * 365 * 86_400
_TRADE_S = 1.5  # longest time of a trade, seconds
_USE_UP_S = 0.5  # longest time to mark a token as used up, seconds; both together are less than edges wait


class Refusal(Exception):
    """A request can't be granted. The text is for the caller."""


class Invalid(Refusal):
    """A value is not allowed."""


class Taken(Refusal):
    """The name is taken."""


class Denied(Refusal):
    """The credentials are wrong or no longer valid. The text never says which.

    `ended`: the session of the given token, if it is over.
    """

    def __init__(self, text: str, ended: EndedSession | None = None) -> None:
        self.ended = ended
        super().__init__(text)


class TooMany(Refusal):
    """A limit is reached. `retry_after_s`: seconds until it ends."""

    def __init__(self, retry_after_s: int) -> None:
        self.retry_after_s = max(1, retry_after_s)
        super().__init__("too many attempts")


class _Used(Exception):
    """The successor of the token was used already."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Access token and refresh token of a session."""

    access_token: str
    expires_in_s: int
    refresh_token: str
    user: User


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Numbers for the rules; see AuthConfig."""

    access_ttl_s: int
    refresh_ttl_s: int
    issuer: str
    audience: str
    logins_per_account: int
    attempts_per_address: int
    limit_window_s: int


class Accounts:
    """The rules of accounts. All state is in the store.

    `signer` is replaced when the keys change.
    """

    def __init__(
        self,
        store: AccountStore,
        limits: Limits,
        passwords: Passwords,
        signer: Signer,
        policy: Policy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._limits, self._passwords, self._policy = store, limits, passwords, policy
        self.signer = signer
        self._now = now
        self.changed = asyncio.Event()  # set when keys changed; the watching task clears it

    @property
    def access_ttl_s(self) -> int:
        """Lifetime of access tokens in seconds."""
        return self._policy.access_ttl_s

    async def register(self, username: str, password: str, peer: str) -> Pair:
        """Create a user and begin a session.

        Raises:
            Invalid: the username or the password is not allowed.
            Taken: the username is taken.
            TooMany: too many attempts from this address.
        """
        _check_password(password)
        if not _USERNAME.fullmatch(username):
            raise Invalid("username: 3 to 64 of letters, digits, dot, underscore and hyphen")
        if len(password.encode()) < MIN_PASSWORD_BYTES:
            raise Invalid(f"password: at least {MIN_PASSWORD_BYTES} bytes")
        await self._limit_address(peer)
        user = User(secrets.token_urlsafe(9), username, await self._passwords.hash(password))
        try:
            await self._store.add_user(user)
        except NameTaken:
            REGISTRATIONS.labels("taken").inc()
            raise Taken("that username is taken") from None
        REGISTRATIONS.labels("ok").inc()
        return await self._begin_session(user)

    async def login(self, username: str, password: str, peer: str) -> Pair:
        """Begin a session for username and password.

        Raises:
            Denied: unknown user or wrong password, not told apart.
            Invalid: the password is too long.
            TooMany: too many failures of this account, or attempts from this address.
        """
        _check_password(password)
        await self._limit_address(peer)
        failures = f"login:{hashlib.sha256(username.lower().encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"
        # Counted before the password is checked: parallel guesses can't get past the limit.
        if await self._limits.count(failures, self._policy.limit_window_s) > self._policy.logins_per_account:
            LOGINS.labels("limited").inc()
            raise TooMany((await self._limits.current(failures))[1])
        try:
            user = await self._store.find_user(username)
            right = await self._passwords.matches(password, user.password_hash if user else None)
        except (Busy, Unavailable):
            await self._limits.uncount(failures, self._policy.limit_window_s)
            raise
        if user is None or not right:
            LOGINS.labels("denied").inc()
            raise Denied("the username or the password is wrong")
        await self._limits.uncount(failures, self._policy.limit_window_s)
        LOGINS.labels("ok").inc()
        return await self._begin_session(user)

    async def refresh(self, refresh_token: str) -> Pair:
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
                await self._store.use_up_refresh(_digest(refresh_token))
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
        user = await self._store.user_by_id(found.user_id)
        if user is None:
            raise Denied("the refresh token is not valid")
        try:
            return await self._pair(user, found.family, _successor(refresh_token, found.seed))
        except _Used:
            ended = await self._store.revoke_family(digest)
            REFRESHES.labels("reused").inc()
            raise Denied("the refresh token is not valid", ended) from None

    async def logout(self, refresh_token: str) -> EndedSession | None:
        """End the session of the token and return it; None if the token is unknown."""
        return await self._store.revoke_family(_digest(refresh_token))

    def mint(self, user: str, *, channel: str, ttl_s: int, info: Any, channels: list[str]) -> str:
        """Return a signed token that a backend asked for.

        With `channel` it is a subscription token, else a connection token. `ttl_s` 0: it never expires.

        Raises:
            Invalid: the lifetime is too long, or `channel` and `channels` are both given.
        """
        if ttl_s > _MAX_TTL_S:
            raise Invalid("ttl_s is too long")
        if channel and channels:
            raise Invalid("a subscription token has one channel")
        claims: dict[str, Any] = {"iat": int(self._now())}
        if user:
            claims["sub"] = user
        if ttl_s:
            claims["exp"] = int(self._now()) + ttl_s
        if info is not None:
            claims["info"] = info
        if channel:
            claims["channel"] = channel
        if channels:
            claims["channels"] = channels
        TOKENS.labels("subscription" if channel else "connection").inc()
        return self.signer.sign(self._addressed(claims), self._now())

    async def create_api_key(self, name: str) -> tuple[ApiKeyRow, str]:
        """Create an API key. Its text is returned here and stored nowhere.

        Raises:
            Invalid: the name is empty or too long.
        """
        if not 1 <= len(name) <= 64:
            raise Invalid("name: 1 to 64 characters")
        text = _KEY_PREFIX + secrets.token_urlsafe(32)
        row = ApiKeyRow(secrets.token_hex(6), name, hashlib.sha256(text.encode()).digest(), self._now())
        await self._store.add_api_key(row)
        self.changed.set()
        return row, text

    async def api_keys(self) -> list[ApiKeyRow]:
        """Return all valid API keys."""
        return await self._store.api_keys()

    async def revoke_api_key(self, key_id: str) -> bool:
        """Revoke an API key; False if it does not exist."""
        removed = await self._store.remove_api_key(key_id)
        if removed:
            self.changed.set()
        return removed

    async def _limit_address(self, peer: str) -> None:
        limit = self._policy.attempts_per_address
        if not limit or not peer:
            return
        name = f"address:{peer}"
        if await self._limits.count(name, self._policy.limit_window_s) > limit:
            LOGINS.labels("limited").inc()
            raise TooMany((await self._limits.current(name))[1])

    async def _begin_session(self, user: User) -> Pair:
        return await self._pair(user, secrets.token_hex(12), secrets.token_urlsafe(32))

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
        now = int(self._now())
        claims: dict[str, Any] = {
            "sub": user.id,
            "sid": family,
            "info": {"name": user.username},
            "iat": now,
            "exp": now + self._policy.access_ttl_s,
        }
        TOKENS.labels("access").inc()
        return Pair(
            self.signer.sign(self._addressed(claims), self._now()), self._policy.access_ttl_s, refresh_token, user
        )

    def _addressed(self, claims: dict[str, Any]) -> dict[str, Any]:
        if self._policy.issuer:
            claims["iss"] = self._policy.issuer
        if self._policy.audience:
            claims["aud"] = self._policy.audience
        return claims


async def load_signer(store: AccountStore, algorithm: str, overlap_s: float = KEY_OVERLAP_S) -> Signer:
    """Return a signer with the keys in the store; create a key if none fits."""
    keys = await store.signing_keys()
    if not any(key.algorithm == algorithm for key in keys):
        await store.add_signing_key(new_signing_key(algorithm, time.time()))
        keys = await store.signing_keys()
    return Signer(keys, algorithm, overlap_s)


def _check_password(password: str) -> None:
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        raise Invalid(f"password: at most {MAX_PASSWORD_BYTES} bytes")


def _successor(refresh_token: str, seed: bytes) -> str:
    """Return the refresh token that follows `refresh_token`.

    Guessing it is as hard as guessing the seed for somebody who has the token, and the token for somebody who has the
    seed.
    """
    made = hmac.digest(seed, refresh_token.encode("utf-8", "surrogatepass"), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def _digest(refresh_token: str) -> bytes:
    return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).digest()
