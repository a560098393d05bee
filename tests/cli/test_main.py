"""Errors of the command line.

One line on stderr, and the exit code that says what kind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import run

HERE = Path(__file__).resolve().parents[2]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("THALAMUS_") or name in ("EDGES", "CHANNELS_FILE", "SERVICE_TOKEN_FILE"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_version_and_help_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("thalamus 0.")
    assert run(["--help"]) == 0
    assert "api-key" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["dev", "token", "api-key", "keys", "publish", "subscribe", "history", "presence", "connections"]
)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: thalamus {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frobnicate"], "No such command 'frobnicate' (see thalamus --help)"),
        (["publish", "chat:lobby"], "Missing argument 'DATA' (see thalamus publish --help)"),
        (["publish", "chat:lobby", "hello", "--api-key", "k"], "DATA is not JSON"),
        (["publish", "chat:lobby", "1"], "no API key: give --api-key or THALAMUS_API_KEY, or start `thalamus dev`"),
        (["history", "x", "--since", "abc", "--api-key", "k"], "'abc' is not OFFSET:EPOCH, such as 12:khFzNyMu"),
        (["history", "x", "--url", "ftp://x", "--api-key", "k"], "--url 'ftp://x' is no address such as"),
        (["history", "x", "--url", "http://x:y", "--api-key", "k"], "--url 'http://x:y' is no address such as"),
        (["subscribe", "a", "--token", "t", "--user", "u"], "leave out --user"),
        (["subscribe", "a", "b", "--recover", "1:x", "--token", "t"], "name one channel"),
        (["token", "--user", "u", "--info", "{"], "--info is not JSON"),
        (["token", "--user", "u", "--secret-file", "none"], "--secret-file: can't read none: No such file"),
        (["token", "--user", "u", "--ttl", "-5"], "-5 is not in the range"),
        (["api-key", "create", "x", "--service-token-file", "none"], "can't read none: No such file"),
        (["dev", "--edges", "0"], "0 is not in the range"),
        (["dev", "--config", "none.toml"], "namespace file none.toml does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    (line,) = lines(capsys)
    assert line.startswith("thalamus: ")
    assert complaint in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["publish", "chat:lobby", "1", "--url", "http://127.0.0.1:{port}", "--api-key", "k"],
        ["history", "chat:lobby", "--url", "http://127.0.0.1:{port}", "--api-key", "k"],
        ["presence", "chat:lobby", "--url", "http://127.0.0.1:{port}", "--api-key", "k"],
        ["connections", "--user", "u", "--url", "http://127.0.0.1:{port}", "--api-key", "k"],
        ["subscribe", "chat:lobby", "--url", "ws://127.0.0.1:{port}", "--token", "t"],
        ["token", "--user", "u", "--auth", "127.0.0.1:{port}"],
        ["api-key", "list", "--auth", "127.0.0.1:{port}"],
    ],
)
def test_nobody_there_is_one_line_and_exit_code_3(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        port = unused.getsockname()[1]
        assert run([part.format(port=port) for part in arguments]) == 3
    (line,) = lines(capsys)
    assert f"127.0.0.1:{port}" in line
    assert "is `thalamus dev` running?" in line


def test_a_wrong_variable_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGES", "many")
    assert run(["dev"]) == 2
    (line,) = lines(capsys)
    assert "'many'" in line
    assert "also set by EDGES" in line


def dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "dev", *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_dev_names_a_port_in_use_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = dev("--data", str(tmp_path / "d"), EDGE_PORT=str(port), AUTH_GRPC_PORT="0", EDGE_INTERNAL_PORT="0")
    assert done.returncode == 2
    assert f"port {port} (edge-1, EDGE_PORT) is in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "d" / "dev.json").exists()
    assert not list((tmp_path / "d" / "logs").iterdir())


def test_workers_are_refused_where_their_ports_would_be_those_of_other_edges() -> None:
    done = dev(EDGE_WORKERS="2")
    assert done.returncode == 2
    assert done.stderr == (
        "thalamus: EDGE_WORKERS is not for `thalamus dev`: EDGES=2 starts two edges, each on a port of its own\n"
    )


def test_dev_refuses_a_setting_that_it_would_ignore_before_it_makes_anything(tmp_path: Path) -> None:
    done = dev("--data", str(tmp_path / "d"), EDGE_PINGINTERVAL_S="5")
    assert done.returncode == 2
    assert done.stderr == "thalamus: there is no setting EDGE_PINGINTERVAL_S (is EDGE_PING_INTERVAL_S meant?)\n"
    assert not (tmp_path / "d").exists()


def test_dev_names_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    done = dev(THALAMUS_DATA=str(tmp_path / "d"))
    assert done.returncode == 2
    assert f"data directory {tmp_path}/d can't be made" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_dev_names_a_wrong_option_of_the_namespace_file(tmp_path: Path) -> None:
    (tmp_path / "channels.toml").write_text("[default]\nfrobnicate = 1\n")
    done = dev("--data", str(tmp_path / "d"), CHANNELS_FILE=str(tmp_path / "channels.toml"))
    assert done.returncode == 2
    assert "frobnicate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_token_of_a_secret_file_is_the_last_line_of_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import jwt

    secret = "s" * 32
    (tmp_path / "secret").write_text(f"{secret}\n")
    arguments = ["--user", "alice", "--channel", "room", "--ttl", "60", "--info", '{"name":"A"}']
    assert run(["token", "--secret-file", str(tmp_path / "secret"), *arguments]) == 0
    claims = jwt.decode(capsys.readouterr().out.splitlines()[-1], secret, algorithms=["HS256"])
    assert claims["sub"] == "alice"
    assert claims["channel"] == "room"
    assert claims["info"] == {"name": "A"}
    assert claims["exp"] - claims["iat"] == 60


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_token_of_a_secret_file_is_good_where_issuer_and_audience_are_demanded(
    by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.edge.domain.access.keyring import KeyRing
    from services.edge.domain.access.tokens import TokenInvalid, TokenVerifier

    secret = "s" * 32
    (tmp_path / "secret").write_text(f"{secret}\n")
    keyring = KeyRing()
    keyring.set_secrets(secret.encode())
    edge = TokenVerifier(keyring, audience="edges", issuer="https://us")

    def token(*options: str) -> str:
        assert run(["token", "--user", "alice", "--secret-file", str(tmp_path / "secret"), *options]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    for name in ("EDGE_TOKEN_ISSUER", "EDGE_TOKEN_AUDIENCE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TokenInvalid):
        edge.connection(token(), 0.0)
    options = ["--issuer", "https://us", "--audience", "edges"]
    if by == "environment":
        monkeypatch.setenv("EDGE_TOKEN_ISSUER", "https://us")
        monkeypatch.setenv("EDGE_TOKEN_AUDIENCE", "edges")
        options = []
    assert edge.connection(token(*options), 0.0).user == "alice"


def test_an_interrupt_is_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "publish", "x", "-", "--api-key", "k"],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)  # it reads stdin by now
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == ""
    finally:
        process.kill()
        process.communicate()


def test_an_output_that_takes_nothing_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "--help"], cwd=HERE, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"thalamus: output: No space left on device\n")
