"""The commands against a running stack."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from tests.support.stack import Stack, clean_environment


class Cli:
    """`thalamus` against a stack."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.stack = stack
        self._directory = directory
        self._environment = {**clean_environment(), "THALAMUS_DATA": str(stack.data)}
        self.running: list[subprocess.Popen[str]] = []
        assert stack.api_key  # kept in the data directory from now on

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert done.returncode == code, done
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # A shell has its background jobs ignore Ctrl-C, and their children inherit that. It is not for `preexec_fn` to
        # change: gRPC, which this process runs, now and then crashes a child that runs Python before its program.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "cli.main", *arguments],
                    cwd=self._directory,
                    env=self._environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        finally:
            signal.signal(signal.SIGINT, before)
        return self.running[-1]


@pytest.fixture
def cli(stack: Stack, tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(stack, tmp_path)
    yield cli
    for process in cli.running:
        process.kill()
        process.communicate()


@pytest.fixture
def channel() -> str:
    return f"chat:{secrets.token_hex(4)}"


def untimed(lines: str) -> str:
    """Lines without the time of what they show, which must be there."""
    timed = re.compile(r"(^|(?<= ))\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z (?=#)", re.MULTILINE)
    found, count = timed.subn("", lines)
    assert count == len(lines.splitlines())
    return found


def until(stream: object, text: str) -> str:
    """The first line that has `text`; the test's time limit is the end of the process."""
    while text not in (line := stream.readline()):  # type: ignore[attr-defined]
        assert line, f"ended without {text!r}"
    return str(line)


def test_a_minted_token_connects_and_wrong_ones_end_with_code_1(cli: Cli, channel: str) -> None:
    token = cli.run("token", "--user", "alice", "--ttl", "60", "--info", '{"name":"Alice"}').stdout.splitlines()[-1]
    subscriber = cli.start("subscribe", channel, "--token", token, "--json")
    join = json.loads(until(subscriber.stdout, '"join"'))
    assert join["info"]["user"] == "alice"
    assert join["info"]["conn_info"] == {"name": "Alice"}
    refused = cli.run("subscribe", channel, "--token", "nonsense", code=1)
    assert refused.stderr == "thalamus: the server closed the connection: invalid token (3500)\n"


def test_a_token_of_the_shared_secret_connects_too(cli: Cli, channel: str) -> None:
    secret_file = str(cli.stack.data / "hs256.secret")
    token = cli.run("token", "--user", "bob", "--secret-file", secret_file).stdout.splitlines()[-1]
    subscriber = cli.start("subscribe", channel, "--token", token)
    until(subscriber.stderr, f"subscribed to {channel}")


def test_publications_are_followed_in_both_forms_and_ctrl_c_is_a_good_end(cli: Cli, channel: str) -> None:
    people, script = cli.start("subscribe", channel), cli.start("subscribe", channel, "--json")
    for process in (people, script):
        until(process.stderr, f"subscribed to {channel}")
    published = json.loads(cli.run("publish", channel, '{"n":12345678901234567890}', "--json").stdout)
    assert published["offset"] == 1
    assert untimed(until(people.stdout, "#1")) == f'{channel} #1 {{"n":12345678901234567890}}\n'
    line = until(script.stdout, '"publication"')
    assert '"data":{"n":12345678901234567890}' in line
    assert json.loads(line)["offset"] == 1
    assert abs(json.loads(line)["time"] / 1000 - time.time()) < 60
    people.send_signal(signal.SIGINT)
    script.send_signal(signal.SIGTERM)
    assert people.wait(5) == 0
    assert script.wait(5) == 0


def test_recover_brings_what_was_missed_or_says_that_it_can_t(cli: Cli, channel: str) -> None:
    places = [json.loads(cli.run("publish", channel, str(number), "--json").stdout) for number in range(3)]
    since = f"{places[0]['offset']}:{places[0]['epoch']}"
    subscriber = cli.start("subscribe", channel, "--recover", since)
    until(subscriber.stderr, f"recovered {channel} since {since}: 2 missed")
    assert untimed(until(subscriber.stdout, "#2")) == f"{channel} #2 1\n"
    other = cli.start("subscribe", channel, "--recover", "1:wrong")
    until(other.stderr, "NOT recovered")


def test_history_pages_both_ways(cli: Cli, channel: str) -> None:
    for number in range(4):
        cli.run("publish", channel, str(number))
    assert untimed(cli.run("history", channel).stdout).splitlines() == ["#1 0", "#2 1", "#3 2", "#4 3"]
    assert untimed(cli.run("history", channel, "--limit", "1", "--reverse").stdout) == "#4 3\n"
    page = [json.loads(line) for line in cli.run("history", channel, "--since", "2", "--json").stdout.splitlines()]
    assert [(entry["offset"], entry["data"]) for entry in page] == [(3, 2), (4, 3)]


def test_a_repeat_with_the_same_key_publishes_nothing_new(cli: Cli, channel: str) -> None:
    for _ in range(2):
        cli.run("publish", channel, '"once"', "--key", "k1")
    assert untimed(cli.run("history", channel).stdout) == '#1 "once"\n'


def test_presence_shows_who_is_there(cli: Cli, channel: str) -> None:
    subscriber = cli.start("subscribe", channel, "--user", "carol")
    until(subscriber.stdout, f"{channel} + carol")
    assert cli.run("presence", channel).stdout.startswith("carol  ")
    (member,) = cli.run("presence", channel, "--json").stdout.splitlines()
    assert json.loads(member)["user"] == "carol"


def test_connections_shows_who_is_connected_and_where(cli: Cli, channel: str) -> None:
    subscriber = cli.start("subscribe", channel, "--user", "dora")
    until(subscriber.stdout, f"{channel} + dora")
    for selected in (["--user", "dora"], ["--channel", channel]):
        assert cli.run("connections", *selected).stdout.startswith("dora  ")
        (line,) = cli.run("connections", *selected, "--json").stdout.splitlines()
        found = json.loads(line)
        assert (found["user"], found["protocol"]) == ("dora", "centrifugal-json")
    assert found["client"] in cli.run("connections", "--edge", found["edge"]).stdout
    assert cli.run("connections", "--user", "nobody").stdout == ""
    assert cli.run("connections", "--user", "dora", "--partial").stderr == "1 connections\n"
    unknown = cli.run("connections", "--edge", "nowhere", code=1)
    assert unknown.stderr == "thalamus: connections refused: not available: there is no such edge (108)\n"
    assert "one of --user" in cli.run("connections", code=2).stderr


def test_api_keys_are_made_used_listed_and_revoked(cli: Cli, channel: str) -> None:
    created = cli.run("api-key", "create", "backend", "--json")
    assert "this key may do everything, for ever: " in created.stderr
    assert "may do everything: " in cli.run("api-key", "create", "backend", "--expires", "1d").stderr
    for scope in ("publish:chat", "admin"):
        assert "everything" not in cli.run("api-key", "create", "backend", "--scope", scope).stderr
    made = json.loads(created.stdout)
    assert made["id"] in cli.run("api-key", "list").stdout
    cli.run("publish", channel, "1", "--api-key", made["key"])
    cli.run("api-key", "revoke", made["id"])
    assert made["id"] not in cli.run("api-key", "list").stdout
    refused = cli.run("api-key", "revoke", made["id"], code=1)
    assert refused.stderr.startswith("thalamus: auth says: ")


def test_an_api_key_may_do_what_its_scopes_say_until_it_expires(cli: Cli, channel: str) -> None:
    options = ("--scope", "publish:chat", "--scope", "presence", "--expires", "2h")
    made = json.loads(cli.run("api-key", "create", "limited", *options, "--json").stdout)
    assert made["scopes"] == ["presence", "publish:chat"]
    assert 7_100 < made["expires_at"] - time.time() <= 7_200
    refused = cli.run("history", channel, "--api-key", made["key"], code=1)
    assert refused.stderr.endswith("permission denied: the API key has no scope history for this (103)\n")
    (line,) = [line for line in cli.run("api-key", "list").stdout.splitlines() if made["id"] in line]
    assert "  not used yet  presence publish:chat  until 20" in line
    for wrong in (("--scope", "fly"), ("--expires", "1y"), ("--expires", "0d"), ("--expires", "4000000d")):
        assert cli.run("api-key", "create", "limited", *wrong, code=1 if wrong[0] == "--scope" else 2).stdout == ""
    cli.run("api-key", "revoke", made["id"])


def test_signing_keys_are_rotated_listed_and_retired(cli: Cli) -> None:
    signing = json.loads(cli.run("keys", "list", "--json").stdout.splitlines()[0])
    rotated = cli.run("keys", "rotate")
    kid = rotated.stdout.strip()
    assert rotated.stderr.startswith("it signs from 20")
    listed = cli.run("keys", "list").stdout
    assert f"{signing['kid']}  EdDSA  made " in listed
    (line,) = [line for line in listed.splitlines() if line.startswith(kid)]
    assert "  waiting  signs from " in line
    assert cli.run("keys", "retire", kid).stdout == f"retired {kid}\n"
    assert kid not in cli.run("keys", "list").stdout
    refused = cli.run("keys", "retire", signing["kid"], code=1)
    assert refused.stderr.startswith("thalamus: auth says: this key signs at present")
    assert cli.run("keys", "retire", kid, code=1).stderr == "thalamus: auth says: there is no such key\n"


def test_refusals_are_one_line_and_code_1(cli: Cli) -> None:
    wrong_key = cli.run("publish", "chat:x", "1", "--api-key", "wrong", code=1)
    assert wrong_key.stderr == "thalamus: publish refused: the API key is missing or wrong (101)\n"
    unknown = cli.run("publish", "nowhere:x", "1", code=1)
    assert unknown.stderr == "thalamus: publish refused: unknown channel (102)\n"
    nowhere = cli.run("subscribe", "nowhere:x", code=1)
    assert nowhere.stderr.splitlines()[-1] == "thalamus: subscription to nowhere:x refused: unknown channel (102)"


def test_a_token_has_the_grants_that_are_asked_for(cli: Cli, stack: Stack) -> None:
    caps = [
        {"channels": ["private:a"], "match": "wildcard", "allow": ["publish"]},
        {"channels": ["private:*"], "match": "wildcard", "allow": ["history"]},
    ]
    options = ("--grant", "publish:private:a", "--grant", "history:private:*")
    secret = stack.data / "hs256.secret"
    for more in ((), ("--secret-file", str(secret))):
        token = cli.run("token", "--user", "ann", *options, *more).stdout.split()[-1]
        assert jwt.decode(token, options={"verify_signature": False})["caps"] == caps
        cli.run("token", "--user", "ann", "--grant", "fly:private:a", *more, code=2)
    refused = cli.run("token", "--user", "ann", "--channel", "private:a", *options, code=1)
    assert refused.stderr == "thalamus: auth says: a subscription token has no caps\n"


def test_a_user_is_made_changed_disabled_and_deleted(cli: Cli, tmp_path: Path) -> None:
    password, other = tmp_path / "password", tmp_path / "other"
    password.write_text("correct horse battery\n")
    other.write_text("Password1\n")
    name = f"user-{uuid.uuid4().hex[:8]}"
    made = cli.run("users", "create", name, "--password-file", str(password), "--display-name", "Ann").stdout.strip()
    assert cli.run("users", "get", name).stdout == f"{made}  {name}  Ann\n"
    changed = json.loads(cli.run("users", "update", name, "--custom", '{"a":1}', "--hidden", "--json").stdout)
    assert (changed["user"], changed["custom"], changed["hidden"], changed["version"]) == (made, {"a": 1}, True, 2)
    assert made in {json.loads(line)["user"] for line in cli.run("users", "list", "--json").stdout.splitlines()}
    assert "most common" in cli.run("users", "password", name, "--password-file", str(other), code=1).stderr
    changed = cli.run("users", "password", name, "--password-file", str(password))
    assert changed.stdout == f"changed the password of the user {made}\n"
    assert cli.run("users", "disable", name).stdout == f"disabled the user {made}\n"
    assert cli.run("users", "get", "--id", made).stdout.endswith("  disabled\n")
    assert cli.run("users", "enable", name).stdout == f"enabled the user {made}\n"
    assert cli.run("users", "delete", "--id", made).stdout == f"deleted the user {made}\n"
    assert "no such user (108)" in cli.run("users", "get", name, code=1).stderr
    assert cli.run("users", "create", "--user", f"urn:{name}", "--json").stdout
    invited = json.loads(cli.run("users", "invite", "--note", "for Bob", "--expires", "12h", "--json").stdout)
    assert invited["expires_at"] - invited["created_at"] == 12 * 3_600
    assert cli.run("users", "invite").stdout.startswith("thi_")
    listed = cli.run("users", "invites").stdout.splitlines()
    assert [line.split("  ")[::2] for line in listed if "for Bob" in line] == [[invited["invite"], "for Bob"]]
    assert cli.run("users", "uninvite", invited["invite"]).stdout == f"revoked the invite {invited['invite']}\n"
    assert "no such invite (108)" in cli.run("users", "uninvite", invited["invite"], code=1).stderr
    for wrong in (
        ("create",),
        ("create", name, "--user", "b"),
        ("update", name, "--custom", "{"),
        ("get",),
        ("delete", name, "--id", made),
    ):
        assert cli.run("users", *wrong, code=2).stderr


def test_ids_and_names_that_begin_with_a_hyphen_work(cli: Cli) -> None:
    user = f"-zcC{uuid.uuid4().hex[:8]}"  # as an auth of before made them, and other login servers may
    assert cli.run("users", "create", "--user", user).stdout == f"{user}\n"
    assert cli.run("users", "update", "--id", user, "--status", "here", "--json").stdout
    assert cli.run("users", "disable", "--id", user).stdout == f"disabled the user {user}\n"
    assert cli.run("users", "get", "--id", user).stdout == f"{user}  (another login server)  disabled\n"
    assert cli.run("users", "enable", "--id", user).stdout
    assert cli.run("connections", "--user", user).stdout == ""
    assert (
        jwt.decode(cli.run("token", "--user", user).stdout.splitlines()[-1], options={"verify_signature": False})["sub"]
        == user
    )
    assert cli.run("users", "delete", "--id", user).stdout == f"deleted the user {user}\n"
    for command in (("keys", "retire"), ("api-key", "revoke"), ("users", "uninvite"), ("users", "get")):
        assert "no such" in cli.run(*command, "--", user, code=1).stderr
