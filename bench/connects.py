"""`python -m bench.connects`: what a connect costs, by the algorithm of its token.

A connect is a TCP connection, the WebSocket handshake, the connect command and one subscription. All algorithms take
turns on one edge. With `--commit`, repeated, several commits take turns as well, each with a platform of its own. This
`bench` must fit the `cli` of those commits.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import click
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from bench.load.commands import Where
from bench.load.fleet import Fleet, LoadFailed
from bench.measure.proc import cpu_s
from bench.servers.platform import platform
from bench.servers.target import Target

ALGORITHMS = ("HS256", "EdDSA", "ES256")
_HERE = Path(__file__).resolve().parent
# `bench` of this checkout, `cli` and `services` of the one that is measured.
_IN_CHECKOUT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import bench; sys.path.pop(0); "
    "from bench.connects import main; main()"
)
_ISSUER = "bench"
_USERS = 16  # that sign in for tokens of auth; each token is used by several clients
_TTL_S = 3_600
_WARM_CLIENTS = 250
_AT_A_TIME = 50
_CHANNELS = [f"live:connects-{number}" for number in range(50)]
_KEYS_WITHIN_S = 10.0
_QUIET_S = 0.5


async def measure(algorithms: Sequence[str], *, clients: int, turns: int) -> dict[str, list[float]]:
    """Return µs of the edge's CPU for each connect, one figure per turn, by algorithm."""
    key = generate_private_key(SECP256R1())
    async with _key_server(key) as url, Fleet(1) as fleet:
        environment = {"EDGE_CONNECTIONS_PER_USER": "0", "AUTH_ATTEMPTS_PER_ADDRESS": "0"}
        if "ES256" in algorithms:
            environment["EDGE_JWKS_URLS"] = f"{_ISSUER}={url}"
        async with platform(edges=1, environment=environment) as target:
            places = {
                name: msgspec.structs.replace(target.where, tokens=_tokens(name, target, key)) for name in algorithms
            }
            for where in places.values():
                await _first(fleet, where)
            found: dict[str, list[float]] = {name: [] for name in algorithms}
            for _ in range(turns):
                for name, where in places.items():
                    found[name].append(await _turn(fleet, target, where, clients))
            return found


async def _turn(fleet: Fleet, target: Target, where: Where, clients: int) -> float:
    edge = next(pid for name, pid in target.pids().items() if name.startswith("edge"))
    before = cpu_s(edge)
    await fleet.connect(clients, where, _CHANNELS, at_a_time=_AT_A_TIME)
    used = cpu_s(edge) - before
    await fleet.close()
    await asyncio.sleep(_QUIET_S)
    return used * 1e6 / clients


async def _first(fleet: Fleet, where: Where) -> None:
    """Connect once, so that nothing that is loaded late is counted.

    Repeats it while the edge does not have the issuer's keys yet.
    """
    deadline = time.monotonic() + _KEYS_WITHIN_S
    while True:
        try:
            await fleet.connect(_WARM_CLIENTS, where, _CHANNELS, at_a_time=_AT_A_TIME)
        except LoadFailed:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_QUIET_S)
        else:
            await fleet.close()
            return


def _tokens(algorithm: str, target: Target, key: EllipticCurvePrivateKey) -> list[str]:
    """Return tokens of this algorithm; none if clients sign them with the secret."""
    if algorithm == "HS256":
        return []
    if algorithm == "EdDSA":
        return [_registered(target, f"user{number}") for number in range(_USERS)]
    body = {"iss": _ISSUER, "iat": int(time.time()), "exp": int(time.time()) + _TTL_S}
    return [
        jwt.encode({**body, "sub": f"user-{number}"}, key, algorithm="ES256", headers={"kid": "bench"})
        for number in range(_USERS)
    ]


def _registered(target: Target, name: str) -> str:
    body = json.dumps({"username": name, "password": "a password"}).encode()
    url = f"http://{urlsplit(target.where.urls[0]).netloc}/auth/register"
    with urllib.request.urlopen(urllib.request.Request(url, body)) as response:
        token = json.load(response)["result"]["access_token"]
    return str(token)


@asynccontextmanager
async def _key_server(key: EllipticCurvePrivateKey) -> AsyncIterator[str]:
    """Serve the JWK Set of the key on the loopback interface."""
    public = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())), "kid": "bench", "alg": "ES256"}
    body = json.dumps({"keys": [public]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        writer.write(f"{head}\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"


def _measure_checkout(checkout: Path, algorithms: Sequence[str], clients: int, turns: int) -> dict[str, list[float]]:
    chosen = [word for name in algorithms for word in ("--algorithm", name)]
    size = ["--clients", str(clients), "--turns", str(turns)]
    said = subprocess.run(
        [sys.executable, "-c", _IN_CHECKOUT, str(_HERE.parent), "--json", *size, *chosen],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return msgspec.json.decode(said, type=dict[str, list[float]])


def _git(*words: str | Path) -> None:
    subprocess.run(["git", *words], cwd=_HERE, check=True, capture_output=True)


def in_turns(
    commits: Sequence[str], algorithms: Sequence[str], *, clients: int, turns: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Measure each commit in each round; return all figures by commit and algorithm."""
    found: dict[str, dict[str, list[float]]] = {commit: {name: [] for name in algorithms} for commit in commits}
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {commit: Path(folder) / str(place) for place, commit in enumerate(commits)}
        try:
            for commit, checkout in checkouts.items():
                _git("worktree", "add", "--detach", checkout, commit)
            for _ in range(rounds):
                for commit, checkout in checkouts.items():
                    for name, figures in _measure_checkout(checkout, algorithms, clients, turns).items():
                        found[commit][name] += figures
        finally:
            for checkout in checkouts.values():
                remove = ["git", "worktree", "remove", "--force", str(checkout)]
                subprocess.run(remove, cwd=_HERE, capture_output=True, check=False)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return a Markdown table: medians, spans of all turns, ratios to the first row."""
    names = list(next(iter(found.values())))
    first = next(iter(found.values()))
    lines = ["| | " + " | ".join(f"{name}, µs" for name in names) + " |", "|---|" + "---:|" * len(names)]
    for title, figures in found.items():
        cells = [
            f"{median(figures[name]):.0f} ({min(figures[name]):.0f} to {max(figures[name]):.0f}), "
            f"× {median(figures[name]) / median(first[name]):.3f}"
            for name in names
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--algorithm", "algorithms", multiple=True, type=click.Choice(ALGORITHMS), default=ALGORITHMS)
@click.option("--clients", type=click.IntRange(1), default=1_000, show_default=True, help="Connects of one turn.")
@click.option(
    "--turns", type=click.IntRange(1), default=5, show_default=True, help="Of each algorithm, in alternation."
)
@click.option("--commit", "commits", multiple=True, help="Measure this commit; several take turns.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of the commits.")
@click.option("--json", "as_json", is_flag=True)
def main(
    algorithms: Sequence[str], clients: int, turns: int, commits: Sequence[str], rounds: int, as_json: bool
) -> None:
    """Measure the CPU of an edge for each connect, by algorithm."""
    if commits:
        click.echo(table(in_turns(commits, algorithms, clients=clients, turns=turns, rounds=rounds)))
        return
    found = asyncio.run(measure(algorithms, clients=clients, turns=turns))
    click.echo(msgspec.json.encode(found) if as_json else table({"here": found}))


if __name__ == "__main__":
    main()
