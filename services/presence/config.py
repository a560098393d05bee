"""Settings of presence, read from PRESENCE_* variables once at the start."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.process.config import HIGHEST_PORT, group, number
from services.shared.startup.config import FeedConfig, GrpcServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceConfig(GrpcServiceConfig):
    """The settings. `docs/configuration.md` explains each."""

    grpc_port: int = number(9002, 0, HIGHEST_PORT)
    grpc_tls_port: int = number(9012, 0, HIGHEST_PORT)
    lease_ttl_s: float = number(12.0, 1)
    feed: FeedConfig = group(FeedConfig)
