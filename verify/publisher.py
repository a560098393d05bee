"""A client that publishes with idempotency keys, one publication at a time.

It repeats a publication whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
from typing import Any

from verify import events as e
from verify.context import Run
from verify.plan import PublisherPlan
from verify.socket import Closed, CommandError, Socket, open_socket

GIVE_UP_S = 100.0  # longest time to repeat one publication, seconds; a key is remembered for 300 s
_LATE_S = 2.0  # a publication that is later than this is left out, seconds: the rate is a rate
_UNKNOWN = 100  # error code that leaves the outcome unknown
_REPLY_S = 5.0  # longest wait for a reply, seconds


class Publisher:
    """A publishing client. `run` publishes what the plan says, then returns."""

    def __init__(self, plan: PublisherPlan, run: Run, *, padding: int = 0) -> None:
        self.name = plan.name
        self.client_id = ""
        self._plan, self._run = plan, run
        self._padding = "x" * padding
        self._socket: Socket | None = None
        self._attempt = run.rng.randrange(1_000)
        self._finished = False

    @property
    def channels(self) -> tuple[str, ...]:
        return self._plan.channels

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def run(self) -> None:
        """Publish everything in the plan, or what comes before `finish`."""
        for number, at in enumerate(self._plan.times):
            if (wait := at - self._run.now()) > 0:
                await asyncio.sleep(wait)
            elif wait < -_LATE_S:
                continue
            if self._finished:
                return
            await self.publish(self._plan.channels[number % len(self._plan.channels)])

    def finish(self) -> None:
        """Leave out the rest of the plan; what is under way is still finished."""
        self._finished = True

    async def publish(self, channel: str, id_: str = "") -> tuple[int, str] | None:
        """Publish once, repeat until the outcome is known, and return the position.

        None: it was refused, or the outcome stayed unknown.
        """
        run = self._run
        id_ = id_ or run.new_id()
        begun = run.now()
        run.note(e.Publishing(at=begun, id=id_, channel=channel, publisher=self.name))
        data = {"id": id_, "pad": self._padding} if self._padding else {"id": id_}
        failures = 0
        while run.now() - begun < GIVE_UP_S:
            sent = run.now()
            asked = False
            try:
                socket = await self._connected()
                sent, asked = run.now(), True
                result = await socket.call(_REPLY_S, publish={"channel": channel, "data": data, "idempotency_key": id_})
            except CommandError as error:
                if asked and not failures and error.code != _UNKNOWN:  # after a failed attempt it may have been done
                    run.note(e.Refused(at=run.now(), id=id_, code=error.code))
                    return None
                run.note(e.Failed(at=run.now(), id=id_, code=error.code, took_s=run.now() - sent))
            except (Closed, TimeoutError):
                run.note(e.Failed(at=run.now(), id=id_, code=0, took_s=run.now() - sent))
                self._drop()
            else:
                place = (int(result.get("offset", 0)), str(result.get("epoch", "")))
                now = run.now()
                run.note(
                    e.Acked(
                        at=now,
                        id=id_,
                        channel=channel,
                        offset=place[0],
                        epoch=place[1],
                        attempts=failures + 1,
                        took_s=now - sent,
                    )
                )
                return place
            failures += 1
            await run.pause(failures)
        run.note(e.Unknown(at=run.now(), id=id_))
        return None

    async def come_back(self) -> None:
        """Connect if necessary, so that it is in every roster that it belongs to."""
        failures = 0
        while True:
            try:
                await self._connected()
                return
            except (Closed, CommandError, TimeoutError):
                failures += 1
                await self._run.pause(failures)

    async def _connected(self) -> Socket:
        if self._socket is not None:
            return self._socket
        self._attempt += 1
        socket = await open_socket(self._run.edge(self._attempt), _ignore, self._closed)
        try:
            result = await socket.call(connect={"token": self._run.target.token(self.name)})
            for channel in self._plan.channels:  # a publisher must be subscribed
                await socket.call(subscribe={"channel": channel})
        except (Closed, CommandError, TimeoutError):
            socket.reset()
            raise
        self.client_id = result.get("client", "")
        self._socket = socket
        return socket

    def _closed(self, code: int) -> None:
        self._socket = None

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.reset()
            self._socket = None

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()


def _ignore(push: dict[str, Any]) -> None:
    """Ignore a push."""
