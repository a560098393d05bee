"""Keys that verify tokens, and digests of API keys.

Public keys and API keys come from the auth service; secrets for HS256 come from the edge's settings.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

logger = logging.getLogger(__name__)

HMAC_ALGORITHMS = frozenset({"HS256"})
_KINDS: dict[str, type[Any]] = {"EdDSA": Ed25519PublicKey, "RS256": RSAPublicKey}
ALGORITHMS = HMAC_ALGORITHMS | frozenset(_KINDS)


class KeyRing:
    """The keys that this edge trusts at the moment. No I/O.

    The client of the auth service and the wiring of the edge change them; `TokenVerifier` and the HTTP API read them.
    """

    def __init__(self) -> None:
        self._secrets: tuple[bytes, ...] = ()
        self._public: dict[tuple[str, str], Any] = {}
        self._api_keys: dict[bytes, str] = {}
        self.jwks = b'{"keys":[]}'

    def set_hs256(self, secret: bytes | None, *previous: bytes) -> None:
        """Accept HS256 tokens signed with `secret` or with one of the `previous` secrets.

        None: accept no HS256 tokens.
        """
        self._secrets = () if secret is None else (secret, *previous)

    def set_jwks(self, jwks: bytes) -> None:
        """Replace all public keys by those of a JWK Set (JSON).

        Keys of an unknown kind, broken keys, and keys without a key id are left out.

        Raises:
            ValueError: it is not a JWK Set; the keys stay as they are.
        """
        found = json.loads(jwks)
        entries = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise ValueError("not a JWK Set")
        public: dict[tuple[str, str], Any] = {}
        for entry in entries:
            key = _read(entry)
            kind = _KINDS.get(key.algorithm_name) if key is not None else None
            if kind is not None and isinstance(key.key, kind) and isinstance(key.key_id, str) and key.key_id:
                public[(key.algorithm_name, key.key_id)] = key.key
        self._public = public
        self.jwks = jwks

    def set_api_keys(self, digests: Iterable[tuple[bytes, str]]) -> None:
        """Replace all API keys. Each item is the SHA-256 digest and the id of a key."""
        self._api_keys = dict(digests)

    def api_key_id(self, key: str) -> str | None:
        """Return the id of an API key; None if the key is unknown.

        API keys are random, so a plain digest is enough; a slow password hash would add nothing.
        """
        return self._api_keys.get(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest())

    @property
    def is_empty(self) -> bool:
        """Whether there is no key that could verify a token."""
        return not self._secrets and not self._public

    def verifies(self, algorithm: str, kid: object, signed: bytes, signature: bytes) -> bool:
        """Return whether a key of this algorithm made the signature.

        For public keys it must be the key with the id `kid`. For HS256, which has no key ids, every secret is tried.
        """
        if algorithm in HMAC_ALGORITHMS:
            return any(
                hmac.compare_digest(hmac.digest(secret, signed, "sha256"), signature) for secret in self._secrets
            )
        if not isinstance(kid, str):
            return False
        key = self._public.get((algorithm, kid))
        return key is not None and _verified(key, signed, signature)


def _read(entry: Any) -> Any:
    """Return an entry of a JWK Set as a `PyJWK`; None, and a line in the log, if it can't be read."""
    if not isinstance(entry, dict):
        entry = {}
    try:
        return PyJWK.from_dict(entry)
    except (PyJWTError, NotImplementedError) as error:  # the second one: the algorithm "none"
        kid = str(entry.get("kid"))[:80]
        logger.warning("a key of the JWK Set can't be used", extra={"kid": kid, "error": str(error)[:200]})
        return None


def _verified(key: Any, signed: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            key.verify(signature, signed, PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True
