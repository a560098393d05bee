"""API keys as an edge knows them: digests, scopes, expiry, last use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.shared.api_scopes import ADMIN, Scopes

_EVERYTHING = Scopes((ADMIN,))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its text. `expires_at` is in Unix seconds; 0: never."""

    id: str
    scopes: Scopes = _EVERYTHING
    expires_at: float = 0.0

    def has_expired(self, now: float) -> bool:
        """Return whether its time is over at `now`, in Unix seconds."""
        return bool(self.expires_at) and self.expires_at <= now


class ApiKeys:
    """The keys that are valid at the moment. No I/O."""

    def __init__(self) -> None:
        self._by_digest: Mapping[bytes, ApiKey] = {}
        self._used: dict[str, float] = {}
        self.are_known = False  # auth has said which there are

    def replace(self, keys: Iterable[tuple[bytes, ApiKey]]) -> None:
        """Replace all keys; each comes with the SHA-256 digest of its text."""
        self._by_digest = dict(keys)
        self.are_known = True

    def find(self, text: str, now: float) -> ApiKey | None:
        """Return the key with this text, and note that it is used.

        None: it is not valid. API keys are random, so a plain digest is enough; a slow password hash would add
        nothing.
        """
        key = self._by_digest.get(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
        if key is None or key.has_expired(now):
            return None
        self._used[key.id] = now
        return key

    def take_uses(self) -> dict[str, float]:
        """Return when keys were last used, Unix seconds by id, since the last call."""
        used, self._used = self._used, {}
        return used

    def put_back(self, uses: Mapping[str, float]) -> None:
        """Take uses back that could not be told; newer ones stay."""
        self._used = {**uses, **self._used}
