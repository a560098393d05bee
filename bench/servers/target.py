"""A running server, or several as one, as scenarios see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.load.commands import Where


class TargetFailed(Exception):
    """A server could not be started here; the text says which, and how it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where its nodes are, and which processes do its work."""

    name: str
    where: Where
    pids: Callable[[], Mapping[str, int]]  # all server-side processes, Redis included
    internal: Mapping[str, str] = field(default_factory=dict)  # those with /metrics
    redis_url: str = ""
