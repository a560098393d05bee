"""A misspelt setting ends the start by name; one of an earlier version is told.

What platforms add passes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.auth.config import AuthConfig
from services.edge.config import EdgeConfig
from services.persistence.config import PersistenceConfig
from services.presence.config import PresenceConfig
from services.shared.process import variables
from services.shared.process.config import ConfigError
from services.shared.process.variables import check_names, names_of, read_checked_env, warn_of_retired

ROOT = Path(__file__).resolve().parents[2]
EDGE = names_of(EdgeConfig, "EDGE_")


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError) as refused:
        check_names({"EDGE_PINGINTERVAL_S": "5", "EDGE_PORT": "1"}, "EDGE_", EDGE)
    assert str(refused.value) == "there is no setting EDGE_PINGINTERVAL_S (is EDGE_PING_INTERVAL_S meant?)"


def test_all_unknown_names_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"no setting EDGE_AAAAAAAA; there is no setting EDGE_XYZZY$"):
        check_names({"EDGE_XYZZY": "", "EDGE_AAAAAAAA": ""}, "EDGE_", EDGE)


def test_names_of_other_programs_are_none_of_ours() -> None:
    check_names({"EDGES": "2", "EDGERUNNER": "x", "AUTH_TOKEN": "x", "PATH": "x"}, "EDGE_", EDGE)


def test_auth_takes_the_names_that_edges_read_with_its_prefix() -> None:
    read_checked_env(AuthConfig, {"AUTH_HS256_SECRET_FILE": "x", "AUTH_ISSUER": "me"}, "AUTH_")
    with pytest.raises(ConfigError, match="AUTH_ISUER"):
        read_checked_env(AuthConfig, {"AUTH_ISUER": "me"}, "AUTH_")


def test_what_kubernetes_and_links_add_for_a_service_of_that_name_passes() -> None:
    added = {
        "AUTH_SERVICE_HOST": "10.0.0.1",
        "AUTH_SERVICE_PORT": "9001",
        "AUTH_SERVICE_PORT_GRPC": "9001",
        "AUTH_PORT": "tcp://10.0.0.1:9001",
        "AUTH_PORT_9001_TCP": "tcp://10.0.0.1:9001",
        "AUTH_PORT_9001_TCP_PROTO": "tcp",
        "AUTH_PORT_9001_TCP_PORT": "9001",
        "AUTH_PORT_9001_TCP_ADDR": "10.0.0.1",
    }
    check_names(added, "AUTH_", names_of(AuthConfig, "AUTH_"))
    with pytest.raises(ConfigError, match="AUTH_PORT"):
        check_names({"AUTH_PORT": "9001"}, "AUTH_", names_of(AuthConfig, "AUTH_"))


def test_a_retired_name_only_warns(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(variables, "RETIRED", {"EDGE_OLD_S": "EDGE_NEW_S"})
    check_names({"EDGE_OLD_S": "1"}, "EDGE_", EDGE)
    with caplog.at_level(logging.WARNING):
        warn_of_retired({"EDGE_OLD_S": "1", "AUTH_X": ""}, "EDGE_")
    (record,) = caplog.records
    assert record.message == "a setting of an earlier version is ignored"
    assert vars(record)["setting"] == "EDGE_OLD_S"
    assert vars(record)["now"] == "EDGE_NEW_S"


def test_no_retired_name_is_a_setting() -> None:
    configs = {"EDGE_": EdgeConfig, "AUTH_": AuthConfig, "PRESENCE_": PresenceConfig, "PERSISTENCE_": PersistenceConfig}
    settings = {name for prefix, config in configs.items() for name in names_of(config, prefix)}
    assert not variables.RETIRED.keys() & settings


@pytest.mark.parametrize(
    ("service", "name", "meant"),
    [
        ("edge", "EDGE_PINGINTERVAL_S", "EDGE_PING_INTERVAL_S"),
        ("auth", "AUTH_ACCES_TTL_S", "AUTH_ACCESS_TTL_S"),
        ("presence", "PRESENCE_LEASE_S", "PRESENCE_LEASE_TTL_S"),
        ("persistence", "PERSISTENCE_MAXWAITING", "PERSISTENCE_MAX_WAITING"),
    ],
)
def test_each_service_ends_its_start(service: str, name: str, meant: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'proto' / 'gen'}", name: "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = f"thalamus {service}: there is no setting {name} (is {meant} meant?)\n"
    assert (done.returncode, done.stderr) == (2, expected)
