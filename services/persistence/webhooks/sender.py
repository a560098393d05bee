"""Sends a letter to its endpoint over HTTP, and says what became of it.

Taken is what was answered 2xx in time. Everything else is a failure: another status, a redirect (it is not followed, so
only the configured address is ever called), an answer that is no HTTP, silence. Of an answer's body nothing is used. A
short one is read, so that the connection can be used again; a longer one ends the connection.
"""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass
from typing import Self

import httpx

from services.persistence.webhooks.endpoints import Endpoint
from services.persistence.webhooks.letters import Letter
from services.shared.version import VERSION
from services.shared.webhook_signing import Signer

_MAX_BODY_BYTES = 16_384  # of an answer that is read
_IDLE_S = 30.0  # how long an unused connection stays open, seconds
_SHOWN = 200  # characters of an error that are kept
_RETRY_LATER = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


class Outcome(enum.StrEnum):
    """How a request ended; values of the label `outcome`."""

    TAKEN = "taken"  # 2xx
    REFUSED = "refused"  # another status
    REDIRECT = "redirect"
    TIMEOUT = "timeout"
    FAILED = "failed"  # no connection, or no HTTP


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended, with what people need to know.

    `retry_after_s`: how long the endpoint asked to be left alone, seconds; 0: it did not.
    """

    outcome: Outcome
    error: str = ""
    retry_after_s: float = 0.0


class Sender:
    """The connections to one endpoint. An async context manager."""

    def __init__(self, endpoint: Endpoint, signer: Signer) -> None:
        """Take the endpoint; `__aenter__` makes the client."""
        self._url, self._timeout_s, self._signer = endpoint.url, endpoint.timeout_s, signer
        self._limits = httpx.Limits(
            max_connections=endpoint.concurrency,
            max_keepalive_connections=endpoint.concurrency,
            keepalive_expiry=_IDLE_S,
        )
        self._client: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        self._client = await asyncio.to_thread(self._new_client)  # loading the authorities of TLS takes a while
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, letter: Letter) -> Answer:
        """Send a letter once. Raises nothing but a cancellation."""
        headers = self._signer.headers(letter.id, int(time.time()), letter.body)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(letter.body.encode(), headers)
        except TimeoutError:
            return Answer(Outcome.TIMEOUT, f"no answer in {self._timeout_s:g} s")
        except httpx.TimeoutException:
            return Answer(Outcome.TIMEOUT, "no connection in time")
        except Exception as error:  # whatever an endpoint answers, it did not take the events
            return Answer(Outcome.FAILED, f"{type(error).__name__}: {error}"[:_SHOWN])

    async def _send(self, body: bytes, headers: dict[str, str]) -> Answer:
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            answer = _judged(response)
            read = 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > _MAX_BODY_BYTES:
                    break
            return answer

    def _new_client(self) -> httpx.AsyncClient:
        """Return the client. A proxy of the environment is for `https:` alone."""
        return httpx.AsyncClient(
            follow_redirects=False,
            trust_env=self._url.startswith("https:"),
            timeout=self._timeout_s,
            limits=self._limits,
            headers={
                "User-Agent": f"thalamus/{VERSION}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
        )


def _judged(response: httpx.Response) -> Answer:
    if response.is_success:
        return Answer(Outcome.TAKEN)
    if response.is_redirect:
        place = response.headers.get("location", "")
        return Answer(Outcome.REDIRECT, f"it redirects to {place[:100]!r}, which is not followed")
    asked = response.headers.get("retry-after", "") if response.status_code in _RETRY_LATER else ""
    return Answer(
        Outcome.REFUSED,
        f"status {response.status_code}",
        float(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 9 else 0.0,
    )
