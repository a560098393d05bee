"""Settings that decide which tokens are accepted.

What an edge does not start with.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.edge.config import EdgeConfig
from services.edge.domain.access.keyring import KeyRing
from services.edge.edge import read_secrets
from services.shared.process.config import ConfigError, read_env


def config_of(**environment: str) -> EdgeConfig:
    return read_env(EdgeConfig, environment, "EDGE")


def ring_of(config: EdgeConfig) -> KeyRing:
    keyring = KeyRing(frozenset(config.token_algorithms))
    read_secrets(config, keyring)
    return keyring


def secret_file(folder: Path, content: bytes, name: str = "secret") -> str:
    (folder / name).write_bytes(content + b"\n")
    return str(folder / name)


@pytest.mark.parametrize("value", ["none", "HS256,None", "hs256", "ES512", "RS256;PS256", ","])
def test_an_unknown_algorithm_or_none_at_all_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_TOKEN_ALGORITHMS"):
        config_of(EDGE_TOKEN_ALGORITHMS=value)


def test_the_list_may_have_blanks() -> None:
    assert config_of(EDGE_TOKEN_ALGORITHMS=" EdDSA , HS256 ").token_algorithms == ("EdDSA", "HS256")


@pytest.mark.parametrize(("algorithm", "least"), [("HS384", 48), ("HS512", 64)])
@pytest.mark.parametrize("which", ["AUTH_HS256_SECRET_FILE", "AUTH_HS256_PREVIOUS_SECRET_FILE"])
def test_a_secret_that_is_too_short_for_a_listed_algorithm_is_refused(
    algorithm: str, least: int, which: str, tmp_path: Path
) -> None:
    files = {
        "AUTH_HS256_SECRET_FILE": secret_file(tmp_path, b"s" * 64, "present"),
        "AUTH_HS256_PREVIOUS_SECRET_FILE": secret_file(tmp_path, b"p" * 64, "previous"),
    }
    config = config_of(EDGE_TOKEN_ALGORITHMS=f"HS256,{algorithm}", **files)
    assert len(ring_of(config).keys(algorithm, None)) == 2
    Path(files[which]).write_bytes(b"s" * (least - 1))
    with pytest.raises(ConfigError, match=f"{which}.*{algorithm}.*{least} bytes"):
        ring_of(config)


def test_a_short_secret_for_hs256_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for size, warnings in ((31, 1), (32, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            keys = ring_of(config_of(AUTH_HS256_SECRET_FILE=secret_file(tmp_path, b"s" * size)))
        assert len(caplog.records) == warnings
        assert keys.keys("HS256", None) == (b"s" * size,)


def test_a_public_key_in_place_of_the_secret_is_refused_without_its_content(tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ConfigError, match=r"AUTH_HS256_SECRET_FILE.*is no secret") as caught:
        ring_of(config_of(AUTH_HS256_SECRET_FILE=secret_file(tmp_path, pem)))
    assert not any(line.decode() in str(caught.value) for line in pem.splitlines())


ISSUERS = {
    "a=https://a.example/keys": {"a": "https://a.example/keys"},
    "https://a.example/realms/x=https://a.example/keys?p=a&v=1": {
        "https://a.example/realms/x": "https://a.example/keys?p=a&v=1"
    },
    "x=y=https://a.example/": {"x=y": "https://a.example/"},
    "a=http://127.0.0.1:8080/keys, b=http://[::1]/keys,c=http://localhost/": {
        "a": "http://127.0.0.1:8080/keys",
        "b": "http://[::1]/keys",
        "c": "http://localhost/",
    },
    "": {},
}


@pytest.mark.parametrize(("value", "issuers"), ISSUERS.items(), ids=[str(number) for number in range(len(ISSUERS))])
def test_issuers_are_read(value: str, issuers: dict[str, str]) -> None:
    assert config_of(EDGE_JWKS_URLS=value).issuers() == issuers


WRONG = {
    "no address": "a",
    "no issuer": "=https://a.example/keys",
    "no scheme": "a=a.example/keys",
    "plain http": "a=http://a.example/keys",
    "nearly this machine": "a=http://localhost.example/keys",
    "this machine in other numbers": "a=http://2130706433/keys",
    "a file": "a=file:///etc/keys",
    "a password": "a=https://me:secret@a.example/keys",
    "a password and a bad port": "a=https://me:secret@a.example:99999/keys",
    "a password and another scheme": "a=ftp://me:secret@a.example/keys",
    "a user": "a=http://127.0.0.1@a.example/keys",
    "a fragment": "a=https://a.example/keys#x",
    "a port that is none": "a=https://a.example:99999/keys",
    "no host": "a=https:///keys",
    "twice": "a=https://a.example/keys,a=https://b.example/keys",
}


@pytest.mark.parametrize("value", WRONG.values(), ids=list(WRONG))
def test_an_address_that_is_not_safe_or_none_is_refused_by_name(value: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_JWKS_URLS") as caught:
        config_of(EDGE_JWKS_URLS=value)
    assert "secret" not in str(caught.value)
