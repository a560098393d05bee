"""Keeps the keys of external issuers: fetches their JWK Sets by HTTP.

**Purpose.** Users of another login server connect with its tokens. Its public keys change, and it may be down.

**Rules.** The address of each key set comes from the settings (`EDGE_JWKS_URLS`). It is fetched at the start, every ten
minutes, and after a failure at growing intervals of a minute at most. No token causes a request, whatever key it names:
tokens of strangers would decide how often the issuer is asked. So an issuer publishes a new key 11 minutes before it
signs with it. While the issuer does not answer as it should, the keys known last go on.

**Bounds.** 10 s and 128 KiB for an answer, 100 keys. Redirects are not followed, and compressed answers are refused.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping

import httpx

from services.edge.domain.access.keyring import KeyRing
from services.edge.metrics import ISSUER_FAILURES, ISSUER_FETCHED, ISSUER_KEYS
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import end_task
from services.shared.process.log_limit import RateLimitedLog

logger = logging.getLogger(__name__)

EVERY_S = 600.0  # between two fetches, seconds
_JITTER = 0.1  # share of it that is random, so that edges don't ask at the same moment
_RETRY_S = (1.0, 60.0)  # first and longest pause after a failure, seconds
_WITHIN_S = 10.0  # for a whole answer, seconds
_MAX_BYTES = 131_072
_LOG_EVERY_S = 60.0


class BadAnswer(Exception):
    """The issuer answered something else than a JWK Set. The text is for the log."""


class IssuerKeys:
    """Keeps the keys of external issuers in the key ring current, in the background."""

    def __init__(
        self, urls: Mapping[str, str], keyring: KeyRing, *, every_s: float = EVERY_S, within_s: float = _WITHIN_S
    ) -> None:
        """Take the addresses of key sets, by issuer; makes no request.

        From now on tokens of these issuers are verified by no other keys.
        """
        self._urls, self._keyring = urls, keyring
        self._every_s, self._within_s = every_s, within_s
        self._tasks: list[asyncio.Task[None]] = []
        for issuer in urls:
            keyring.trust_issuer(issuer)
            ISSUER_KEYS.labels(issuer).set(0)
            ISSUER_FETCHED.labels(issuer).set(0)
            ISSUER_FAILURES.labels(issuer)

    async def start(self) -> None:
        """Start to fetch; does not wait for an answer."""
        self._tasks = [asyncio.create_task(self._follow(issuer, url)) for issuer, url in self._urls.items()]

    async def close(self) -> None:
        """Stop fetching."""
        for task in self._tasks:
            await end_task(task)

    async def _follow(self, issuer: str, url: str) -> None:
        """Fetch the keys of one issuer for ever."""
        backoff = Backoff(*_RETRY_S)
        failed = RateLimitedLog(logger, logging.WARNING, every_s=_LOG_EVERY_S)
        known = b""
        while True:
            try:
                async with asyncio.timeout(self._within_s):
                    jwks = await _fetch(url)
                count = self._keyring.set_issuer_keys(issuer, jwks)
            except Exception as error:  # whatever an issuer answers, it is asked again
                ISSUER_FAILURES.labels(issuer).inc()
                failed(
                    "the keys of an issuer can't be fetched; those known go on",
                    issuer=issuer,
                    error=f"{type(error).__name__}: {error}"[:200],
                )
                await asyncio.sleep(backoff.next_s())
                continue
            if jwks != known or backoff.failures:
                level = logging.INFO if count else logging.WARNING
                logger.log(level, "keys of an issuer", extra={"issuer": issuer, "keys": count})
            known = jwks
            backoff.reset()
            ISSUER_KEYS.labels(issuer).set(count)
            ISSUER_FETCHED.labels(issuer).set(time.time())
            await asyncio.sleep(self._every_s * random.uniform(1 - _JITTER, 1 + _JITTER))


async def _fetch(url: str) -> bytes:
    """Return the body of the answer.

    Raises:
        BadAnswer: another status than 200, another kind of content than JSON, or too much of it.
    """
    client = await asyncio.to_thread(_new_client, url)
    async with client, client.stream("GET", url) as response:
        if response.is_redirect:
            raise BadAnswer(f"it redirects to {response.headers.get('location', '')[:100]!r}, which is not followed")
        if response.status_code != httpx.codes.OK:
            raise BadAnswer(f"status {response.status_code}")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
            raise BadAnswer(f"its content is {kind[:100]!r}, not JSON")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise BadAnswer("it is compressed although that was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise BadAnswer(f"over {_MAX_BYTES:,} bytes")
    return bytes(body)


def _new_client(url: str) -> httpx.AsyncClient:
    """Return a client for one request.

    To load the authorities of TLS takes too long for the event loop.

    A proxy of the environment is for addresses outside; `http:` is for this machine alone.
    """
    return httpx.AsyncClient(
        follow_redirects=False,
        trust_env=url.startswith("https:"),
        timeout=_WITHIN_S,
        headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
    )
