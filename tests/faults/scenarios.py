"""The faults, as docs/reliability.md has them.

What is broken, under which load, and what must hold.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from tests.faults.auth_gone import AUTH_GONE_S, kill_auth
from tests.faults.expiry import EXPIRY_ENDS_S, expire_tokens
from tests.faults.members import BASE_S
from tests.faults.revocation import REVOCATION_ENDS_S, revoke_user, revoke_user_beside_a_cut
from tests.faults.scenario import HOT, Scenario, told_once, within
from tests.faults.troubles import (
    bad_network,
    cut_one_edge,
    disk_full,
    edge_behind_proxy,
    edge_with_few_files,
    empty_redis,
    files_run_out,
    first_edge_is_harmed,
    kill_edges,
    kill_pubsub,
    kill_redis,
    memory_cap,
    no_fault,
    nothing,
    others_unharmed,
    overload,
    proxies,
    shifted_edges,
    slow_reader,
    small_disk,
    stop_redis,
    stop_then_kill_persistence,
)
from tests.support import faults

_SLACK_S = 0.3  # of a busy machine, on top of deadlines


def _first_ack(limit_s: float) -> Any:
    return lambda outcome, world: within(outcome, "first_ack_after_heal", 1.0, limit_s)


SCENARIOS = (
    Scenario(
        id="F01",
        title="kill -9 an edge, again and again",
        trouble=kill_edges,
        duration_s=38,
        limits=lambda outcome, world: within(outcome, "back", 0.99, 10.0),
    ),
    Scenario(
        id="F04",
        title="Redis killed, back after 3 s with AOF",
        trouble=kill_redis,
        duration_s=25,
        restart=False,
        limits=_first_ack(5.0),
    ),
    Scenario(
        id="F05",
        title="Redis killed, back empty",
        trouble=empty_redis,
        duration_s=25,
        restart=False,
        hot_gaps=True,
        limits=lambda outcome, world: told_once(outcome, world.extras["hot_streams"]),
    ),
    Scenario(
        id="F06",
        title="Redis stopped 10 s",
        trouble=stop_redis,
        duration_s=30,
        limits=lambda outcome, world: within(outcome, "failed", 1.0, 3.0 + _SLACK_S),
    ),
    Scenario(
        id="F07",
        title="pub/sub connections killed",
        trouble=kill_pubsub,
        duration_s=28,
        limits=lambda outcome, world: within(outcome, "delivery", 0.99, 2.0),
    ),
    Scenario(
        id="F08",
        title="one edge cut from Redis 20 s",
        trouble=cut_one_edge,
        duration_s=42,
        prepare=edge_behind_proxy,
        around=first_edge_is_harmed,
        limits=others_unharmed,
    ),
    Scenario(
        id="F09",
        title="5 % packet loss, 100 ms added",
        trouble=bad_network,
        duration_s=36,
        around=proxies,
        needs="namespaces",
        limits=lambda outcome, world: within(outcome, "delivery", 0.99, 3.0),
    ),
    Scenario(
        id="F10",
        title="persistence stopped 30 s, then killed",
        trouble=stop_then_kill_persistence,
        duration_s=52,
        restart=False,
        limits=lambda outcome, world: [
            *within(outcome, "failed", 1.0, 3.0 + _SLACK_S),
            *within(outcome, "first_ack_after_heal", 1.0, 60.0),
        ],
    ),
    Scenario(
        id="F15",
        title="auth killed 60 s",
        trouble=kill_auth,
        duration_s=BASE_S + AUTH_GONE_S + 6,
        restart=False,
    ),
    Scenario(
        id="F16",
        title="one subscriber reads 1 KiB/s",
        trouble=slow_reader,
        duration_s=36,
        slow=1,
        padding=30_000,
        environment={"EDGE_PING_INTERVAL_S": "60"},
        load={"drop_every_s": 0.0, "rate_per_s": 60.0, "clients": 30, "channels": (f"{HOT}:slow", "chat:slow")},
    ),
    Scenario(
        id="F18",
        title="publishing at 3 x capacity for 30 s",
        trouble=overload,
        duration_s=56,
        load={"clients": 60},
    ),
    Scenario(
        id="F19",
        title="edges' clocks off by 120 s",
        trouble=nothing,
        duration_s=30,
        prepare=shifted_edges,
        needs="faketime",
        token_ttl_s=60.0,
    ),
    Scenario(
        id="F20",
        title="disk full under SQLite",
        trouble=disk_full,
        duration_s=32,
        prepare=small_disk,
        needs="namespaces",
        limits=_first_ack(10.0),
    ),
    Scenario(
        id="F21",
        title="memory cap of outboxes reached",
        trouble=memory_cap,
        duration_s=36,
        environment={"EDGE_MAX_OUTBOX_TOTAL_BYTES": "4194304", "EDGE_PING_INTERVAL_S": "60"},
        slow=20,
        padding=30_000,
        load={"drop_every_s": 0.0, "rate_per_s": 60.0, "clients": 40, "channels": (f"{HOT}:slow", "chat:slow")},
    ),
    Scenario(
        id="F22",
        title="file descriptors run out",
        trouble=files_run_out,
        duration_s=30,
        prepare=edge_with_few_files,
        load={"clients": 120},
    ),
    Scenario(
        id="F23",
        title="tokens expire during sessions",
        trouble=expire_tokens,
        duration_s=EXPIRY_ENDS_S,
    ),
    Scenario(
        id="F24",
        title="a user is revoked",
        trouble=revoke_user,
        duration_s=REVOCATION_ENDS_S,
    ),
    Scenario(
        id="F24-cut",
        title="a user is revoked while one edge is cut from Redis",
        trouble=revoke_user_beside_a_cut,
        duration_s=REVOCATION_ENDS_S,
        prepare=edge_behind_proxy,
        around=first_edge_is_harmed,
    ),
)

# Only run by name: `--only drop --scale 1 --seed 1`.
BY_NAME = (
    Scenario(
        id="drop",
        title="every client offline 2 s every 15 s, for 5 minutes",
        trouble=no_fault,
        duration_s=300,
        edges=2,
        load={"drop_every_s": 13.0, "offline_s": (2.0, 2.0)},
        limits=lambda outcome, world: [
            *within(outcome, "catch_up", 0.99, 1.0),
            *(["hardly anybody dropped"] if outcome.verdict.recoveries < 3_000 else []),
        ],
    ),
)


def possible(scenario: Scenario) -> str:
    """Empty, or why this machine can't."""
    if scenario.needs == "namespaces" and not faults.in_namespaces():
        return "needs namespaces of its own (unshare)"
    if scenario.needs == "namespaces" and scenario.id == "F09" and shutil.which("iptables") is None:
        return "needs iptables"
    if scenario.needs == "faketime" and faults.shifted_clock(1) is None:
        return "needs libfaketime"
    return "" if os.name == "posix" else "needs POSIX"
