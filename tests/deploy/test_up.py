"""deploy/up.sh and down.sh against a `docker` that records its calls.

It answers from files.
"""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.secrets.files import SecretFiles
from services.shared.process.variables import RETIRED
from tests.deploy.tools import ROOT

# Its answers stand in files of the folder it is in; where there is none, it says nothing, as for what is not there.
DOCKER = """#!/usr/bin/env bash
here=$(dirname "$0")
echo "$*" >>"$here/calls"
case "$1 $2" in
    "stack config") echo "      DYNAMODB_ENDPOINT: ${DYNAMODB_ENDPOINT-http://dynamodb:8000}" ;;
    "stack deploy") env >"$here/deployed" ;;
    "stack services")  # what is said next, and from then on the last
        head -n 1 "$here/replicas" | tr ';' '\n'
        [ "$(wc -l <"$here/replicas")" -le 1 ] || sed -i 1d "$here/replicas"
        ;;
    "stack ps") cat "$here/tasks" ;;
    "service inspect")
        case "$*" in
            *UpdateStatus*) cat "$here/updates" ;;
            *_persistence*) cat "$here/environment" ;;
            *PreviousSpec*) cat "$here/specs" "$here/previous" ;;
            *) cat "$here/specs" ;;
        esac
        ;;
    "service ls") echo service1 ;;
    "service ps")  # what is said next
        head -n 1 "$here/states"
        sed -i 1d "$here/states"
        ;;
    "secret ls") cat "$here/secrets" ;;
    "config ls") cat "$here/configs" ;;
esac 2>/dev/null
"""


class Deployment:
    """A folder with secrets and the `docker` of this test."""

    def __init__(self, folder: Path) -> None:
        self._bin = folder / "bin"
        self._bin.mkdir()
        docker = self._bin / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)
        self.script = ROOT / "deploy" / "up.sh"
        self.secrets = folder / "secrets"
        self.has(specs='{"Secrets":[{"SecretID":"present1"}]}', previous="null", environment="LOG_LEVEL=INFO")
        SecretFiles(self.secrets, ROOT / "deploy" / "redis" / "users.acl.template").init(["localhost"])

    def has(self, **replies: str) -> None:
        """Set what the engine knows.

        `environment` of persistence, `specs` and `previous` ones of services, `secrets`.
        """
        for name, text in replies.items():
            (self._bin / name).write_text(text + "\n")

    def up(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """`make up`, with nothing of this shell's environment but the path."""
        for name in ("calls", "deployed"):
            (self._bin / name).unlink(missing_ok=True)
        path = f"{self._bin}:{os.environ['PATH']}"
        here = {"PATH": path, "SECRETS": str(self.secrets), "STACK_FILES": "dev-stack.yml", "UP_WAIT_S": "0"}
        environment = {**here, **environment}
        return subprocess.run([self.script], env=environment, capture_output=True, text=True, timeout=60, check=False)

    def down(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """`make down`, likewise."""
        (self._bin / "calls").unlink(missing_ok=True)
        environment = {"PATH": f"{self._bin}:{os.environ['PATH']}", **environment}
        script = self.script.with_name("down.sh")
        return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60, check=False)

    def write_settings(self, content: bytes) -> None:
        """A tree like this one, with a `deploy.env`."""
        tree = self._bin.parent / "tree"
        (tree / "deploy").mkdir(parents=True)
        for folder in (Path(), Path("deploy")):
            for path in (ROOT / folder).iterdir():
                if not (tree / folder / path.name).exists() and path.name != "deploy.env":
                    (tree / folder / path.name).symlink_to(path)
        (tree / "deploy.env").write_bytes(content)
        self.script = tree / "deploy" / "up.sh"

    @property
    def calls(self) -> list[str]:
        return (self._bin / "calls").read_text().splitlines()

    @property
    def deployed(self) -> dict[str, str] | None:
        """The environment of `docker stack deploy`; None: it was not called."""
        path = self._bin / "deployed"
        if not path.exists():
            return None
        return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


def hashes(deployment: Deployment) -> dict[str, str]:
    assert deployment.deployed is not None
    return {name: value for name, value in deployment.deployed.items() if name.startswith("HASH_")}


def test_a_first_deployment_asks_for_nothing_but_secrets(deployment: Deployment) -> None:
    done = deployment.up()
    assert done.returncode == 0, done.stderr
    assert deployment.deployed is not None
    (deployment.secrets / ".salt").unlink()
    refused = deployment.up()
    assert (refused.returncode, refused.stderr) == (1, "no secrets yet: make secrets\n")


@pytest.mark.parametrize(("planned", "running"), [("", "http://dynamodb:8000"), ("http://dynamodb:8000", "")])
def test_another_store_than_the_running_one_needs_force(deployment: Deployment, planned: str, running: str) -> None:
    deployment.has(environment=f"LOG_LEVEL=INFO\nDYNAMODB_ENDPOINT={running}")
    refused = deployment.up(DYNAMODB_ENDPOINT=planned)
    assert refused.returncode == 1
    assert f"DYNAMODB_ENDPOINT '{running}', this would give it '{planned}': FORCE=1 if that is meant" in refused.stderr
    assert deployment.deployed is None
    assert deployment.up(DYNAMODB_ENDPOINT=planned, FORCE="1").returncode == 0
    assert deployment.deployed is not None


@pytest.mark.parametrize("store", ["", "http://dynamodb:8000"])
def test_the_same_store_needs_no_force(deployment: Deployment, store: str) -> None:
    deployment.has(environment=f"DYNAMODB_ENDPOINT={store}")
    done = deployment.up(DYNAMODB_ENDPOINT=store)
    assert done.returncode == 0, done.stderr


def test_only_what_no_service_runs_with_or_goes_back_to_is_removed(deployment: Deployment) -> None:
    deployment.has(
        secrets="present1\nbefore1\nold1",
        configs="present2\nold2",
        specs='{"Secrets":[{"SecretID":"present1"}],"Configs":[{"ConfigID":"present2"}]}',
        previous='{"TaskTemplate":{"ContainerSpec":{"Secrets":[{"SecretID":"before1"}]}}}',
    )
    assert deployment.up(STACK="chat").returncode == 0
    removed = [call for call in deployment.calls if " rm " in call]
    assert removed == ["secret rm old1", "config rm old2"]
    listed = [call for call in deployment.calls if call.split()[1] == "ls"]
    assert len(listed) == 3
    assert all("--filter label=com.docker.stack.namespace=chat" in call for call in listed)
    order = [call.split()[1] for call in deployment.calls if call.split()[1] in ("deploy", "rm")]
    assert order[0] == "deploy"  # what is new is there before anything goes


def test_a_secret_that_changed_has_another_name_and_the_others_keep_theirs(deployment: Deployment) -> None:
    assert deployment.up().returncode == 0
    before = hashes(deployment)
    (deployment.secrets / "redis_edge").write_text("another")
    assert deployment.up().returncode == 0
    changed = {name for name, value in hashes(deployment).items() if value != before[name]}
    assert changed == {"HASH_redis_edge"}


def test_a_rotation_may_go_on_once_its_last_step_is_deployed(deployment: Deployment) -> None:
    marker = deployment.secrets / ".service_token.changed"
    marker.touch()
    deployment.has(environment="DYNAMODB_ENDPOINT=elsewhere")
    assert deployment.up().returncode == 1
    assert marker.exists()
    assert deployment.up(FORCE="1").returncode == 0
    assert not marker.exists()


def test_every_file_that_the_stack_names_by_content_is_there(deployment: Deployment) -> None:
    assert deployment.up(STACK_FILES="dev-stack.yml prod-stack.yml").returncode == 0
    text = (ROOT / "dev-stack.yml").read_text()
    assert len(hashes(deployment)) == text.count(":-v1}")
    (deploy,) = [call for call in deployment.calls if call.startswith("stack deploy")]
    assert "--compose-file dev-stack.yml --compose-file prod-stack.yml --prune" in deploy


def test_a_prefix_that_the_users_of_redis_do_not_have_is_refused(deployment: Deployment) -> None:
    ran = deployment.up(REDIS_PREFIX="staging")
    assert ran.returncode == 1
    assert "REDIS_PREFIX=staging make secrets" in ran.stderr
    assert deployment.deployed is None
    SecretFiles(deployment.secrets, ROOT / "deploy" / "redis" / "users.acl.template", "staging").init(["localhost"])
    assert deployment.up(REDIS_PREFIX="staging").returncode == 0


@pytest.mark.parametrize("right", [" ~t:events:{*", " +xrevrange"])
def test_users_of_redis_with_fewer_rights_than_a_service_needs_are_refused(deployment: Deployment, right: str) -> None:
    acl = deployment.secrets / "redis_acl"
    now = acl.read_text()
    acl.write_text(now.replace(right, ""))
    ran = deployment.up()
    assert ran.returncode == 1
    assert "of an earlier version: REDIS_PREFIX=t make secrets" in ran.stderr
    assert deployment.deployed is None
    acl.write_text(now)
    assert deployment.up().returncode == 0


@pytest.mark.parametrize("name", ["EDGE_ALOW_ANONYMOUS", "PRESENCE_HEARTBEATS", "EDGE_PORT"])
def test_a_setting_that_would_reach_nothing_is_refused(deployment: Deployment, name: str) -> None:
    ran = deployment.up(**{name: "1"})
    assert ran.returncode == 2
    assert f"these reach nothing in the stack: {name} " in ran.stderr
    assert deployment.deployed is None


@pytest.mark.parametrize("name", RETIRED)
def test_a_setting_of_an_earlier_version_is_told_and_stops_nothing(deployment: Deployment, name: str) -> None:
    ran = deployment.up(**{name: "1"})
    assert (ran.returncode, ran.stderr.strip()) == (0, f"settings of an earlier version, ignored: {name}")
    assert deployment.deployed is not None
    refused = deployment.up(**{name: "1", "EDGE_ALOW_ANONYMOUS": "1"})
    assert refused.returncode == 2
    assert "these reach nothing in the stack: EDGE_ALOW_ANONYMOUS (" in refused.stderr


@pytest.mark.parametrize("name", ["EDGE_ALLOW_ANONYMOUS", "EDGE_REPLICAS", "AUTH_ISSUER", "DYNAMODB_THREADS"])
def test_a_setting_that_reaches_something_passes(deployment: Deployment, name: str) -> None:
    assert deployment.up(**{name: "1"}).returncode == 0
    assert deployment.deployed is not None
    assert deployment.deployed[name] == "1"


class Console(http.server.BaseHTTPRequestHandler):
    """What the balancer answers."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def balancer() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Console)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_it_waits_until_all_is_there_and_says_where(deployment: Deployment, balancer: int) -> None:
    whole = "thalamus_edge 3/3;thalamus_auth 2/2"
    deployment.has(replicas=f"thalamus_edge 1/3;thalamus_auth 2/2\n{whole}", updates="thalamus_edge")
    ran = deployment.up(UP_WAIT_S="20", PUBLIC_PORT=str(balancer))
    assert ran.returncode == 0, ran.stderr
    first, last = ran.stdout.splitlines()
    assert first == "waiting for edge 1/3"
    assert re.fullmatch(rf"thalamus is whole after \d+ s: http://127.0.0.1:{balancer}/; with TLS on port 8443", last)


def test_it_gives_up_with_what_is_missing_and_why(deployment: Deployment) -> None:
    deployment.has(
        replicas="thalamus_edge 3/3;thalamus_auth 0/2", updates="", tasks="thalamus_auth.1: Rejected No such image"
    )
    ran = deployment.up(UP_WAIT_S="1")
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == ["not whole after 1 s: auth 0/2", "thalamus_auth.1: Rejected No such image"]


def test_an_update_that_went_back_is_a_failure_and_an_earlier_one_is_none(
    deployment: Deployment, balancer: int
) -> None:
    deployment.has(
        replicas="thalamus_edge 3/3", updates="thalamus_edge rollback_completed 2999-01-01 00:00:00 +0000 UTC"
    )
    ran = deployment.up(UP_WAIT_S="5", PUBLIC_PORT=str(balancer))
    assert (ran.returncode, "went back to what they were, or stopped halfway: edge" in ran.stderr) == (1, True)
    deployment.has(updates="thalamus_edge rollback_completed 2001-01-01 00:00:00 +0000 UTC")
    assert deployment.up(UP_WAIT_S="5", PUBLIC_PORT=str(balancer)).returncode == 0


def test_settings_of_the_file_are_taken_as_they_stand(deployment: Deployment) -> None:
    """`=` at the end, blanks, Windows line ends, and a last line without one."""
    deployment.write_settings(
        b"# comment\n\n  # another\nEDGE_NAME=abc=\nEDGE_TOKEN_ISSUER=a b\\c \r\n"
        b"EDGE_REPLICAS=5\nLOG_LEVEL=x=\nAUTH_ISSUER=last"
    )
    done = deployment.up(EDGE_REPLICAS="7")
    assert done.returncode == 0, done.stderr
    assert deployment.deployed is not None
    names = ("EDGE_NAME", "EDGE_TOKEN_ISSUER", "EDGE_REPLICAS", "LOG_LEVEL", "AUTH_ISSUER")
    assert [deployment.deployed[name] for name in names] == ["abc=", "a b\\c ", "7", "x=", "last"]


@pytest.mark.parametrize("line", ["export EDGE_NAME=x", " EDGE_NAME=x", "EDGE_NAME", "EDGE-NAME=x", "edge_name=x"])
def test_a_line_of_the_file_that_is_no_setting_ends_it(line: str, deployment: Deployment) -> None:
    deployment.write_settings(f"LOG_LEVEL=INFO\n{line}\n".encode())
    refused = deployment.up()
    assert (refused.returncode, refused.stderr) == (2, "deploy.env, line 2: not NAME=VALUE\n")
    assert deployment.deployed is None


def changes(deployment: Deployment) -> list[str]:
    """What `docker` was asked, but for whether a service is there"""
    return [call for call in deployment.calls if not call.startswith("service inspect")]


def test_the_stack_ends_in_order_edges_then_persistence_then_the_rest(deployment: Deployment) -> None:
    deployment.has(states="Running 3 seconds ago\nShutdown 1 second ago\nRunning 3 minutes ago\n")
    done = deployment.down()
    assert done.returncode == 0, done.stderr
    asked = "--format {{.CurrentState}}"
    assert changes(deployment) == [
        "service scale --detach thalamus_edge=0",
        f"service ps thalamus_edge {asked}",
        f"service ps thalamus_edge {asked}",
        "service scale --detach thalamus_persistence=0",
        f"service ps thalamus_persistence {asked}",
        f"service ps thalamus_persistence {asked}",
        "stack rm thalamus",
    ]


def test_what_does_not_end_is_told_and_removed_nevertheless(deployment: Deployment) -> None:
    deployment.has(states="Running 1 second ago\n" * 20)
    done = deployment.down(DOWN_WAIT_S="1", STACK="staging")
    assert done.returncode == 0
    assert "staging_edge has not ended after 1 s" in done.stderr
    assert changes(deployment)[-1] == "stack rm staging"


def test_it_may_be_removed_at_once_and_its_name_stands_in_the_settings(deployment: Deployment) -> None:
    deployment.write_settings(b"# ours\r\nSTACK=ours\r\n")
    assert deployment.down(DOWN_WAIT_S="0").returncode == 0
    assert changes(deployment) == ["stack rm ours"]
