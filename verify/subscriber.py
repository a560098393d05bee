"""A client that follows channels as an SDK does: disconnects, returns, recovers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from verify import events as e
from verify.context import Run
from verify.plan import Absence, Drop, SubscriberPlan
from verify.socket import Closed, CommandError, NotOpened, Socket, open_socket

_INSUFFICIENT_UNSUBSCRIBE = 2500
_INSUFFICIENT_CLOSE = 3010
_FIRST_TERMINAL = 3500
_SLOW_BYTES_PER_S = 1_024


@dataclass(slots=True)
class _Followed:
    """What the client knows of one channel."""

    epoch: str = ""
    offset: int = 0
    subscribed: bool = False
    ever: bool = False


class Subscriber:
    """A subscribing client. `slow`: its first connection reads 1 KiB/s."""

    def __init__(self, plan: SubscriberPlan, run: Run, *, slow: bool = False) -> None:
        self.name = plan.name
        self.client_id = ""
        self._run = run
        self._slow = slow
        self._absences = list(plan.absences)
        self._followed = {channel: _Followed() for channel in plan.channels}
        self._socket: Socket | None = None
        self._half_open: list[Socket] = []  # kept: without a reference, their TCP connections would be closed
        self._news = asyncio.Event()  # set when the connection ended or a channel must be subscribed again
        self._ended: int | None = None
        self._planned = False
        self._edge = ""
        self._began = 0.0
        self._attempt = run.rng.randrange(1_000)
        self.stay = True  # no absences: other clients still connect, or the run is ending
        self.given_up = 0  # close code after which a client must not reconnect
        self.refusal = ""  # why the last attempt to connect and subscribe failed, for people

    @property
    def whole(self) -> bool:
        """Whether it is connected and subscribed to all its channels."""
        return self._socket is not None and all(one.subscribed for one in self._followed.values())

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self._followed)

    def reached(self, channel: str, epoch: str, offset: int) -> bool:
        """Whether it has had this position."""
        one = self._followed[channel]
        return one.epoch == epoch and one.offset >= offset

    def begin(self) -> None:
        """Begin the planned absences; the run's clock has been set to 0."""
        self.stay = False
        self._news.set()

    async def run(self) -> None:
        """Connect, follow and disconnect as planned, until cancelled or refused for good."""
        failures = 0
        try:
            while not self.given_up:
                if not await self._connect():
                    failures += 1
                    await self._run.pause(failures)
                    continue
                failures = 0
                offline_s = await self._stay()
                self._socket = None
                await asyncio.sleep(offline_s or self._run.rng.uniform(0.02, 0.2))
        finally:
            if self._socket is not None:
                self._socket.close()
            for half_open in self._half_open:
                half_open.reset()
            await asyncio.sleep(0)  # asyncio closes the sockets in its next round

    async def _connect(self) -> bool:
        """Connect and subscribe to all channels; return whether that succeeded."""
        self._attempt += 1
        self._ended, self._planned = None, False
        self._news.clear()
        socket: Socket | None = None
        number = self._attempt
        self._began = self._run.now()
        self._edge = self._run.edge(number)
        step = "WebSocket handshake"
        try:
            socket = await self._open(number)
            step = "connect"
            result = await socket.call(connect={"token": self._run.target.token(self.name)})
            self.client_id = result.get("client", "")
            self._socket = socket
            for channel in self._followed:
                step = f"subscribe to {channel}"
                await self._subscribe(socket, channel)
        except (Closed, CommandError, TimeoutError) as error:
            self.refusal = f"{step}: {str(error) or 'no response'}"
            self._socket = None
            if socket is not None:
                self._planned = True
                socket.reset()
            return False
        if self._slow:
            self._slow = False
            socket.read_slowly(_SLOW_BYTES_PER_S)
        return True

    async def _open(self, number: int) -> Socket:
        try:
            made = await open_socket(self._edge, self._pushed, lambda code: self._closed(code, number))
        except NotOpened as refusal:
            self._shook_hands(refusal.status, refusal.retry_after)
            raise
        self._shook_hands(101)
        return made

    def _shook_hands(self, status: int, retry_after: bool = False) -> None:
        self._run.note(e.Handshake(at=self._run.now(), client=self.name, status=status, retry_after=retry_after))

    async def _subscribe(self, socket: Socket, channel: str) -> None:
        one = self._followed[channel]
        request: dict[str, Any] = {"channel": channel}
        since = (one.offset, one.epoch) if one.ever else None
        if since is not None:
            request |= {"recover": True, "offset": since[0], "epoch": since[1]}
        await socket.call(
            subscribe=request, on_reply=lambda reply: self._subscribed(channel, since, reply["subscribe"])
        )

    def _subscribed(self, channel: str, since: tuple[int, str] | None, result: dict[str, Any]) -> None:
        """Record the response to a subscribe, and the publications that it recovered."""
        one, run = self._followed[channel], self._run
        recovered = bool(result.get("recovered"))
        one.epoch, one.subscribed, one.ever = result.get("epoch", ""), True, True
        offset = result.get("offset", 0)
        if not recovered:
            one.offset = offset
        run.note(
            e.Subscribed(
                at=run.now(),
                client=self.name,
                channel=channel,
                offset=offset,
                epoch=one.epoch,
                edge=self._edge,
                took_s=run.now() - self._began,
                recovered=recovered,
                since=since,
            )
        )
        for publication in result.get("publications", ()):
            self._deliver(channel, one, publication, live=False)

    # Callbacks of the connection.

    def _pushed(self, push: dict[str, Any]) -> None:
        channel = push.get("channel", "")
        one = self._followed.get(channel)
        if one is None:
            return
        if "pub" in push:
            self._deliver(channel, one, push["pub"], live=True)
        elif "unsubscribe" in push:
            one.subscribed = False
            code = push["unsubscribe"].get("code", 0)
            if code == _INSUFFICIENT_UNSUBSCRIBE:
                self._run.note(e.Told(at=self._run.now(), client=self.name, channel=channel, code=code))
            self._news.set()

    def _deliver(self, channel: str, one: _Followed, publication: dict[str, Any], *, live: bool) -> None:
        one.offset = offset = publication.get("offset", 0)
        data = publication.get("data")
        id_ = data.get("id", "") if isinstance(data, dict) else ""
        self._run.note(
            e.Delivered(at=self._run.now(), client=self.name, channel=channel, offset=offset, id=id_, live=live)
        )

    def _closed(self, code: int, number: int) -> None:
        """The connection of attempt `number` is over."""
        if number != self._attempt or self._ended is not None:
            return
        self._ended = code
        if code == _INSUFFICIENT_CLOSE:
            for channel in self._followed:
                self._run.note(e.Told(at=self._run.now(), client=self.name, channel=channel, code=code))
        self._run.note(e.Offline(at=self._run.now(), client=self.name, code=code, planned=self._planned))
        for one in self._followed.values():
            one.subscribed = False
        if _FIRST_TERMINAL <= code < 4_000 or code >= 4_500:
            self.given_up = code
        self._news.set()

    # Staying connected.

    async def _stay(self) -> float:
        """Follow until the connection ends.

        Returns how many seconds to stay away; 0: come back soon.
        """
        while True:
            absence = self._next_absence()
            try:
                async with asyncio.timeout(None if absence is None else max(0.0, absence.at - self._run.now())):
                    await self._news.wait()
            except TimeoutError:
                if absence is not None and not self.stay:
                    self._absences.remove(absence)
                    self._leave(absence.drop)
                    return absence.offline_s
                continue
            self._news.clear()
            if self._ended is not None or self._socket is None:
                return 0.0
            try:
                self._began = self._run.now()
                for channel, one in self._followed.items():
                    if not one.subscribed:
                        await self._subscribe(self._socket, channel)
            except (CommandError, TimeoutError):
                await self._run.pause(2)
                self._news.set()
            except Closed:
                return 0.0

    def _next_absence(self) -> Absence | None:
        if self.stay:
            return None
        while self._absences and self._absences[0].at + self._absences[0].offline_s < self._run.now():
            del self._absences[0]  # it was away during that time for another reason
        return self._absences[0] if self._absences else None

    def _leave(self, drop: Drop) -> None:
        """Disconnect in this way."""
        socket = self._socket
        if socket is None:
            return
        self._planned = True
        ways = {Drop.CLOSE: socket.close, Drop.RESET: socket.reset, Drop.VANISH: socket.vanish}
        if drop is Drop.HALF_OPEN:
            self._half_open.append(socket)
        ways.get(drop, socket.freeze)()
        self._closed(1006, self._attempt)
