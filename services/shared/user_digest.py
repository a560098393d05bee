"""The short digest of a user id: by it auth names disabled users to edges."""

from __future__ import annotations

import hashlib

DIGEST_BYTES = 16  # every edge holds a list of them


def digest_of(user: str) -> bytes:
    """Return the first 16 bytes of the SHA-256 of a user id, which may be any text."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]
