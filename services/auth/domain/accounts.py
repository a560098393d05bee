"""Accounts: all rules together, and API keys.

`sessions.py` has the rules of login and refresh, `registration.py` those of new accounts, `tokens.py` makes tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping

from services.auth.domain.grants import UserGrants
from services.auth.domain.invites import Invites
from services.auth.domain.own_account import OwnAccount
from services.auth.domain.passwords import Passwords
from services.auth.domain.policy import Policy
from services.auth.domain.ports import AccountStore, ApiKeyRow, Limits
from services.auth.domain.refusals import Invalid
from services.auth.domain.registration import Registration
from services.auth.domain.sessions import Sessions
from services.auth.domain.signing import Signer
from services.auth.domain.tokens import Tokens
from services.auth.domain.users import Users
from services.shared.api_scopes import check_scopes
from services.shared.checks import MAX_TIME_S

_KEY_PREFIX = "thk_"
_USE_EVERY_S = 60.0  # a later use of a key is written if it is so much later, seconds


class Accounts:
    """The rules of accounts. All state is in the store."""

    def __init__(
        self,
        store: AccountStore,
        limits: Limits,
        passwords: Passwords,
        signer: Signer,
        policy: Policy,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._policy = store, policy
        self._now = now
        self.tokens = Tokens(signer, policy, now)
        self.sessions = Sessions(store, limits, passwords, self.tokens, policy, now)
        self.registration = Registration(store, passwords, self.sessions, policy, now)
        self.grants = UserGrants(store.grants, now)
        self.invites = Invites(store.invites, now)
        self.changed = asyncio.Event()  # set when edges must be told something; the watching task clears it
        self.users = Users(store, self.registration, passwords, policy, self.changed, now)
        self.own = OwnAccount(store, limits, self.sessions, passwords, policy, now)

    @property
    def access_ttl_s(self) -> int:
        """Lifetime of access tokens in seconds."""
        return self._policy.access_ttl_s

    async def create_api_key(
        self, name: str, scopes: Iterable[str] = (), expires_at: float = 0.0
    ) -> tuple[ApiKeyRow, str]:
        """Create an API key. Its text is returned here and stored nowhere.

        `scopes`: what it may do; empty: everything. `expires_at`: Unix seconds; 0: never.

        Raises:
            Invalid: the name is empty or too long, a scope is not known, or the key would have expired already.
        """
        if not 1 <= len(name) <= 64:
            raise Invalid("name: 1 to 64 characters")
        try:
            checked = check_scopes(scopes)
        except ValueError as error:
            raise Invalid(str(error)) from None
        if expires_at and not self._now() < expires_at <= MAX_TIME_S:
            raise Invalid("expires_at is past, or after the year 9999")
        text = _KEY_PREFIX + secrets.token_urlsafe(32)
        digest = hashlib.sha256(text.encode()).digest()
        row = ApiKeyRow(secrets.token_hex(6), name, digest, self._now(), checked, expires_at)
        await self._store.add_api_key(row)
        self.changed.set()
        return row, text

    async def api_keys(self) -> list[ApiKeyRow]:
        """Return all API keys that are not revoked, also those that have expired."""
        return await self._store.api_keys()

    async def note_api_key_uses(self, uses: Mapping[str, float]) -> None:
        """Note when API keys were last used, once a minute at most for each.

        `uses`: Unix seconds, by id.
        """
        known = {row.id: row.last_used_at for row in await self._store.api_keys()}
        newer = {
            key_id: min(at, self._now())
            for key_id, at in uses.items()
            if key_id in known and at >= known[key_id] + _USE_EVERY_S
        }
        if newer:
            await self._store.note_api_key_uses(newer)

    async def revoke_api_key(self, key_id: str) -> bool:
        """Revoke an API key; False if it does not exist."""
        removed = await self._store.remove_api_key(key_id)
        if removed:
            self.changed.set()
        return removed
