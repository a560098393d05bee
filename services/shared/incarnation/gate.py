"""A gate in front of every connection to Redis: no command runs on a server whose life is not known to be whole."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from redis import exceptions

from services.shared.incarnation.calls import Incarnation, Known
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

_RUN_ID = re.compile(rb"^run_id:(\S+)", re.MULTILINE)
_REPLICA = re.compile(rb"^role:slave\b", re.MULTILINE)
_CLUSTER = re.compile(rb"^(redis|server)_mode:cluster\b", re.MULTILINE)
ASK = ("INFO", "server", "replication")  # before a connection is used


def is_replica(info: bytes) -> bool:
    """Whether what INFO answered is of a server that takes no writes: a master that was demoted, say."""
    return _REPLICA.search(info) is not None


def run_id_of(info: bytes) -> str:
    """The run id in what INFO answered; it changes with every start of the server.

    Raises:
        redis.ConnectionError: it has none.
    """
    found = _RUN_ID.search(info)
    if found is None:
        raise exceptions.ConnectionError("the server does not say its run id")
    return found[1].decode()


def refuse_cluster(info: bytes) -> None:
    """
    Raises:
        ConfigError: what INFO answered is of a server in cluster mode.
    """
    if _CLUSTER.search(info) is not None:
        raise ConfigError("REDIS_URL: this Redis runs in cluster mode, which is not supported: use one without it")


async def _run_of(connection: Any) -> str:
    """Log in, then ask which run this is; the connection keeps the answer as `run_id`.

    Raises:
        redis.ConnectionError: it is a replica, or refuses us.
        ConfigError: it is part of a cluster.
    """
    await connection.on_connect()
    await connection.send_command(*ASK)
    said = await connection.read_response()
    refuse_cluster(said)
    if is_replica(said):
        raise exceptions.ConnectionError("this server is a replica")
    connection.run_id = run_id_of(said)
    return str(connection.run_id)


class RunTracker:
    """Knows the run of the server that the last connection was made to; refuses none."""

    def __init__(self) -> None:
        self.run_id = ""

    async def admit(self, connection: Any) -> None:
        """Log in, then ask which run this is.

        Raises:
            redis.ConnectionError: it is a replica, or refuses us.
        """
        self.run_id = await _run_of(connection)

    def fits(self, run_id: str) -> bool:
        """Whether a connection that was made to this run may be used still."""
        return run_id == self.run_id


class IncarnationGate:
    """Closed until `open`. `admit` is the connect function of a pool: it refuses other runs of the server."""

    def __init__(self) -> None:
        self.incarnation: Incarnation | None = None
        self.lives = 0  # how often it was opened for another life
        self.last_generation = 0
        self.known = Known()  # what was seen of Redis last; every connection's calls are held against it
        self.refused = asyncio.Event()  # a connection was: whoever opens the gate should look

    @property
    def is_open(self) -> bool:
        return self.incarnation is not None

    @property
    def token(self) -> str:
        """Of the present life; "" while closed: nothing was compared with the store in that."""
        return self.incarnation.token if self.incarnation else ""

    @property
    def generation(self) -> int:
        """Of `hot` logs; 0 while closed."""
        return self.incarnation.generation if self.incarnation else 0

    @property
    def writes(self) -> int:
        """As many as Redis must have at least."""
        return self.known.writes

    def open(self, incarnation: Incarnation, known: Known) -> None:
        """Let connections to this run through."""
        if self.incarnation is None or self.incarnation.token != incarnation.token:
            self.lives += 1
            logger.info("Redis may be used", extra={"run_id": incarnation.run_id, "generation": incarnation.generation})
        self.incarnation = incarnation
        self.last_generation = incarnation.generation
        self.saw(known)

    def saw(self, known: Known) -> None:
        """Remember it, unless more is known of the same generation."""
        mine = self.known
        if known.generation > mine.generation:
            self.known = known
        elif known.generation == mine.generation:
            self.known = Known(known.generation, max(known.writes, mine.writes), known.at_ms or mine.at_ms)

    def close(self) -> None:
        """Refuse every new connection."""
        self.incarnation = None

    def fits(self, run_id: str) -> bool:
        """Whether a connection that was made to this run may be used still: not once another one is open."""
        return self.incarnation is None or run_id == self.incarnation.run_id

    async def admit(self, connection: Any) -> None:
        """Log in, then ask which run this is.

        Raises:
            redis.ConnectionError: not the one whose life is known, or a replica.
        """
        try:
            run_id = await _run_of(connection)
        except ConfigError as error:  # whoever looks at lives ends the process
            raise exceptions.ConnectionError(str(error)) from error
        if self.incarnation is None or run_id != self.incarnation.run_id:
            self.close()
            self.refused.set()
            raise exceptions.ConnectionError("this life of Redis has not been compared with the store yet")
