"""`python -m bench.connects`: what a connect costs, by the algorithm of its token.

A connect is a TCP connection, the WebSocket handshake, the connect command and one subscription. All algorithms take
turns on one edge. With `--ends`, what a connect and its end cost the edge, presence and Redis is measured, too. With
`--commit`, repeated, several commits take turns as well, each with a platform of its own. This `bench` must fit
the `cli` of those commits. A commit may have settings: `--commit "COMMIT EDGE_RESUME_S=0 ttl=140"`, where `ttl` is the
lifetime of HS256 tokens in seconds.
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
from collections.abc import AsyncIterator, Mapping, Sequence
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
from bench.load.frames import TOKEN_TTL_S
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
_WITH_ENDS = {"edge": "edge-1", "presence": "presence", "Redis": "redis"}  # name in the table → process
_CONNECT = "connect"


async def measure(
    algorithms: Sequence[str], *, clients: int, turns: int, settings: Mapping[str, str], ttl_s: int, ends: bool
) -> dict[str, list[float]]:
    """Return µs of the edge's CPU for each connect, one figure per turn, by algorithm.

    With `ends` also µs of each process for a connect and its end, by algorithm and process.
    """
    key = generate_private_key(SECP256R1())
    async with _key_server(key) as url, Fleet(1) as fleet:
        environment = {"EDGE_CONNECTIONS_PER_USER": "0", "AUTH_ATTEMPTS_PER_ADDRESS": "0", **settings}
        if "ES256" in algorithms:
            environment["EDGE_JWKS_URLS"] = f"{_ISSUER}={url}"
        async with platform(edges=1, environment=environment) as target:
            places = {
                name: msgspec.structs.replace(target.where, tokens=_tokens(name, target, key), token_ttl_s=ttl_s)
                for name in algorithms
            }
            for where in places.values():
                await _first(fleet, where)
            found: dict[str, list[float]] = {}
            for _ in range(turns):
                for name, where in places.items():
                    for what, figure in (await _turn(fleet, target, where, clients)).items():
                        if what == _CONNECT:
                            found.setdefault(name, []).append(figure)
                        elif ends:
                            found.setdefault(f"{name}, with its end: {what}", []).append(figure)
            return found


async def _turn(fleet: Fleet, target: Target, where: Where, clients: int) -> dict[str, float]:
    """Return µs of CPU per client, by what they are for.

    Of the edge for a connect, and of each process for a connect and its end.
    """
    pids = target.pids()
    before = {what: cpu_s(pids[name]) for what, name in _WITH_ENDS.items()}
    await fleet.connect(clients, where, _CHANNELS, at_a_time=_AT_A_TIME)
    used = {_CONNECT: cpu_s(pids["edge-1"]) - before["edge"]}
    await fleet.close()
    await asyncio.sleep(_QUIET_S)
    used |= {what: cpu_s(pids[name]) - before[what] for what, name in _WITH_ENDS.items()}
    return {what: 1e6 * seconds / clients for what, seconds in used.items()}


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


def _measure_checkout(
    checkout: Path, algorithms: Sequence[str], clients: int, turns: int, settings: Sequence[str], ends: bool
) -> dict[str, list[float]]:
    chosen = [word for name in algorithms for word in ("--algorithm", name)]
    chosen += [word for setting in settings for word in ("--set", setting)] + ["--ends"] * ends
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
    commits: Sequence[str], algorithms: Sequence[str], *, clients: int, turns: int, rounds: int, ends: bool
) -> dict[str, dict[str, list[float]]]:
    """Measure each commit in each round; return all figures by commit and algorithm."""
    found: dict[str, dict[str, list[float]]] = {commit: {} for commit in commits}
    with tempfile.TemporaryDirectory() as folder:
        checkouts = {commit: Path(folder) / str(place) for place, commit in enumerate(commits)}
        try:
            for commit, checkout in checkouts.items():
                _git("worktree", "add", "--detach", checkout, commit.split()[0])
            for _ in range(rounds):
                for commit, checkout in checkouts.items():
                    settings = commit.split()[1:]
                    figures = _measure_checkout(checkout, algorithms, clients, turns, settings, ends)
                    for name, of_turns in figures.items():
                        found[commit].setdefault(name, []).extend(of_turns)
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
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the platform, or `ttl`.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of the commits.")
@click.option("--ends", is_flag=True, help="Also the edge, presence and Redis, for a connect and its end.")
@click.option("--json", "as_json", is_flag=True)
def main(
    algorithms: Sequence[str],
    clients: int,
    turns: int,
    commits: Sequence[str],
    settings: Sequence[str],
    rounds: int,
    ends: bool,
    as_json: bool,
) -> None:
    """Measure the CPU of an edge for each connect, by algorithm."""
    if commits:
        click.echo(table(in_turns(commits, algorithms, clients=clients, turns=turns, rounds=rounds, ends=ends)))
        return
    chosen = dict(setting.split("=", 1) for setting in settings)
    ttl_s = int(chosen.pop("ttl", TOKEN_TTL_S))
    found = asyncio.run(measure(algorithms, clients=clients, turns=turns, settings=chosen, ttl_s=ttl_s, ends=ends))
    click.echo(msgspec.json.encode(found) if as_json else table({"here": found}))


if __name__ == "__main__":
    main()
