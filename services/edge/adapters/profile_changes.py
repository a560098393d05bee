"""Follows the changes of profiles that auth tells."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from services.shared.errors import Unavailable
from services.shared.process.backoff import Backoff
from services.shared.process.cancellation import is_being_cancelled
from services.shared.rpc.replicas import Replicas
from thalamus.auth.v1 import users_pb2 as pb
from thalamus.auth.v1.users_pb2_grpc import UserServiceStub

logger = logging.getLogger(__name__)

SILENCE_S = 30.0  # without a message for so long the stream is given up, seconds; auth sends one every 10 s
_PAUSE_S = (0.1, 2.0)  # first and longest pause before the stream is opened again, seconds
_BEFORE_S = 10.0  # the same where auth is of before and has no such stream


class ProfileChanges:
    """One stream at a time, from any replica of auth.

    It begins with what changed within the last minute, so nothing is missed between two streams.
    """

    def __init__(self, replicas: Replicas, changed: Callable[[str, int], None]) -> None:
        """`changed` is called with user and version, maybe more than once."""
        self._replicas, self._changed = replicas, changed

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff = Backoff(*_PAUSE_S)
        while True:
            pause_s = backoff.next_s()
            try:
                await self._follow(backoff)
            except (Unavailable, TimeoutError, grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                if is_being_cancelled():
                    raise
                if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    pause_s = _BEFORE_S
                logger.info("auth does not tell of changed profiles", extra={"error": repr(error)[:200]})
            await asyncio.sleep(pause_s)

    async def _follow(self, backoff: Backoff) -> None:
        """Read one stream until it ends."""
        channel = self._replicas.any()
        stream = UserServiceStub(channel).WatchProfiles(pb.WatchProfilesRequest())
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    told = await stream.read()
                if not isinstance(told, pb.ChangedProfiles):
                    return
                backoff.reset()
                for profile in told.profiles:
                    self._changed(profile.id, profile.version)
        except TimeoutError:
            channel.breaker.failed()
            raise
        finally:
            stream.cancel()
