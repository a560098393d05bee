"""Signing keys, JWTs signed with them, and the JWK Set that verifies them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from services.auth.domain.minted import new_id
from services.auth.domain.ports import SigningKey

_RSA_BITS = 2_048
# Seconds between the making of a key and its first signature. Edges hear of a key within 2 s, one whose stream hangs
# within 35 s; others may keep `/auth/jwks` for 60 s.
KEY_OVERLAP_S = 120


def new_signing_key(algorithm: str, now: float) -> SigningKey:
    """Generate a key for EdDSA (Ed25519) or RS256."""
    private: Ed25519PrivateKey | RSAPrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else generate_private_key(65_537, _RSA_BITS)
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(new_id(12), algorithm, pem, now)


class Signer:
    """Signs with one of the keys in the store; publishes all of them.

    A new key does not sign before edges know it: `overlap_s` after it was made. Every replica of auth decides so by its
    own clock, and nothing about it is stored.
    """

    def __init__(self, keys: Sequence[SigningKey], algorithm: str, overlap_s: float = KEY_OVERLAP_S) -> None:
        """Take the keys; at least one is of this algorithm, with which new keys are made."""
        self._keys = sorted(keys, key=lambda key: (key.created_at, key.kid))
        self._algorithm, self._overlap_s = algorithm, overlap_s
        self._private = {key.kid: load_pem_private_key(key.pem, None) for key in keys}
        self.jwks = json.dumps({"keys": [_public(key) for key in self._keys]}).encode()

    def key_at(self, now: float) -> SigningKey:
        """Return the key that signs at this time, in Unix seconds.

        It is the newest key of the algorithm that edges know. Until there is one, after a change of the algorithm, it
        is the newest other key that they know; at the very start it is the oldest.
        """
        known = [key for key in self._keys if key.created_at + self._overlap_s <= now]
        ours = [key for key in known if key.algorithm == self._algorithm]
        if known:
            return (ours or known)[-1]
        return next(key for key in self._keys if key.algorithm == self._algorithm)

    def sign(self, claims: dict[str, Any], now: float | None = None) -> str:
        """Return a JWT of these claims, signed with the key of `now`; None: the present."""
        key = self.key_at(time.time() if now is None else now)
        return jwt.encode(
            claims,
            self._private[key.kid],  # type: ignore[arg-type]  # one of the two kinds that we make
            algorithm=key.algorithm,
            headers={"kid": key.kid},
        )


def _public(key: SigningKey) -> dict[str, str]:
    """Return the public part of a key as a JWK."""
    private = load_pem_private_key(key.pem, None)
    common = {"kid": key.kid, "alg": key.algorithm, "use": "sig"}
    if isinstance(private, Ed25519PrivateKey):
        raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {**common, "kty": "OKP", "crv": "Ed25519", "x": _base64(raw)}
    assert isinstance(private, RSAPrivateKey)
    numbers = private.public_key().public_numbers()
    return {**common, "kty": "RSA", "n": _base64(_bytes(numbers.n)), "e": _base64(_bytes(numbers.e))}


def _bytes(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
