"""A running server, or several as one, as scenarios see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


class TargetFailed(Exception):
    """A server could not be started here; the text says which, and how it could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where its nodes are, and which processes do its work."""

    name: str
    dialect: str
    urls: Sequence[str]
    secret: str  # of HS256 tokens
    pids: Callable[[], Mapping[str, int]]  # all server-side processes, Redis included
    internal: Mapping[str, str] = field(default_factory=dict)  # those with /metrics
