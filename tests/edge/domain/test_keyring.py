"""Which keys an edge trusts.

Secrets for HS256, public keys by id, digests of API keys.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256

from services.edge.domain.access.keyring import KeyRing
from tests.support.api_keys import api_key_id, known_key

TEXT = b"header.body"
_BY_NAME = jwt.algorithms.get_default_algorithms()
ED, OTHER_ED, RSA = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), generate_private_key(65_537, 2_048)
OLD, NEW = b"the secret of before, 32 bytes at least", b"the secret of today, 32 bytes at least"


def of_ed(kid: object = "ed", key: Ed25519PrivateKey = ED) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "EdDSA"}


def of_rsa(kid: str = "rsa") -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key())), "kid": kid, "alg": "RS256"}


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def ring_of(*keys: object) -> KeyRing:
    ring = KeyRing()
    ring.set_jwks(key_set(*keys))
    return ring


def verifies(ring: KeyRing, algorithm: str, kid: object, text: bytes, signature: bytes) -> bool:
    """Whether a key that the ring has for them made the signature, as PyJWT checks it."""
    return any(_BY_NAME[algorithm].verify(text, key, signature) for key in ring.keys(algorithm, kid))


def mac(secret: bytes) -> bytes:
    return hmac.digest(secret, TEXT, "sha256")


BY_ED, BY_RSA = ED.sign(TEXT), RSA.sign(TEXT, PKCS1v15(), SHA256())


# Secrets.


def test_a_new_ring_trusts_nothing() -> None:
    ring = KeyRing()
    assert ring.is_empty
    assert not verifies(ring, "HS256", None, TEXT, mac(b""))
    assert not verifies(ring, "EdDSA", "ed", TEXT, BY_ED)
    assert api_key_id(ring, "") is None
    assert json.loads(ring.jwks) == {"keys": []}


def test_the_secret_and_those_before_it_are_accepted() -> None:
    ring = KeyRing()
    ring.set_secrets(NEW, OLD)
    assert not ring.is_empty
    assert verifies(ring, "HS256", None, TEXT, mac(NEW))
    assert verifies(ring, "HS256", None, TEXT, mac(OLD))
    assert not verifies(ring, "HS256", None, TEXT, mac(b"another secret"))
    assert not verifies(ring, "HS256", None, TEXT + b"x", mac(NEW))
    assert not verifies(ring, "HS256", None, TEXT, mac(NEW)[:-1])
    assert not verifies(ring, "HS256", None, TEXT, b"")


def test_a_key_id_is_of_no_importance_to_hs256() -> None:
    ring = KeyRing()
    ring.set_secrets(NEW)
    for kid in (None, "ed", "", 5):
        assert verifies(ring, "HS256", kid, TEXT, mac(NEW))


def test_a_secret_that_is_replaced_or_taken_away_is_trusted_no_longer() -> None:
    ring = KeyRing()
    ring.set_secrets(OLD)
    ring.set_secrets(NEW)
    assert not verifies(ring, "HS256", None, TEXT, mac(OLD))
    ring.set_secrets(None, OLD)  # without a secret, those before it count for nothing
    assert not verifies(ring, "HS256", None, TEXT, mac(NEW))
    assert not verifies(ring, "HS256", None, TEXT, mac(OLD))
    assert ring.is_empty


# Public keys.


def test_a_signature_counts_only_under_the_id_of_its_key() -> None:
    ring = ring_of(of_ed("ed"), of_ed("other", OTHER_ED), of_rsa())
    assert verifies(ring, "EdDSA", "ed", TEXT, BY_ED)
    assert verifies(ring, "RS256", "rsa", TEXT, BY_RSA)
    assert not verifies(ring, "EdDSA", "other", TEXT, BY_ED)
    assert not verifies(ring, "EdDSA", "unknown", TEXT, BY_ED)


@pytest.mark.parametrize("kid", [None, 5, ["ed"], {"ed": 1}, True])
def test_a_key_id_that_is_no_text_is_no_key(kid: object) -> None:
    assert not verifies(ring_of(of_ed()), "EdDSA", kid, TEXT, BY_ED)


def test_a_key_serves_only_its_own_algorithm() -> None:
    ring = ring_of(of_ed("ed"), of_rsa("rsa"))
    assert not verifies(ring, "RS256", "ed", TEXT, BY_ED)
    assert not verifies(ring, "EdDSA", "rsa", TEXT, BY_RSA)
    for algorithm in ("none", "", "RS512", "ES256", "HS512"):
        assert not verifies(ring, algorithm, "rsa", TEXT, BY_RSA), algorithm


def test_a_signature_of_other_text_or_of_wrong_size_is_refused() -> None:
    ring = ring_of(of_ed(), of_rsa())
    for algorithm, kid, signature in (("EdDSA", "ed", BY_ED), ("RS256", "rsa", BY_RSA)):
        assert not verifies(ring, algorithm, kid, TEXT + b"x", signature)
        assert not verifies(ring, algorithm, kid, TEXT, signature[:-1])
        assert not verifies(ring, algorithm, kid, TEXT, b"")


def test_a_new_key_set_replaces_the_one_before_as_a_whole() -> None:
    ring = ring_of(of_ed("ed"), of_rsa())
    ring.set_jwks(key_set(of_ed("other", OTHER_ED)))
    assert not verifies(ring, "EdDSA", "ed", TEXT, BY_ED)
    assert not verifies(ring, "RS256", "rsa", TEXT, BY_RSA)
    assert verifies(ring, "EdDSA", "other", TEXT, OTHER_ED.sign(TEXT))
    ring.set_jwks(key_set())
    assert ring.is_empty


def test_the_key_set_is_given_on_as_it_came() -> None:
    given = key_set(of_ed(), of_rsa())
    ring = KeyRing()
    ring.set_jwks(given)
    assert ring.jwks == given
    assert not ring.is_empty


UNUSABLE = {
    "without an id": {name: value for name, value in of_ed().items() if name != "kid"},
    "an empty id": of_ed(""),
    "an id that is no text": of_ed(5),
    "a private key": {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(ED)), "kid": "ed", "alg": "EdDSA"},
    "a secret": {"kty": "oct", "k": "c2VjcmV0", "kid": "ed"},
    "a secret that says EdDSA": {"kty": "oct", "k": "c2VjcmV0", "kid": "ed", "alg": "EdDSA"},
    "an algorithm of RSA that is not served": {**of_rsa("ed"), "alg": "PS512"},
    "an unknown algorithm": {**of_ed(), "alg": "new"},
    "no algorithm at all": {**of_ed(), "alg": "none"},
    "a kind of a later version": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "ed"},
    "an unknown curve": {**of_ed(), "crv": "new"},
    "no kind": {"kid": "ed"},
    "a number that is too short": {**of_ed(), "x": "AAAA"},
    "text that is no number": {**of_ed(), "x": "@@"},
    "a modulus of nothing": {**of_rsa("ed"), "n": ""},
    "an algorithm that is no text": {**of_ed(), "alg": ["EdDSA"]},
    "not an object": "ed",
    "null": None,
}


@pytest.mark.parametrize("entry", UNUSABLE.values(), ids=list(UNUSABLE))
def test_a_key_that_cannot_be_used_is_left_out_and_the_others_are_taken(entry: object) -> None:
    ring = ring_of(of_rsa(), entry, of_ed("other", OTHER_ED))
    assert not verifies(ring, "EdDSA", "ed", TEXT, BY_ED)
    assert verifies(ring, "RS256", "rsa", TEXT, BY_RSA)
    assert verifies(ring, "EdDSA", "other", TEXT, OTHER_ED.sign(TEXT))


def test_a_ring_of_keys_that_cannot_be_used_is_empty() -> None:
    assert ring_of(*UNUSABLE.values()).is_empty


@pytest.mark.parametrize("jwks", [b"", b"{", b"[]", b"{}", b"null", b'{"keys":null}', b'{"keys":{}}', b"\xff"])
def test_what_is_no_key_set_changes_nothing(jwks: bytes) -> None:
    ring = ring_of(of_ed())
    with pytest.raises(ValueError):  # noqa: PT011
        ring.set_jwks(jwks)
    assert verifies(ring, "EdDSA", "ed", TEXT, BY_ED)
    assert ring.jwks == key_set(of_ed())


def test_a_key_that_is_left_out_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ring_of(UNUSABLE["a kind of a later version"], of_ed())
    (record,) = caplog.records
    assert record.__dict__["kid"] == "ed"
    assert record.__dict__["kty"] == "AKP"


def test_the_log_has_nothing_of_a_secret_that_was_published(caplog: pytest.LogCaptureFixture) -> None:
    private = jwt.algorithms.OKPAlgorithm.to_jwk(ED)
    ring_of(
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "new"},
        {"k": "c2VjcmV0"},
        {**json.loads(private), "crv": "x"},
    )
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert "c2VjcmV0" not in str(record.__dict__)
        assert json.loads(private)["d"] not in str(record.__dict__)


# API keys.


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def test_an_api_key_is_known_by_its_digest() -> None:
    ring = KeyRing()
    ring.api_keys.replace([known_key("one", key_id="id1"), known_key("two", key_id="id2")])
    assert api_key_id(ring, "one") == "id1"
    assert api_key_id(ring, "two") == "id2"
    for key in ("", "three", "id1", digest("one").hex(), "one "):
        assert api_key_id(ring, key) is None, key
    assert ring.is_empty  # it verifies no token


def test_an_api_key_that_is_taken_away_is_unknown() -> None:
    ring = KeyRing()
    ring.api_keys.replace([known_key("one", key_id="id1")])
    ring.api_keys.replace([known_key("two", key_id="id2")])
    assert api_key_id(ring, "one") is None
    assert api_key_id(ring, "two") == "id2"


def test_half_a_surrogate_pair_is_an_unknown_api_key() -> None:
    ring = KeyRing()
    ring.api_keys.replace([known_key("one", key_id="id1")])
    assert api_key_id(ring, "\ud800") is None


def test_a_key_may_still_come_until_whoever_publishes_it_was_heard() -> None:
    ring = KeyRing()
    assert not ring.may_still_come("EdDSA")  # nobody is to send any
    ring.awaits_auth = True
    ring.trust_issuer("https://login.example.com")
    assert ring.may_still_come("EdDSA")
    assert ring.may_still_come("EdDSA", "https://others.example.com")
    assert not ring.may_still_come("HS256")  # secrets are settings
    ring.set_jwks(key_set(of_ed()))
    assert not ring.may_still_come("EdDSA")
    assert ring.may_still_come("EdDSA", "https://login.example.com")
    ring.set_issuer_keys("https://login.example.com", key_set())
    assert not ring.may_still_come("EdDSA", "https://login.example.com")


def test_auth_that_sends_a_set_without_keys_was_heard() -> None:
    ring = KeyRing()
    ring.awaits_auth = True
    ring.set_jwks(ring.jwks)
    assert not ring.may_still_come("EdDSA")
