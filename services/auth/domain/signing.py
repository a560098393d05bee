"""Signing keys, JWTs signed with them, and the JWK Set that verifies them."""

from __future__ import annotations

import base64
import json
import secrets
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

from services.auth.domain.ports import SigningKey

_RSA_BITS = 2_048


def new_signing_key(algorithm: str) -> SigningKey:
    """Generate a key for EdDSA (Ed25519) or RS256."""
    private: Ed25519PrivateKey | RSAPrivateKey = (
        Ed25519PrivateKey.generate() if algorithm == "EdDSA" else generate_private_key(65_537, _RSA_BITS)
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(secrets.token_urlsafe(12), algorithm, pem, time.time())


class Signer:
    """Signs with the newest key of the configured algorithm; publishes all keys."""

    def __init__(self, keys: Sequence[SigningKey], algorithm: str) -> None:
        self._signing = max((key for key in keys if key.algorithm == algorithm), key=lambda key: key.created_at)
        self._private = load_pem_private_key(self._signing.pem, None)
        self.jwks = json.dumps({"keys": [_public(key) for key in keys]}).encode()

    def sign(self, claims: dict[str, Any]) -> str:
        """Return a JWT with these claims."""
        return jwt.encode(
            claims,
            self._private,  # type: ignore[arg-type]  # one of the two kinds that we make
            algorithm=self._signing.algorithm,
            headers={"kid": self._signing.kid},
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
