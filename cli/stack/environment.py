"""Checks which environment variables may be set for a stack on this machine."""

from __future__ import annotations

from collections.abc import Mapping

from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.persistence.config import PersistenceConfig
from services.persistence.notifier.config import NotifierConfig
from services.persistence.webhooks.config import WebhooksConfig
from services.presence.config import PresenceConfig
from services.shared.process.config import ConfigError
from services.shared.process.variables import check_names, names_of

_SERVICES = {
    "AUTH_": AuthConfig,
    "EDGE_": EdgeConfig,
    "PERSISTENCE_": PersistenceConfig,
    "PRESENCE_": PresenceConfig,
    "WEBHOOKS_": WebhooksConfig,
    "NOTIFIER_": NotifierConfig,
}
_ITS_OWN = "it starts a Redis of its own, on REDIS_PORT"
_BY_PORT = "it starts {service} itself, on {variable}"

# Variables that the stack sets for its processes, whatever the environment says.
_DECIDED = {
    "REDIS_URL": _ITS_OWN,
    "REDIS_PASSWORD_FILE": _ITS_OWN,
    "EDGE_AUTH_ADDR": _BY_PORT.format(service="auth", variable="AUTH_GRPC_PORT"),
    "EDGE_PRESENCE_ADDR": _BY_PORT.format(service="presence", variable="PRESENCE_GRPC_PORT"),
    "EDGE_PERSISTENCE_ADDR": _BY_PORT.format(service="persistence", variable="PERSISTENCE_GRPC_PORT"),
    "NOTIFIER_PRESENCE_ADDR": _BY_PORT.format(service="presence", variable="PRESENCE_GRPC_PORT"),
    "NOTIFIER_PERSISTENCE_ADDR": _BY_PORT.format(service="persistence", variable="PERSISTENCE_GRPC_PORT"),
    "NOTIFIER_PRESENCE_TLS_ADDR": _BY_PORT.format(service="presence", variable="PRESENCE_GRPC_TLS_PORT"),
    "NOTIFIER_PERSISTENCE_TLS_ADDR": _BY_PORT.format(service="persistence", variable="PERSISTENCE_GRPC_TLS_PORT"),
    "EDGE_AUTH_TLS_ADDR": _BY_PORT.format(service="auth", variable="AUTH_GRPC_TLS_PORT"),
    "EDGE_PRESENCE_TLS_ADDR": _BY_PORT.format(service="presence", variable="PRESENCE_GRPC_TLS_PORT"),
    "EDGE_PERSISTENCE_TLS_ADDR": _BY_PORT.format(service="persistence", variable="PERSISTENCE_GRPC_TLS_PORT"),
    **dict.fromkeys(
        ("SERVICE_TLS_CA_FILE", "SERVICE_TLS_CERT_FILE", "SERVICE_TLS_KEY_FILE"),
        "it makes certificates of its own where SERVICE_TLS is not off",
    ),
}
_OF_A_DEPLOYMENT = {"EDGE_REPLICAS": "EDGES", "EDGE_WORKERS": "EDGES"}


def check_environment(environment: Mapping[str, str]) -> None:
    """Check that no variable that is set would be ignored.

    Raises:
        ConfigError: a variable is not a setting, or the stack decides it itself.
    """
    for name, instead in _OF_A_DEPLOYMENT.items():
        if environment.get(name, "1") != "1":
            raise ConfigError(
                f"{name} is not for `thalamus dev`: {instead}=2 starts two edges, each on a port of its own"
            )
    for name, why in _DECIDED.items():
        if name in environment:
            raise ConfigError(f"{name} is not for `thalamus dev`: {why}")
    for prefix, config in _SERVICES.items():
        known = names_of(config, prefix) | set(_OF_A_DEPLOYMENT)
        check_names(environment, prefix, known)
