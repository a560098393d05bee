"""`thalamus retention`: shows what is kept of channels, and for how long."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import data_option, find_persistence, json_option, persistence_options
from cli.output import printable, remark, say, say_json, when
from cli.redis_work import with_redis
from cli.service_rpc import ServiceRpc
from services.persistence.adapters.redis.retention_turn import last_swept
from services.persistence.domain.retention import Swept
from thalamus.persistence.v1 import persistence_pb2 as pb
from thalamus.persistence.v1.persistence_pb2_grpc import PersistenceServiceStub


@click.command("retention")
@click.argument("channels", nargs=-1, metavar="[CHANNEL]...")
@data_option
@persistence_options
@json_option
def command(
    channels: tuple[str, ...], data: Path, persistence: str | None, service_token_file: Path | None, as_json: bool
) -> None:
    """Show what is kept of channels, or what was removed last because it was too old.

    Without a channel it reads REDIS_URL, REDIS_PASSWORD_FILE and REDIS_PREFIX, or asks the Redis of the running stack.
    """
    if not channels:
        _tell_last(with_redis(data, last_swept), as_json)
        return
    where = find_persistence(data, persistence, service_token_file)
    with ServiceRpc("persistence", where.address, where.service_token_file, where.tls) as rpc:
        stub = PersistenceServiceStub(rpc.channel)
        for channel in channels:
            _tell(channel, rpc.call(stub.Kept, pb.KeptRequest(channel=channel)), as_json)


def _tell(channel: str, kept: pb.KeptResponse, as_json: bool) -> None:
    """Print what is kept of a channel."""
    if as_json:
        say_json(
            {
                "channel": channel,
                "retention_days": kept.days,
                "retention_messages": kept.messages,
                "removed": kept.removed,
                "top": kept.top,
                "oldest": kept.oldest_ms,
            }
        )
        return
    limits = [f"{kept.days} days"] * bool(kept.days) + [f"{kept.messages} publications"] * bool(kept.messages)
    has = f"{kept.removed + 1} to {kept.top}" if kept.top > kept.removed else "nothing"
    since = [f"since {when(kept.oldest_ms // 1_000)}"] * bool(kept.oldest_ms)
    say("  ".join([printable(channel), f"keeps {' and '.join(limits) or 'everything'}", f"has {has}", *since]))


def _tell_last(last: tuple[int, Swept] | None, as_json: bool) -> None:
    """Print what the last sweep did."""
    if last is None:
        remark("nothing was looked at yet: no namespace has retention, or persistence has just started")
        return
    at, swept = last
    if as_json:
        say_json({"at": at, **swept._asdict()})
        return
    say(f"{when(at)}  {swept.channels} channels  {swept.removed} publications removed  {swept.failed} channels failed")
