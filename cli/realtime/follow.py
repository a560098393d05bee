"""Keeps subscriptions going over successive WebSocket connections.

It reconnects, recovers missed publications, and refreshes the token.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from cli.errors import CommandError, Refused, Unreachable
from cli.realtime.protocol import (
    Connected,
    ConnectRefused,
    Event,
    ProtocolBroken,
    Refreshed,
    RefreshRefused,
    Subscribed,
    SubscribeRefused,
    Unsubscribed,
    WireClient,
)
from services.shared.process.backoff import Backoff

_OPEN_TIMEOUT_S = 10.0  # longest time to open a connection, seconds
_CLOSE_TIMEOUT_S = 2.0  # longest wait for the server's close frame, seconds
_SILENCE_S = 10.0  # silence beyond the server's ping interval that ends a connection, seconds
_MAX_FRAME_BYTES = 16 * 1024 * 1024
_DELAY_S = (0.4, 20.0)  # first and longest pause before a reconnect, or before a channel is asked for again, seconds
_REFRESH_AT = 0.9  # share of a token's lifetime after which it is refreshed
_REFRESH_AGAIN_S = 5.0  # pause before a failed refresh is repeated, seconds
_REFRESH = ""  # key of the refresh in `_due`; no channel has this name
_FOREVER_S = 365 * 86_400.0
_TERMINAL = (range(3500, 4000), range(4500, 5000))
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Lost(Exception):
    """The connection is over, and a new one may succeed. The text says why.

    `at_once`: reconnect without a pause.
    """

    def __init__(self, reason: str, *, at_once: bool = False) -> None:
        super().__init__(reason)
        self.at_once = at_once


class Follower:
    """Connects a WireClient to a server, again and again, until an end that is final."""

    def __init__(
        self,
        url: str,
        wire: WireClient,
        *,
        show: Callable[[Event], None],
        remark: Callable[[str], None],
        new_token: Callable[[], Awaitable[str]] | None,
        rng: random.Random | None = None,
    ) -> None:
        """Take the parts; makes no connection yet.

        Args:
            url: WebSocket address.
            wire: The protocol state: channels and positions.
            show: Called with every event.
            remark: Called with lines about the connection.
            new_token: Returns a fresh token; None: the token was given and can't be renewed.
            rng: For the jitter of pauses.
        """
        self._url = url
        self._wire = wire
        self._show = show
        self._remark = remark
        self._new_token = new_token
        self._rng = rng or random.Random()
        self._ever_connected = False
        self._reconnect = Backoff(*_DELAY_S, rng=self._rng)
        self._resubscribe: dict[str, Backoff] = {}  # by channel, while it is not subscribed
        self._due: dict[str, float] = {}  # loop time of the refresh (_REFRESH), or to subscribe a channel again
        self._silent_after_s = _OPEN_TIMEOUT_S

    async def run(self) -> None:
        """Follow the channels until cancelled.

        Raises:
            Unreachable: the first attempt to connect failed. Later failures are repeated without end.
            Refused: the server refuses for good.
        """
        while True:
            try:
                await self._connection()
            except _Lost as lost:
                failed_before = bool(self._reconnect.failures)
                delay_s = self._reconnect.next_s()
                if lost.at_once and not failed_before:
                    delay_s = 0.0
                self._remark(f"connection lost: {lost}; next attempt in {delay_s:.1f} s")
                await asyncio.sleep(delay_s)

    async def _connection(self) -> None:
        """Open one connection and use it until it ends."""
        self._due.clear()
        self._silent_after_s = _OPEN_TIMEOUT_S
        try:
            async with connect(
                self._url,
                compression=None,
                proxy=None if urlsplit(self._url).hostname in _LOOPBACK else True,
                open_timeout=_OPEN_TIMEOUT_S,
                close_timeout=_CLOSE_TIMEOUT_S,
                ping_interval=None,  # the protocol has pings of its own
                max_size=_MAX_FRAME_BYTES,
            ) as websocket:
                await websocket.send(self._wire.hello())
                await self._receive(websocket)
        except ConnectionClosed as error:
            raise self._closed(error) from error
        except InvalidURI as error:
            raise Refused(str(error)) from error
        except InvalidStatus as error:
            status = error.response.status_code
            if 400 <= status < 500 and status != 429:
                raise Refused(f"{self._url} refuses the connection: HTTP {status}") from error
            raise self._unreachable(f"HTTP {status}") from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no reply in time"
            raise self._unreachable(reason) from error

    def _unreachable(self, reason: str) -> Exception:
        if self._ever_connected:
            return _Lost(reason)
        return Unreachable(f"{self._url} can't be reached: {reason}; is `thalamus dev` running?")

    def _closed(self, error: ConnectionClosed) -> Exception:
        if error.rcvd is None:
            return _Lost("closed without a word")
        code, reason = error.rcvd.code, error.rcvd.reason
        if any(code in terminal for terminal in _TERMINAL):
            return Refused(f"the server closed the connection: {reason} ({code})")
        return _Lost(f"{reason or 'closed'} ({code})")

    async def _receive(self, websocket: ClientConnection) -> None:
        """Receive frames, and do what falls due between them."""
        now = asyncio.get_running_loop().time
        heard = now()
        while True:
            silent_at = heard + self._silent_after_s
            try:
                async with asyncio.timeout_at(min([silent_at, *self._due.values()])):
                    frame = await websocket.recv()
            except TimeoutError:
                if now() >= silent_at:
                    raise _Lost(f"nothing heard for {self._silent_after_s:g} s") from None
                await self._do_what_is_due(websocket, now())
                continue
            heard = now()
            try:
                events, reply = self._wire.receive(frame if isinstance(frame, str) else frame.decode())
            except (ProtocolBroken, UnicodeDecodeError) as error:
                raise Refused(f"{self._url} does not speak our protocol: {error}") from error
            if reply:
                await websocket.send(reply)
            for event in events:
                self._show(event)
                await self._react(event, heard)

    async def _do_what_is_due(self, websocket: ClientConnection, now: float) -> None:
        for what, due in list(self._due.items()):
            if due > now:
                continue
            del self._due[what]
            if what != _REFRESH:
                await websocket.send(self._wire.subscribe(what))
            elif self._new_token is not None:
                try:
                    await websocket.send(self._wire.refresh(await self._new_token()))
                except CommandError as error:
                    self._remark(f"no new token: {error}; next attempt in {_REFRESH_AGAIN_S:g} s")
                    self._due[_REFRESH] = now + _REFRESH_AGAIN_S

    async def _react(self, event: Event, now: float) -> None:
        """React to an event. Raises what ends the connection or the command."""
        match event:
            case Connected():
                self._ever_connected = True
                self._reconnect.reset()
                self._silent_after_s = event.ping_s + _SILENCE_S if event.ping_s else _FOREVER_S
                self._plan_refresh(event.expires_s, now)
            case Refreshed():
                self._plan_refresh(event.expires_s, now)
            case RefreshRefused():
                if not event.error.temporary:
                    raise Refused(f"the new token was refused: {event.error}")
                self._due[_REFRESH] = now + _REFRESH_AGAIN_S
            case ConnectRefused():
                if event.expired and self._new_token is not None:
                    self._wire.token = await self._new_token()
                    raise _Lost("token expired", at_once=True)
                if event.error.temporary:
                    raise _Lost(str(event.error))
                raise Refused(f"connection refused: {event.error}")
            case Subscribed():
                self._resubscribe.pop(event.channel, None)
            case SubscribeRefused() if event.error.temporary:
                self._plan_subscribe(event.channel, now)
            case Unsubscribed() if event.again:
                self._plan_subscribe(event.channel, now)
            case SubscribeRefused():
                self._end(event.channel, f"subscription to {event.channel} refused: {event.error}")
            case Unsubscribed():
                self._end(event.channel, f"{event.channel} ended by the server: {event.reason} ({event.code})")

    def _plan_refresh(self, expires_s: int | None, now: float) -> None:
        self._due.pop(_REFRESH, None)
        if expires_s is not None and self._new_token is not None:
            self._due[_REFRESH] = now + expires_s * _REFRESH_AT

    def _plan_subscribe(self, channel: str, now: float) -> None:
        backoff = self._resubscribe.setdefault(channel, Backoff(*_DELAY_S, rng=self._rng))
        self._due[channel] = now + backoff.next_s()

    def _end(self, channel: str, reason: str) -> None:
        self._wire.drop(channel)
        self._due.pop(channel, None)
        self._resubscribe.pop(channel, None)
        if not self._wire.channels:
            raise Refused(reason)
        self._remark(reason)
