"""Prometheus metrics of auth."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

LOGINS = Counter("thalamus_auth_logins", "Logins by outcome.", ["outcome"])
REGISTRATIONS = Counter("thalamus_auth_registrations", "Registrations by outcome.", ["outcome"])
REFRESHES = Counter("thalamus_auth_refreshes", "Uses of refresh tokens by outcome.", ["outcome"])
TOKENS = Counter("thalamus_auth_tokens", "Tokens minted, by kind.", ["kind"])
HASH_SECONDS = Histogram("thalamus_auth_hash_seconds", "Seconds to hash or check a password, waiting included.")
