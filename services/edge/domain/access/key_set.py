"""Reads JWK Sets: public keys by algorithm and key id.

A key serves one algorithm, that of its `alg` (RFC 8725, 3.1). Without `alg` it is RS256 for RSA, EdDSA for Ed25519, and
ES256 or ES384 by the curve. So no RSA key verifies PS256 unless the key set says so, and no public key an HMAC.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from services.edge.domain.access.algorithms import KINDS

logger = logging.getLogger(__name__)

MAX_KEYS = 100  # of one set; more are a mistake, and each costs time to read
_RSA_BITS = range(2_048, 8_192 + 1)  # fewer are not safe (RFC 7518, 3.3), more make every check of a token slow
Keys = Mapping[tuple[str, str], Any]


def read_key_set(jwks: bytes, algorithms: Collection[str]) -> Keys:
    """Return the keys of a JWK Set for these algorithms, by algorithm and key id.

    Keys of an unknown kind, private and broken keys, and keys without a key id are left out.

    Raises:
        ValueError: it is not a JWK Set, or has too many keys.
    """
    try:
        found = json.loads(jwks)
    except RecursionError:
        raise ValueError("not a JWK Set") from None
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK Set")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"over {MAX_KEYS} keys")
    keys: dict[tuple[str, str], Any] = {}
    for entry in entries:
        key = _read(entry)
        if key is not None and key.algorithm_name in algorithms and _is_usable(key):
            keys[(key.algorithm_name, str(key.key_id))] = key.key
    return keys


def _read(entry: Any) -> PyJWK | None:
    """Return an entry of a JWK Set; None, and a line in the log, if it can't be read."""
    if not isinstance(entry, dict):
        entry = {}
    try:
        key = PyJWK.from_dict(entry)
        key.Algorithm.prepare_key(key.key)  # checks that the curve is that of the algorithm
    except (PyJWTError, NotImplementedError, KeyError, AttributeError, TypeError, ValueError) as error:
        # Of PyJWT: NotImplementedError for the algorithm "none", the others for members that are missing or no text.
        # Its messages are not logged: they have all members of the key, a private one's too.
        named = {name: str(entry.get(name))[:80] for name in ("kid", "kty", "alg", "crv")}
        logger.warning("a key of the JWK Set can't be used", extra={**named, "error": type(error).__name__})
        return None
    return key


def _is_usable(key: PyJWK) -> bool:
    """Return whether it is a public key that verifies signatures, with a key id."""
    entry = key._jwk_data  # noqa: SLF001  # no other way to `key_ops`
    operations = entry.get("key_ops")
    return (
        isinstance(key.key, KINDS.get(key.algorithm_name, ()))
        and isinstance(key.key_id, str)
        and key.key_id != ""
        and key.public_key_use in (None, "sig")
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
        and (not isinstance(key.key, RSAPublicKey) or key.key.key_size in _RSA_BITS)
    )
