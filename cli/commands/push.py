"""`thalamus push`: lists, replays and drops notifications that were given up."""

from __future__ import annotations

import base64
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from cli.dead_letters import change_dead, counted, dead_of
from cli.errors import WrongUsage
from cli.options import data_option, json_option
from cli.output import printable, remark, say, say_json, when
from cli.redis_work import with_redis
from services.persistence.notifier.letter import FAMILY, errand_of
from services.persistence.webhooks.letters import Letter, Letters, known_endpoints
from services.shared.redis.pipeline import RedisPipeline

_ways = click.argument("way")
_ids = click.argument("ids", nargs=-1, metavar="[ID]...")
_all = click.option("--all", "every", is_flag=True, help="All dead letters of the way out.")


@click.group("push")
def command() -> None:
    """List, replay and drop notifications that were not taken.

    Ways out are webpush, fcm, apns and webhook. Reads REDIS_URL, REDIS_PASSWORD_FILE and REDIS_PREFIX, or asks the
    Redis of the running stack.
    """


@command.command("list")
@data_option
@json_option
def list_(data: Path, as_json: bool) -> None:
    """List dead letters, the oldest of each way out first."""

    async def read(redis: RedisPipeline) -> list[tuple[str, Letter, int]]:
        return await dead_of(redis, await known_endpoints(redis, FAMILY), FAMILY)

    found = with_redis(data, read)
    for way, letter, ms in found:
        errand = errand_of(letter)
        told = {"way": way, "id": letter.id, "user": errand.user, "channel": errand.channel, "offset": errand.offset}
        if as_json:
            say_json({**told, "tries": letter.tries, "last_try": ms, "error": letter.error})
        else:
            place = f"{errand.channel}/{errand.offset}"
            parts = (way, letter.id, printable(errand.user), place, when(ms // 1000), printable(letter.error))
            say("  ".join(parts))
    remark(counted(len(found), "dead letter"))


@command.command("replay")
@_ways
@_ids
@_all
@data_option
@json_option
def replay(way: str, ids: tuple[str, ...], every: bool, data: Path, as_json: bool) -> None:
    """Send dead letters of WAY again; what is not wanted any more is not sent."""
    change_dead("way", way, FAMILY, ids, every, data, as_json, "replayed", Letters.revive)


@command.command("drop")
@_ways
@_ids
@_all
@data_option
@json_option
def drop(way: str, ids: tuple[str, ...], every: bool, data: Path, as_json: bool) -> None:
    """Forget dead letters of WAY."""
    change_dead("way", way, FAMILY, ids, every, data, as_json, "dropped", Letters.drop)


@command.command("key")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def key(file: Path) -> None:
    """Print the public half of the key in FILE, which pages of Web Push need."""
    try:
        private = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise WrongUsage(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError):
        raise WrongUsage(f"{file} is no private key in PEM") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != ec.SECP256R1.name:
        raise WrongUsage(f"{file} is no key of P-256")
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    say(base64.urlsafe_b64encode(point).rstrip(b"=").decode())
