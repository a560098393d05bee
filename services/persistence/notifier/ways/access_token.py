"""Access tokens of a service account at Google.

**Rules.** A token is renewed ahead, in its last minutes, while the present one is still used. So requests wait for a
renewal only at the start, after a token was refused, or once it has run out. All of them wait for the same one, not
longer than one request may take, and hear the same failure. So a server of tokens that hangs delays each notification
once, by less than the lease of its letter. A renewal ahead that failed is repeated after some seconds.

**Example.** A token of an hour is renewed after 56 minutes. If Google's server of tokens is away for 3 minutes then,
nothing is delayed.

`google-auth` signs the request and reads the answer, in a thread. The request itself is made on the event loop, by the
client of all ways out: its time and its answer are bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import CancelledError
from typing import Any

import google.auth.exceptions
import google.auth.transport
import httpx
from google.auth.credentials import TokenState

from services.persistence.webhooks import http
from services.shared.process.cancellation import end_task
from services.shared.process.log_limit import RateLimitedLog
from services.shared.process.single_flight import SingleFlight

_LATER = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)
_AGAIN_S = 10.0  # between two renewals ahead, seconds


class NoToken(Exception):
    """There is no token now."""


class AccessToken:
    """The token of an account; `get` renews it."""

    def __init__(self, credentials: Any, client: httpx.AsyncClient, timeout_s: float) -> None:
        """Take the parts; makes no request.

        Args:
            credentials: Of google-auth. It has no types.
            client: Makes the requests.
            timeout_s: Longest request, and longest wait for a token, seconds.
        """
        self._credentials, self._client, self._timeout_s = credentials, client, timeout_s
        self._renewing: SingleFlight[None] = SingleFlight()
        self._ahead: asyncio.Task[None] | None = None

    async def get(self) -> str:
        """Return a token that is good.

        Raises:
            NoToken: there is none, and no new one came in time.
        """
        state = self._credentials.token_state
        if state is TokenState.STALE and (self._ahead is None or self._ahead.done()):
            self._ahead = asyncio.create_task(self._renew_ahead())
        if state is TokenState.INVALID:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._renew()
            except TimeoutError:
                raise NoToken(f"no access token in {self._timeout_s:g} s") from None
            except Exception as error:  # whatever google-auth makes of what it was answered
                raise NoToken(f"no access token: {error}") from None
        return str(self._credentials.token)

    def refused(self, token: str) -> None:
        """Note that a token is not good any more; one that replaced it meanwhile is."""
        if self._credentials.token == token:
            self._credentials.token = None

    async def close(self) -> None:
        """End what is under way."""
        if self._ahead is not None:
            await end_task(self._ahead)

    async def _renew_ahead(self) -> None:
        """Renew; whoever needs a token until then has the present one."""
        try:
            await self._renew()
        except Exception as error:
            _LATER("the access token of FCM can't be renewed now; it will be", error=str(error)[:200])
            await asyncio.sleep(_AGAIN_S)

    async def _renew(self) -> None:
        await self._renewing.do("", self._refreshed)

    async def _refreshed(self) -> None:
        request = _Request(self._client, self._timeout_s, asyncio.get_running_loop())
        await asyncio.to_thread(self._credentials.refresh, request)


class _Request(google.auth.transport.Request):
    """A request of google-auth, which makes it in a thread and waits for the answer."""

    def __init__(self, client: httpx.AsyncClient, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._timeout_s, self._loop = client, timeout_s, loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> _Response:
        asked = http.post(self._client, url, body or b"", headers or {}, self._timeout_s)
        try:
            answer, status, data = asyncio.run_coroutine_threadsafe(asked, self._loop).result()
        except CancelledError:  # the process stops
            raise google.auth.exceptions.TransportError("cancelled") from None  # type: ignore[no-untyped-call]
        if not status:
            raise google.auth.exceptions.TransportError(answer.error)  # type: ignore[no-untyped-call]
        return _Response(status, data)


class _Response(google.auth.transport.Response):
    def __init__(self, status: int, data: bytes) -> None:
        self._status, self._data = status, data

    @property
    def status(self) -> int:
        return self._status

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def data(self) -> bytes:
        return self._data
