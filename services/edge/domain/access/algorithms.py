"""Signature algorithms; checks syntax and signature of a token by PyJWT.

Two slow parts of PyJWT are replaced. It prepares a key for every token: it looks whether a secret is a PEM, DER or JWK
text, which takes longer than the signature itself. Here keys are prepared once, when they are taken into the key ring.
And it checks base64url one character after the other. Decision: docs/decisions/0037.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import HMACAlgorithm, get_default_algorithms
from jwt.api_jws import PyJWS
from jwt.exceptions import DecodeError, InvalidKeyError, InvalidSignatureError

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


_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
_TO_BASE64URL = bytes.maketrans(b"+/", b"-_")


class _Hmac(HMACAlgorithm):
    """HMAC with a secret that `prepared_secret` has checked."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key  # type: ignore[return-value]  # always bytes

    def check_key_length(self, key: bytes) -> None:
        return None


class _Reader(PyJWS):
    """PyJWT's reader, with a base64url decoder that works in C.

    If a later PyJWT does not call this method any more, its own one is used, and only slower.
    """

    @staticmethod
    def _decode_base64url_segment(segment: bytes, name: str) -> bytes:
        """Return the bytes; only the one right way to write them is accepted."""
        try:
            decoded = binascii.a2b_base64(segment.translate(_TO_BASE64) + b"=" * (-len(segment) % 4), strict_mode=True)
        except binascii.Error:
            raise DecodeError(f"Invalid {name} padding") from None
        if binascii.b2a_base64(decoded, newline=False).translate(_TO_BASE64URL).rstrip(b"=") != segment:
            raise DecodeError(f"Invalid {name} padding")  # unused bits are set, or it has characters of plain base64
        return decoded


def _reader() -> PyJWS:
    reader = _Reader([])
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
