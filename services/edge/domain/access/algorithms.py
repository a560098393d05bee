"""Signature algorithms; checks syntax and signature of a token by PyJWT.

PyJWT prepares a key for every token: it looks whether a secret is a PEM, DER or JWK text, which takes longer than the
signature itself. Here keys are prepared once, when they are taken into the key ring, and the algorithm objects that are
registered take them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import HMACAlgorithm, get_default_algorithms
from jwt.api_jws import PyJWS
from jwt.exceptions import InvalidKeyError, InvalidSignatureError

# HMAC algorithms, with the least bytes of a secret (RFC 7518, 3.2). A shorter HS256 secret only causes a warning, as it
# always did.
HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
KINDS: dict[str, type[Any]] = {
    "EdDSA": Ed25519PublicKey,
    "ES256": EllipticCurvePublicKey,
    "ES384": EllipticCurvePublicKey,
    "PS256": RSAPublicKey,
    "RS256": RSAPublicKey,
    "RS384": RSAPublicKey,
    "RS512": RSAPublicKey,
}
ALGORITHMS = frozenset(HMAC_BYTES) | frozenset(KINDS)
# A public key names its algorithm, so these give nobody a way in without a key of ours. The secret names none: it would
# be used with two more algorithms that nobody asked for.
DEFAULT_ALGORITHMS = ALGORITHMS - {"HS384", "HS512"}


class _Hmac(HMACAlgorithm):
    """HMAC with a secret that `prepared_secret` has checked."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key  # type: ignore[return-value]  # always bytes

    def check_key_length(self, key: bytes) -> None:
        return None


def _reader() -> PyJWS:
    reader = PyJWS([])
    for name in HMAC_BYTES:
        reader.register_algorithm(name, _Hmac(getattr(HMACAlgorithm, f"SHA{name[2:]}")))
    for name in KINDS:
        reader.register_algorithm(name, get_default_algorithms()[name])
    return reader


_READER = _reader()


def prepared_secret(secret: bytes) -> bytes:
    """Return the secret if it can be one.

    Raises:
        ValueError: it is empty, or a key or certificate in PEM, DER, SSH or JWK form.
    """
    try:
        return HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except InvalidKeyError as error:
        raise ValueError(str(error)) from None


def read_header(segment: str) -> dict[str, Any]:
    """Return the header of a token, given as its first part, unverified.

    Raises:
        PyJWTError: it is not the header of a token.
    """
    return _READER.get_unverified_header(f"{segment}..")


def read_payload(token: str, algorithm: str, keys: Iterable[Any]) -> bytes | None:
    """Return the payload of a token that one of the keys signed with the algorithm.

    None: none of them did.

    Raises:
        PyJWTError: it is not a token.
    """
    for key in keys:
        try:
            payload: bytes = _READER.decode_complete(token, key, [algorithm])["payload"]
        except InvalidSignatureError:
            continue
        return payload
    return None
