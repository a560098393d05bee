"""Sends signed texts to one address: an endpoint, or a backend that is notified."""

from __future__ import annotations

import time

from services.persistence.webhooks import http
from services.persistence.webhooks.endpoints import Endpoint
from services.persistence.webhooks.http import Answer
from services.shared.webhook_signing import Signer


class Sender:
    """The connections to one address; `aclose` closes them."""

    def __init__(self, url: str, signer: Signer, *, timeout_s: float, concurrency: int, proxies: bool = False) -> None:
        """Load the authorities of TLS, which takes a while; makes no request.

        Args:
            url: The address.
            signer: Signs what is sent.
            timeout_s: Seconds until an answer must be complete.
            concurrency: Requests at the same time.
            proxies: Whether to use a proxy that the environment names.
        """
        self._url, self._signer, self._timeout_s = url, signer, timeout_s
        self._client = http.client(timeout_s=timeout_s, connections=concurrency, proxies=proxies)

    async def send(self, request_id: str, body: str) -> Answer:
        """Send a text once. Raises nothing but a cancellation."""
        headers = self._signer.headers(request_id, int(time.time()), body)
        headers |= {"Content-Type": "application/json"}
        answer, _, _ = await http.post(self._client, self._url, body.encode(), headers, self._timeout_s)
        return http.refused_or_taken(answer)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def sender_of(endpoint: Endpoint) -> Sender:
    """Return what sends to an endpoint.

    A proxy of the environment is for `https:` alone.

    Raises:
        ConfigError: a secret can't be read.
    """
    return Sender(
        endpoint.url,
        endpoint.signer(),
        timeout_s=endpoint.timeout_s,
        concurrency=endpoint.concurrency,
        proxies=endpoint.url.startswith("https:"),
    )
