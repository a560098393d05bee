"""`python -m bench.presence`: what presence costs Redis.

Memory of a member and of a user's connection; pages of a large roster; a join storm; commands of members who do
nothing, on two edges. The parts of presence and of edges that talk to each other run in this process, over gRPC and on
a Redis of their own.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median

import click
import redis.asyncio

from services.edge.adapters.presence_client import PresenceClient
from services.edge.domain.model import ClientInfo
from services.presence.adapters.names import order_key, roster_key
from services.presence.adapters.redis_roster import SWEEP_S, RedisRoster
from services.presence.domain.ports import Change, Enter, Lease, connections_of
from services.presence.domain.sweeper import sweep
from services.presence.service import PresenceServicer
from services.shared.namespaces import ChannelEvent
from services.shared.process.cancellation import end_task
from services.shared.redis.binary import find_redis_server
from services.shared.redis.client import redis_client
from services.shared.redis.pipeline import RedisPipeline
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import start_grpc_server
from thalamus.common.v1 import common_pb2
from thalamus.presence.v1 import presence_pb2_grpc as rpc

_LEASE = Lease("bench", 1)
_LEASE_S = 12.0
_IDLE_S = 20.0


async def measure(members: int, clients: int) -> dict[str, str]:
    """Return the figures, by what they measure."""
    figures: dict[str, str] = {}
    for part, count in ((_large, members), (_idle, clients)):
        async with _redis() as url:
            conn, pipeline = redis_client(url), RedisPipeline(url)
            figures |= await part(conn, RedisRoster(pipeline), count)
            await pipeline.aclose()
            await conn.aclose()
    return figures


async def fill(url: str, channel: str, members: int) -> None:
    """Put members of an edge of its own on the roster of a channel, for an hour."""
    pipeline = RedisPipeline(url)
    roster = RedisRoster(pipeline)
    await roster.renew(_LEASE, 3_600.0, held=False)
    await _enter(roster, [_entering(channel, number) for number in range(members)])
    await pipeline.aclose()


async def _large(conn: redis.asyncio.Redis, roster: RedisRoster, members: int) -> dict[str, str]:
    """One roster with all members: its memory, and its pages."""
    figures = {}
    name = "chat:large"
    await roster.renew(_LEASE, 3_600.0, held=False)
    before = await _info(conn, "used_memory")
    await _enter(roster, [_entering(name, number) for number in range(members)])
    figures["memory of a member, bytes"] = f"{(await _info(conn, 'used_memory') - before) / members:,.0f}"
    before = await _info(conn, "used_memory")
    await _enter(roster, [_entering(connections_of(f"user-{number}"), number) for number in range(members)])
    figures["memory of a user's connection, bytes"] = f"{(await _info(conn, 'used_memory') - before) / members:,.0f}"
    figures["a page of 1,000, ms: median, longest"] = await _pages(conn, roster, name, members)
    await conn.delete(order_key(name))
    started = time.perf_counter()
    await roster.page(name, "", 1_000)
    figures["the first page behind an update from an earlier version, ms"] = (
        f"{1e3 * (time.perf_counter() - started):,.0f}"
    )
    assert await conn.zcard(order_key(name)) == await conn.hlen(roster_key(name)) == members
    return figures


async def _pages(conn: redis.asyncio.Redis, roster: RedisRoster, name: str, members: int) -> str:
    took, after, seen = list[float](), "", 0
    spent = await _cpu_s(conn)
    while True:
        started = time.perf_counter()
        page = await roster.page(name, after, 1_000)
        took.append(1e3 * (time.perf_counter() - started))
        seen, after = seen + len(page.members), page.after
        if not after:
            break
    assert seen == members
    cpu_ms = 1e3 * (await _cpu_s(conn) - spent) / len(took)
    return f"{median(took):.1f}, {max(took):.1f}; CPU of Redis {cpu_ms:.1f}"


async def _idle(conn: redis.asyncio.Redis, roster: RedisRoster, clients: int) -> dict[str, str]:
    """Two edges whose clients come at once to one channel, and then do nothing."""
    servicer = PresenceServicer(roster, _LEASE_S)
    server = await start_grpc_server(
        lambda made: rpc.add_PresenceServiceServicer_to_server(servicer, made),
        host="127.0.0.1",
        port=0,
        service_token=b"bench",
        service="presence",
    )
    sweeping = asyncio.create_task(_sweep(roster))
    edges = []
    for number in range(2):
        replicas = Replicas(f"127.0.0.1:{server.port}", service="edge", service_token=b"bench")
        await replicas.start()
        edges.append((PresenceClient(replicas, f"edge-{number}"), replicas))
        await edges[-1][0].start()
    commands, started = await _info(conn, "total_commands_processed"), time.perf_counter()
    for number in range(clients):
        who = _who(number)
        edge = edges[number % 2][0]
        edge.enter("chat:idle", who, owner=None, announce=True, grace_s=10.0, events=frozenset(ChannelEvent))
        edge.online(who.user, who.client, since_ms=0, grace_s=10.0, events=True)
    while await conn.hlen(roster_key("chat:idle")) < clients:
        await asyncio.sleep(0.05)
    took = time.perf_counter() - started
    figures = {"until all were on the roster, s": f"{took:.1f}"}
    await asyncio.sleep(2.0)  # also the connections of users
    storm = await _info(conn, "total_commands_processed") - commands
    figures["commands per client that came"] = f"{storm / clients:.1f}"
    commands, cpu = await _info(conn, "total_commands_processed"), await _cpu_s(conn)
    await asyncio.sleep(_IDLE_S)
    figures["commands per second, when they do nothing"] = (
        f"{(await _info(conn, 'total_commands_processed') - commands) / _IDLE_S:.1f}"
    )
    figures["CPU of Redis meanwhile, % of a core"] = f"{100 * (await _cpu_s(conn) - cpu) / _IDLE_S:.2f}"
    for client, replicas in edges:
        await client.close(0.1)
        await replicas.close()
    await end_task(sweeping)
    await server.stop(0.0)
    return figures


async def _sweep(roster: RedisRoster) -> None:
    while True:
        await sweep(roster)
        await asyncio.sleep(SWEEP_S)


def _who(number: int) -> ClientInfo:
    client = str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128))
    return ClientInfo(f"user-{number}", client, b'{"name":"User %d"}' % number)


def _entering(roster: str, number: int) -> Enter:
    who = _who(number)
    info = common_pb2.ClientInfo(user=who.user, client=who.client, conn_info=who.conn_info).SerializeToString()
    return Enter(roster, who.client, who.user, info, False, 10.0)


async def _enter(roster: RedisRoster, changes: list[Change]) -> None:
    for at in range(0, len(changes), 256):
        await roster.change(_LEASE, changes[at : at + 256])


async def _info(conn: redis.asyncio.Redis, name: str) -> int:
    return int((await conn.info())[name])


async def _cpu_s(conn: redis.asyncio.Redis) -> float:
    said = await conn.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


@asynccontextmanager
async def _redis() -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="thalamus-bench-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        server = await asyncio.create_subprocess_exec(find_redis_server(), *options, stdout=asyncio.subprocess.DEVNULL)
        url = f"redis://127.0.0.1:{port}/0"
        try:
            await _until_up(url)
            yield url
        finally:
            server.kill()
            await server.wait()


async def _until_up(url: str) -> None:
    conn = redis_client(url)
    for _ in range(200):
        try:
            await conn.ping()
            break
        except redis.ConnectionError:
            await asyncio.sleep(0.05)
    await conn.aclose()


@click.command()
@click.option("--members", default=100_000, show_default=True, help="members of the large roster")
@click.option("--clients", default=5_000, show_default=True, help="clients of two edges that come and do nothing")
def main(members: int, clients: int) -> None:
    """Print a table of figures."""
    echo: Callable[[str], None] = click.echo
    echo("| | |\n|---|---|")
    for what, figure in asyncio.run(measure(members, clients)).items():
        echo(f"| {what} | {figure} |")


if __name__ == "__main__":
    main()
