"""API keys as edges know them."""

from __future__ import annotations

import hashlib

from services.edge.domain.access.api_keys import ApiKey
from services.edge.domain.access.keyring import KeyRing
from services.shared.api_scopes import ADMIN, Scopes


def known_key(text: str, *scopes: str, key_id: str = "", expires_at: float = 0.0) -> tuple[bytes, ApiKey]:
    """The digest and the key with this text; without scopes it may do everything."""
    key = ApiKey(key_id or text, Scopes(scopes or (ADMIN,)), expires_at)
    return hashlib.sha256(text.encode()).digest(), key


def api_key_id(keyring: KeyRing, text: str) -> str | None:
    """The id of the key with this text; None if the ring does not know it."""
    key = keyring.api_keys.find(text, 0.0)
    return None if key is None else key.id
