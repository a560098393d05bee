"""What a scenario tells the processes of the load generator, and what they report."""

from __future__ import annotations

import msgspec

from bench.load.frames import TOKEN_TTL_S


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """Servers, and how to be let in."""

    dialect: str
    secret: str  # of HS256 tokens
    urls: list[str]  # of the nodes
    tokens: list[str] = []  # taken in turns instead of tokens of the secret
    token_ttl_s: int = TOKEN_TTL_S  # of tokens of the secret


class Connect(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Open clients `first` to `first + count - 1`, so many at a time.

    Client i is in channel i mod channels, and on the node (i div channels) mod nodes: every channel's members are
    spread over all nodes.
    """

    where: Where
    channels: list[str]
    first: int
    count: int
    at_a_time: int
    join_leave: bool = False
    positions: dict[str, tuple[int, str]] = {}  # where channels are caught up from
    payload_bytes: int = 128  # of what they will publish
    payload: str = ""  # that in place of so many bytes: JSON, with `%d` for the send time behind `"t":"@`


class Churn(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Clients `first` to `first + count - 1` come, subscribe, stay, and go.

    At most `at_a_time` are there at the same time.

    Every other one ends properly and waits until the server has closed; the rest go with a reset.
    """

    where: Where
    channels: list[str]
    first: int
    count: int
    at_a_time: int
    kind: str = ""  # of `bench.load.visits`; none: clients of the protocol
    per_s: float = 0.0  # when they come; 0: as fast as it goes
    stays_s: float = 0.0


class Publish(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send on schedule, whatever comes back: number i is due at `start + i / per_s`."""

    start: float  # µs of the clock; a fraction keeps the schedules of several processes apart
    per_s: float
    seconds: float


class Burst(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send as fast as possible.

    At most `window` publications are under way, which not all clients of this process have.
    """

    window: int
    seconds: float


class Lockstep(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Send a portion, wait until it is acknowledged and everyone has it, and go on.

    However busy the machine is, the server is given the same work in the same portions.
    """

    batch: int
    batches: int
    members: int  # of each channel


class Close(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End all connections; `abruptly`: without a close frame."""

    abruptly: bool = False


class ReadCounters(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Report what was counted.

    With `reset` the report has the histograms, and counting starts from zero afterwards.
    """

    reset: bool = False


Command = Connect | Churn | Publish | Burst | Lockstep | Close | ReadCounters


class Report(msgspec.Struct, kw_only=True):
    """The state of a process after an command, or what went wrong with it."""

    trouble: str = ""
    sent: int = 0
    open: int = 0  # connections
    failed: int = 0  # connections that did not open, or did not end as they should
    gone: int = 0  # that came and went
    lost: int = 0
    acked: int = 0
    refused: int = 0
    delivered: int = 0
    joins: int = 0
    bytes_received: int = 0
    cpu_s: float = 0.0  # of the process since its start
    took_s: float = 0.0  # the command
    positions: dict[str, tuple[int, str]] = {}
    connect_us: dict[int, int] = {}
    ack_us: dict[int, int] = {}
    delivery_us: dict[int, int] = {}
