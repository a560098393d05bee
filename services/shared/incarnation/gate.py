"""Gates: checks that each new connection to Redis passes before it is used.

`IncarnationGate` lets connections through only to a run of the server that is known to have lost nothing.
"""

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
ASK = ("INFO", "server", "replication")  # first command of a connection


def is_replica(info: bytes) -> bool:
    """Whether this reply to INFO is of a replica, which takes no writes."""
    return _REPLICA.search(info) is not None


def run_id_of(info: bytes) -> str:
    """Return the run id from a reply to INFO; every start of the server changes it.

    Raises:
        redis.ConnectionError: it has none.
    """
    found = _RUN_ID.search(info)
    if found is None:
        raise exceptions.ConnectionError("the server does not say its run id")
    return found[1].decode()


def refuse_cluster(info: bytes) -> None:
    """Refuse a server in cluster mode.

    Raises:
        ConfigError: this reply to INFO is of such a server.
    """
    if _CLUSTER.search(info) is not None:
        raise ConfigError("REDIS_URL: this Redis runs in cluster mode, which is not supported: use one without it")


async def _run_of(connection: Any) -> str:
    """Log in, and ask for the run id, which is noted in the connection as well.

    Raises:
        redis.ConnectionError: the server is a replica, or refuses us.
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
    """Gate that accepts every run, and notes the run of the last connection."""

    def __init__(self) -> None:
        self.run_id = ""

    async def admit(self, connection: Any) -> None:
        """Log in, and note the run id.

        Raises:
            redis.ConnectionError: the server is a replica, or refuses us.
            ConfigError: it is part of a cluster.
        """
        self.run_id = await _run_of(connection)

    def still_accepts(self, run_id: str) -> bool:
        """Whether the last connection was made to this run of Redis."""
        return run_id == self.run_id


class IncarnationGate:
    """Gate that accepts new connections to the run of one incarnation only.

    `admit` is called for each new connection. The gate is closed until `open`, and then refuses all new connections.
    """

    def __init__(self) -> None:
        self.incarnation: Incarnation | None = None
        self.last_generation = 0
        self.known = Known()  # the most that was seen of Redis; calls refuse a Redis that has less
        self.refused = asyncio.Event()  # set when a connection was refused: heartbeat or check should look now

    @property
    def is_open(self) -> bool:
        """Whether an incarnation may be used."""
        return self.incarnation is not None

    @property
    def token(self) -> str:
        """Token of the present incarnation; "" while closed."""
        return self.incarnation.token if self.incarnation else ""

    @property
    def generation(self) -> int:
        """Generation of `hot` logs; 0 while closed."""
        return self.incarnation.generation if self.incarnation else 0

    @property
    def writes(self) -> int:
        """Number of writes to `hot` logs that Redis must have at least."""
        return self.known.writes

    def open(self, incarnation: Incarnation, known: Known) -> None:
        """Accept new connections to the run of this incarnation."""
        if self.incarnation is None or self.incarnation.token != incarnation.token:
            logger.info("Redis may be used", extra={"run_id": incarnation.run_id, "generation": incarnation.generation})
        self.incarnation = incarnation
        self.last_generation = incarnation.generation
        self.saw(known)

    def saw(self, known: Known) -> None:
        """Note what was seen of Redis, unless more is known."""
        mine = self.known
        if known.generation > mine.generation:
            self.known = known
        elif known.generation == mine.generation:
            self.known = Known(known.generation, max(known.writes, mine.writes), known.at_ms or mine.at_ms)

    def saw_writes(self, token: str, writes: int) -> None:
        """Note the number of writes that Redis has counted in an incarnation.

        0: it has counted fewer than were seen, so heartbeat or check should look now.
        """
        if not writes:
            self.refused.set()
        elif self.incarnation is not None and self.incarnation.token == token:
            self.saw(Known(self.incarnation.generation, writes))

    def close(self) -> None:
        """Refuse new connections."""
        self.incarnation = None

    def still_accepts(self, run_id: str) -> bool:
        """Whether an open connection to this run may still be used.

        False once the gate is open for another run; True while it is closed, which only refuses new connections.
        """
        return self.incarnation is None or run_id == self.incarnation.run_id

    async def admit(self, connection: Any) -> None:
        """Log in, and check the run of the server; another run closes the gate.

        Raises:
            redis.ConnectionError: the gate is closed, the run is another one, the server is a replica or part of a
                cluster, or it refuses us.
        """
        try:
            run_id = await _run_of(connection)
        except ConfigError as error:  # the heartbeat or check ends the process
            raise exceptions.ConnectionError(str(error)) from error
        if self.incarnation is None or run_id != self.incarnation.run_id:
            self.close()
            self.refused.set()
            raise exceptions.ConnectionError("this incarnation of Redis has not been compared with the store yet")
