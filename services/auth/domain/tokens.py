"""Tokens that auth signs: access tokens of sessions, and tokens for backends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from services.auth.domain.policy import Policy
from services.auth.domain.ports import AccountStore, User
from services.auth.domain.refusals import Invalid
from services.auth.domain.signing import KEY_OVERLAP_S, Signer, new_signing_key
from services.auth.metrics import TOKENS

_MAX_TTL_S = 10 * 365 * 86_400


class Tokens:
    """Makes and signs tokens. `signer` is replaced when the keys change."""

    def __init__(self, signer: Signer, policy: Policy, now: Callable[[], float] = time.time) -> None:
        self.signer = signer
        self._policy, self._now = policy, now

    def access(self, user: User, family: str) -> str:
        """Return an access token of the session `family` of this user."""
        now = int(self._now())
        claims: dict[str, Any] = {
            "sub": user.id,
            "sid": family,
            "info": {"name": user.username},
            "iat": now,
            "exp": now + self._policy.access_ttl_s,
        }
        TOKENS.labels("access").inc()
        return self.signer.sign(self._addressed(claims), self._now())

    def mint(self, user: str, *, channel: str, ttl_s: int, info: Any, channels: list[str], caps: Any = None) -> str:
        """Return a signed token that a backend asked for.

        With `channel` it is a subscription token, else a connection token. `ttl_s` 0: it never expires.

        Raises:
            Invalid: the lifetime is too long, or `channel` is given beside `channels` or `caps`.
        """
        if ttl_s > _MAX_TTL_S:
            raise Invalid("ttl_s is too long")
        if channel and channels:
            raise Invalid("a subscription token has one channel")
        if channel and caps is not None:
            raise Invalid("a subscription token has no caps")
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
        if caps is not None:
            claims["caps"] = caps
        TOKENS.labels("subscription" if channel else "connection").inc()
        return self.signer.sign(self._addressed(claims), self._now())

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
