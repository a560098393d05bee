"""Keys of external issuers, fetched from a real HTTP server.

And what an edge makes of every bad answer.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.secrets.certificate import make_certificate
from services.edge.adapters.issuer_keys import IssuerKeys
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier
from services.edge.metrics import ISSUER_FAILURES, ISSUER_FETCHED, ISSUER_KEYS
from services.shared.errors import Unavailable
from tests.edge.domain.test_token_algorithms import PRIVATE, jwk_of, key_set, token
from tests.support.issuer import Issuer, answer
from tests.support.waiting import until

NOW = 1_800_000_000.0
EVERY_S = 0.1
PUBLIC_KEYS = key_set(*map(jwk_of, PRIVATE))


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer(answer(PUBLIC_KEYS))
    await made.start()
    yield made
    await made.stop()


@asynccontextmanager
async def edge(url: str, name: str = "them", within_s: float = 1.0) -> AsyncIterator[KeyRing]:
    keyring = KeyRing()
    keys = IssuerKeys({name: url}, keyring, every_s=EVERY_S, within_s=within_s)
    await keys.start()
    yield keyring
    await keys.close()


def believes(keyring: KeyRing, algorithm: str = "EdDSA", key: Any = None, **claims: Any) -> bool:
    try:
        TokenVerifier(keyring).connection(token(algorithm, key, **{"iss": "them", **claims}), NOW)
    except (TokenInvalid, Unavailable):  # Unavailable: no keys of the issuer are known yet
        return False
    return True


def failures(name: str = "them") -> float:
    return float(ISSUER_FAILURES.labels(name)._value.get())  # noqa: SLF001  # the library has no public way


async def after_failures(count: int, act: Callable[[], object] = lambda: None) -> None:
    before = failures()
    act()
    await until(lambda: failures() >= before + count)


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_token_of_each_algorithm_is_believed_with_the_name_of_its_issuer_alone(
    issuer: Issuer, algorithm: str
) -> None:
    async with edge(issuer.url) as keyring:
        await until(lambda: keyring.has_issuer_keys)
        assert believes(keyring, algorithm)
        assert not believes(keyring, algorithm, iss="others")
    (request, *_) = issuer.requests
    assert request.startswith(b"GET /keys HTTP/1.1\r\n")


async def test_a_new_key_is_learned_and_one_that_is_gone_forgotten_without_a_token(issuer: Issuer) -> None:
    async with edge(issuer.url) as keyring:
        await until(lambda: believes(keyring))
        issuer.says = answer(key_set(jwk_of("RS256")))
        await until(lambda: not believes(keyring, "EdDSA"))
        assert believes(keyring, "RS256")
        assert ISSUER_KEYS.labels("them")._value.get() == 1  # noqa: SLF001
        issuer.says = answer(key_set())
        await until(lambda: not keyring.has_issuer_keys)


async def test_no_token_causes_a_request(issuer: Issuer) -> None:
    keyring = KeyRing()
    keys = IssuerKeys({"them": issuer.url}, keyring, every_s=60)
    await keys.start()
    await until(lambda: keyring.has_issuer_keys)
    for number in range(100):
        assert not believes(keyring, kid=f"new-{number}")
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    assert len(issuer.requests) == 1
    await keys.close()


async def test_an_edge_that_starts_while_the_issuer_is_down_has_its_keys_when_it_is_back(issuer: Issuer) -> None:
    await issuer.stop()
    async with edge(issuer.url) as keyring:
        await after_failures(1)
        assert not believes(keyring)
        assert ISSUER_FETCHED.labels("them")._value.get() == 0  # noqa: SLF001
        await issuer.start()
        await until(lambda: believes(keyring))
        assert time.time() - ISSUER_FETCHED.labels("them")._value.get() < 60  # noqa: SLF001


async def test_keys_are_kept_while_the_issuer_is_down(issuer: Issuer) -> None:
    async with edge(issuer.url) as keyring:
        await until(lambda: believes(keyring))
        await issuer.stop()
        await after_failures(2)
        assert believes(keyring)
        await issuer.start()


BOMB = gzip.compress(bytes(50_000_000))
BAD = {
    "error": answer(b"down for maintenance", status="503 Service Unavailable", content_type="text/html"),
    "not found": answer(PUBLIC_KEYS, status="404 Not Found"),
    "another success": answer(PUBLIC_KEYS, status="206 Partial Content"),
    "nothing": b"",
    "no http": b"\0\1\2\3" * 100,
    "garbage": answer(b"\xff{[" * 1_000),
    "html": answer(b"<html>log in</html>", content_type="text/html"),
    "no kind": answer(PUBLIC_KEYS, content_type=""),
    "text": answer(PUBLIC_KEYS, content_type="text/plain"),
    "no key set": answer(b'{"issuer":"them"}'),
    "deep": answer(b'{"keys":' + b"[" * 60_000),
    "huge": answer(b'{"keys":[],"x":"' + b"x" * 200_000 + b'"}'),
    "huge without a length": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b" " * 5_000_000,
    "too many keys": answer(key_set(*({**jwk_of("EdDSA"), "kid": f"k{number}"} for number in range(101)))),
    "cut off": answer(PUBLIC_KEYS)[:-10],
    "compressed": answer(gzip.compress(PUBLIC_KEYS), "Content-Encoding: gzip"),
    "bomb": answer(BOMB, "Content-Encoding: gzip"),
    "redirect elsewhere": answer(b"", "Location: http://127.0.0.1:1/keys", status="302 Found"),
    "redirect to plain http": answer(b"", "Location: http://example.com/keys", status="301 Moved Permanently"),
    "redirect to itself": answer(b"", "Location: /keys", status="307 Temporary Redirect"),
    "redirect to nowhere": answer(b"", status="302 Found"),
    "not modified": answer(b"", status="304 Not Modified"),
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000,
}


@pytest.mark.parametrize("says", BAD.values(), ids=list(BAD))
async def test_a_bad_answer_changes_nothing_and_is_counted_and_logged(
    issuer: Issuer, says: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge(issuer.url) as keyring:
        await until(lambda: believes(keyring))
        caplog.clear()
        asked = len(issuer.requests)
        await after_failures(1, lambda: setattr(issuer, "says", says))
        assert believes(keyring)
        assert len(issuer.requests) <= asked + 2, "nothing was followed, and it is not asked again at once"
        lines = [record for record in caplog.records if record.levelno == logging.WARNING and "issuer" in record.msg]
        assert len(lines) == 1
        assert lines[0].__dict__["issuer"] == "them"
        issuer.says = answer(key_set(jwk_of("ES256")))
        await until(lambda: believes(keyring, "ES256"))


async def test_an_answer_that_trickles_is_given_up(issuer: Issuer) -> None:
    issuer.portion, issuer.pause_s = 1, 0.1
    async with edge(issuer.url, within_s=2.0) as keyring:
        await after_failures(1)
        assert not keyring.has_issuer_keys
        issuer.portion, issuer.pause_s = 1 << 20, 0.0
        await until(lambda: believes(keyring))


async def test_a_certificate_that_nobody_trusts_is_refused_and_one_of_the_environment_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "server.pem"  # with its key
    certificate.write_bytes(make_certificate(["127.0.0.1"]))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    issuer = Issuer(answer(PUBLIC_KEYS))
    await issuer.start(context)
    async with edge(issuer.url) as keyring:
        await after_failures(1)
        assert not keyring.has_issuer_keys
        assert issuer.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await until(lambda: believes(keyring))
    await issuer.stop()


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with edge(issuer.url) as keyring:
        await until(lambda: believes(keyring))


async def test_two_issuers_have_keys_of_their_own(issuer: Issuer) -> None:
    other = Issuer(answer(key_set(jwk_of("ES256", kid="EdDSA"), jwk_of("ES256"))))
    await other.start()
    keyring = KeyRing()
    keys = IssuerKeys({"them": issuer.url, "others": other.url}, keyring, every_s=EVERY_S)
    await keys.start()
    await until(lambda: believes(keyring) and believes(keyring, "ES256", iss="others"))
    assert not believes(keyring, "EdDSA", iss="others")
    await other.stop()
    await after_failures(0)
    assert believes(keyring, "ES256", iss="others")
    await keys.close()


async def test_closing_does_not_wait_for_an_answer(issuer: Issuer) -> None:
    issuer.portion, issuer.pause_s = 1, 1.0
    keys = IssuerKeys({"them": issuer.url}, KeyRing(), within_s=60)
    await keys.start()
    await until(lambda: issuer.requests != [])
    async with asyncio.timeout(30):
        await keys.close()


def test_what_the_tests_publish_is_json() -> None:
    assert len(json.loads(PUBLIC_KEYS)["keys"]) == len(PRIVATE)
