"""`thalamus dev` refuses by name what it would ignore."""

from __future__ import annotations

import pytest

from cli.stack.environment import check_environment
from services.shared.process.config import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "REDIS_URL",
            "redis://there",
            "REDIS_URL is not for `thalamus dev`: it starts a Redis of its own, on REDIS_PORT",
        ),
        ("REDIS_PASSWORD_FILE", "x", "REDIS_PASSWORD_FILE is not for"),
        ("EDGE_AUTH_ADDR", "x:1", "EDGE_AUTH_ADDR is not for `thalamus dev`: it starts auth itself, on AUTH_GRPC_PORT"),
        ("EDGE_PRESENCE_ADDR", "x:1", "PRESENCE_GRPC_PORT"),
        ("EDGE_PERSISTENCE_ADDR", "x:1", "PERSISTENCE_GRPC_PORT"),
        ("EDGE_WORKERS", "auto", "EDGE_WORKERS is not for `thalamus dev`: EDGES=2 starts two edges"),
        ("EDGE_REPLICAS", "5", "EDGE_REPLICAS is not for `thalamus dev`: EDGES=2 starts two edges"),
        ("EDGE_PINGINTERVAL_S", "5", "no setting EDGE_PINGINTERVAL_S (is EDGE_PING_INTERVAL_S meant?)"),
        ("PERSISTENCE_DBS", "x", "no setting PERSISTENCE_DBS (is PERSISTENCE_DB meant?)"),
        ("AUTH_DATABASE", "x", "no setting AUTH_DATABASE"),
        ("PRESENCE_HEARTBEATS", "x", "no setting PRESENCE_HEARTBEATS"),
        ("WEBHOOKS_FILES", "x", "no setting WEBHOOKS_FILES (is WEBHOOKS_FILE meant?)"),
    ],
)
def test_what_would_be_ignored_is_refused(name: str, value: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_environment({name: value})
    assert complaint in str(refused.value)


def test_what_is_taken_passes() -> None:
    check_environment(
        {
            "EDGES": "2",
            "WEBHOOKS_FILE": "x",
            "EDGE_PORT": "0",
            "EDGE_WORKERS": "1",
            "EDGE_WEB_DIR": "x",
            "AUTH_DB": "x",
            "AUTH_HS256_SECRET_FILE": "x",
            "PRESENCE_INTERNAL_PORT": "0",
            "REDIS_PORT": "0",
            "SERVICE_TOKEN_FILE": "x",
        }
    )
