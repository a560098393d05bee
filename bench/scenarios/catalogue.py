"""All scenarios in two sizes, with the figures that are shown and their goals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.load.fleet import Fleet
from bench.scenarios.connections import connect_storm, idle, presence
from bench.scenarios.limits import burst, highest_rate, publish_burst
from bench.scenarios.recovery import recovery_storm
from bench.scenarios.steady import Figures, steady
from bench.servers.target import Target

OURS, ONE_EDGE = "thalamus", "thalamus-1-edge"
_MEMBERS = 1_000
_FAN_OUT = ["live:fan-out"]
_CHAT = [f"live:chat-{number}" for number in range(250)]
_DURABLE = [f"chat:durable-{number}" for number in range(250)]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a figure of ours: a number, or a multiple of a peer's figure."""

    at_most: bool
    bound: float
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure in the table."""

    figure: str
    text: str
    digits: int = 0
    goal: Goal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`only`: targets that can take part; empty: all."""

    name: str
    text: str
    run: Callable[[Fleet, Target, bool], Awaitable[Figures]]  # full size or not
    shown: Sequence[Shown]
    only: Sequence[str] = ()


def _at_most(bound: float, peer: str = "") -> Goal:
    return Goal(at_most=True, bound=bound, peer=peer)


def _at_least(bound: float, peer: str = "") -> Goal:
    return Goal(at_most=False, bound=bound, peer=peer)


async def _fan_out(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await steady(fleet, target, clients=_MEMBERS, channels=_FAN_OUT, per_s=100, seconds=10 if full else 5)


async def _burst(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await burst(fleet, target, clients=_MEMBERS, channel=_FAN_OUT[0], seconds=8 if full else 4)


async def _publish_burst(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await publish_burst(fleet, target, clients=_MEMBERS, channels=_CHAT, each=5, payload_bytes=100)


async def _chat(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await steady(fleet, target, clients=_MEMBERS, channels=_CHAT, per_s=3_000, seconds=10 if full else 5)


async def _chat_limit(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await highest_rate(fleet, target, clients=_MEMBERS, channels=_CHAT, step_s=4 if full else 2)


async def _durable(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await highest_rate(fleet, target, clients=_MEMBERS, channels=_DURABLE, step_s=4 if full else 2)


async def _connect(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await connect_storm(fleet, target, clients=5_000 if full else 2_000)


async def _idle(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await idle(fleet, target, clients=8_000 if full else 2_000, seconds=25)  # one ping each


async def _recovery(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await recovery_storm(fleet, target, clients=5_000 if full else 1_000, missed=100)


async def _presence(fleet: Fleet, target: Target, full: bool) -> Figures:
    return await presence(fleet, target, clients=5_000 if full else 500)


_DELIVERY_P50 = Shown("delivery_p50_ms", "delivery p50, ms", 1)
_DELIVERY_P999 = Shown("delivery_p99_9_ms", "delivery p99.9, ms", 1)
_ACK_P99 = Shown("ack_p99_ms", "ack p99, ms", 1)
_PER_DELIVERY = Shown("cpu_us_per_delivery", "server CPU per delivery, µs", 2)
_MISSING = Shown("missing", "deliveries that had not come 15 s later")
_LOAD = Shown("load_cpu_s", "CPU of the load generator, s", 1)

SCENARIOS: Sequence[Scenario] = (
    Scenario(
        name="fan-out",
        text="1 channel, 1,000 subscribers, 100 publishes/s",
        run=_fan_out,
        shown=(
            Shown("cpu_us_per_delivery", "server CPU per delivery, µs", 2, _at_most(0.5, "socketio-redis")),
            _DELIVERY_P50,
            Shown("delivery_p99_ms", "delivery p99, ms", 1, _at_most(0.5, "socketio-redis")),
            _DELIVERY_P999,
            _MISSING,
            _LOAD,
        ),
    ),
    Scenario(
        name="fan-out burst",
        text="the same as fast as it goes, 32 publishes on their way",
        run=_burst,
        shown=(
            Shown("deliveries_per_s", "deliveries/s", 0, _at_least(2.0, "socketio-redis")),
            _PER_DELIVERY,
            Shown("delivery_p99_ms", "delivery p99, ms", 1),
            _LOAD,
        ),
    ),
    Scenario(
        name="chat",
        text="250 channels × 4 members, 3,000 publishes/s, acknowledged",
        run=_chat,
        shown=(
            Shown(
                "cpu_us_per_publish",
                "server CPU per publish with its deliveries, µs",
                0,
                _at_most(0.5, "socketio-streams"),
            ),
            _DELIVERY_P50,
            Shown("delivery_p99_ms", "delivery p99, ms", 1),
            _ACK_P99,
            Shown("refused", "publishes refused"),
            _MISSING,
            _LOAD,
        ),
    ),
    Scenario(
        name="chat limit",
        text="the same at the highest rate whose p99 is at most 100 ms",
        run=_chat_limit,
        shown=(
            Shown("acked_per_s", "acknowledged publishes/s", 0, _at_least(1.0, "socketio-redis")),
            Shown("cpu_us_per_publish", "server CPU per publish, µs"),
            _ACK_P99,
        ),
    ),
    Scenario(
        name="publish burst",
        text="1,000 clients of 250 channels publish 100 bytes 5 times at the same moment; ours acknowledges what its "
        "log holds, Socket.IO what it has sent on",
        run=_publish_burst,
        shown=(
            Shown("acked", "acknowledged of 5,000"),
            Shown("refused", "refused"),
            Shown("unanswered", "not answered within 15 s"),
            Shown("last_ack_s", "until the last acknowledgement, s", 2),
            _ACK_P99,
            Shown("cpu_us_per_publish", "server CPU per publish with its deliveries, µs"),
        ),
    ),
    Scenario(
        name="durable chat",
        text="the same in `stored` channels, SQLite",
        run=_durable,
        only=(OURS,),
        shown=(
            Shown("acked_per_s", "acknowledged publishes/s", 0, _at_least(15_000)),
            Shown("cpu_us_per_publish", "server CPU per publish, µs"),
            _ACK_P99,
        ),
    ),
    Scenario(
        name="connect storm",
        text="5,000 clients (quick: 2,000) with a JWT, each subscribing to one of 250 channels",
        run=_connect,
        shown=(
            Shown("cpu_us_per_connect", "server CPU per connect, µs", 0, _at_most(0.5, "socketio-redis")),
            Shown("connects_per_s", "connects/s"),
            Shown("connect_p99_ms", "connect p99 (200 at a time), ms"),
        ),
    ),
    Scenario(
        name="idle",
        text="8,000 clients (quick: 2,000) connected and subscribed",
        run=_idle,
        shown=(
            Shown("rss_kib_per_connection", "RSS of the nodes per connection, KiB", 1, _at_most(10.0)),
            Shown("pss_kib_per_connection", "PSS of the nodes per connection, KiB", 1),
            Shown("all_rss_kib_per_connection", "RSS of all processes per connection, KiB", 1),
            Shown("cpu_percent", "CPU, % of one core", 1, _at_most(1.0)),
            Shown("lost_connections", "connections lost"),
        ),
    ),
    Scenario(
        name="recovery storm",
        text="5,000 clients (quick: 1,000) of 50 channels come back after 100 missed publications each",
        run=_recovery,
        only=(OURS,),
        shown=(
            Shown("took_s", "until all have all, s", 1),
            Shown("cpu_us_per_recovery", "server CPU per client, µs"),
            Shown("reads_per_channel_and_edge", "reads of the log per channel and edge", 2, _at_most(1.0)),
            Shown("redis_calls", "calls to Redis"),
            Shown("store_reads", "reads of the store"),
            Shown("recovered", "clients recovered"),
        ),
    ),
    Scenario(
        name="presence",
        text="5,000 clients (quick: 500) join one channel and see one another come",
        run=_presence,
        only=(OURS,),
        shown=(
            Shown("cpu_us_per_join", "server CPU per join, µs"),
            Shown("joins_seen_per_client", "joins told per client"),
            Shown("bytes_per_client", "bytes per client"),
            Shown("took_s", "until all were in, s", 1),
        ),
    ),
    Scenario(
        name="scale",
        text="fan-out on 2 edges against 1, same total rate",
        run=_fan_out,
        only=(OURS, ONE_EDGE),
        shown=(
            Shown("cpu_us_per_delivery", "server CPU per delivery, µs", 2, _at_most(1.15, ONE_EDGE)),
            Shown("delivery_p99_ms", "delivery p99, ms", 1),
        ),
    ),
)
