"""`thalamus verify`: checks that a stack delivers what it acknowledges."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from cli.commands.token import grant_of, sign
from cli.errors import Refused, Unreachable, WrongUsage
from cli.options import (
    ServiceAddress,
    api_options,
    auth_options,
    find_api_key,
    find_auth,
    find_url,
    find_websocket,
    signing_options,
)
from cli.output import remark, say, say_json
from cli.running import find_running
from services.shared.process.config import read_secret_file

if TYPE_CHECKING:
    from verify.plan import Plan
    from verify.target import Target

_TOKEN_TTL_S = 86_400


@click.command("verify")
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="How long to publish.")
@click.option("--clients", type=click.IntRange(1, 15_000), default=30, show_default=True, help="Subscribers.")
@click.option("--publishers", type=click.IntRange(1, 1_000), default=6, show_default=True, help="Clients that publish.")
@click.option("--rate", type=click.FloatRange(0.1), default=20.0, show_default=True, help="Publications a second.")
@click.option(
    "--drop-every",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Seconds a client stays; 0: for ever.",
)
@click.option("--stored", type=click.IntRange(0), default=2, show_default=True, help="Channels with a durable log.")
@click.option("--hot", type=click.IntRange(0), default=1, show_default=True, help="Channels with a log in Redis.")
@click.option("--stored-namespace", default="chat", show_default=True, help="Where the former are.")
@click.option("--hot-namespace", default="live", show_default=True, help="Where the latter are.")
@click.option("--seed", type=int, help="Of a run to repeat [a new one, printed].")
@click.option(
    "--allow-hot-gaps",
    is_flag=True,
    help="A gap notification in a hot channel is no failure: Redis may come back empty.",
)
@click.option("--history", type=click.Path(path_type=Path), help="Keep the recorded history in this file.")
@click.option("--judge", "judged", type=click.Path(path_type=Path, exists=True), help="Judge a kept one, run nothing.")
@click.option("--edge", "edges", multiple=True, help="More edges to spread over, besides --url.")
@click.option("--secret-file", type=click.Path(path_type=Path), help="Sign tokens with this HS256 secret.")
@signing_options
@auth_options
@api_options
def command(history: Path | None, judged: Path | None, as_json: bool, **options: Any) -> int:
    """Publish and subscribe for a while, then check the deliveries.

    Subscribers disconnect, come back and recover meanwhile. Then the recorded history is judged: whether anything was
    lost, delivered twice or out of order. You may break the stack meanwhile as you like.

    Prints a page in Markdown, or with --json one object with the same figures; progress goes to stderr. Exit code 0: no
    findings. Subscribers and publishers are users verify-s0, verify-p0, … on channels that nobody else uses; their
    messages stay in the store.
    """
    from verify.check import conclude  # slow to import

    with tempfile.TemporaryDirectory() as scratch:
        path = judged or history or Path(scratch) / "history.jsonl"
        where = f"the history in {judged}" if judged is not None else _run(path, **options)
        hot = f"{options['hot_namespace']}:" if options["allow_hot_gaps"] else None
        try:
            outcome = conclude(
                path, where=where, gap_allowed=lambda channel: hot is not None and channel.startswith(hot)
            )
        except msgspec.MsgspecError as error:
            raise Refused(f"{path} is no recorded history: {error}") from error
    verdict = outcome.verdict
    if as_json:
        say_json(outcome.as_object())
    else:
        say(outcome.page)
    if not verdict.passed:
        raise Refused(f"{sum(verdict.counts.values())} findings")
    return 0


def _run(path: Path, **options: Any) -> str:
    """Run the load and write its history to `path`; return the addresses used."""
    from verify.drive import Unreachable as NobodyGotIn
    from verify.drive import drive
    from verify.plan import Load, make_plan
    from verify.progress import stderr

    if options["stored"] + options["hot"] == 0:
        raise WrongUsage("--stored and --hot: at least one channel")
    seed = random.SystemRandom().randrange(1_000_000) if options["seed"] is None else options["seed"]
    run = f"verify-{random.SystemRandom().randrange(1 << 32):08x}"
    stored = [f"{options['stored_namespace']}:{run}-{number}" for number in range(options["stored"])]
    hot = [f"{options['hot_namespace']}:{run}-{number}" for number in range(options["hot"])]
    load = Load(
        seed=seed,
        duration_s=options["seconds"],
        clients=options["clients"],
        channels=(*stored, *hot),
        publishers=options["publishers"],
        rate_per_s=options["rate"],
        drop_every_s=options["drop_every"],
    )
    plan = make_plan(load)
    target = _target(plan, **options)
    what = f"{load.rate_per_s:g} publications/s"
    remark(f"seed {seed}: {load.duration_s:g} s, then until everything has settled")
    try:
        asyncio.run(drive(plan, target, path, what=what, stored=stored, console=stderr()))
    except NobodyGotIn as error:
        raise Unreachable(str(error)) from error
    return ", ".join(target.websockets)


def _target(plan: Plan, *, url: str | None, edges: Sequence[str], data: Path, **options: Any) -> Target:
    """Return the target: given addresses, or every edge of the running stack."""
    from verify.drive import names
    from verify.target import Target

    running = find_running(data)
    given: list[str | None] = [one for one in (url, *edges) if one is not None]
    if not given and running is not None:
        given = [edge.http for edge in running.edges]
    found = find_auth(data, options["auth"], options["service_token_file"])
    claims = {"issuer": options["issuer"], "audience": options["audience"]}
    grant = grant_of("subscribe", *plan.channels)  # where the namespace asks for one
    tokens = _tokens(names(plan), options["secret_file"], claims, found, grant)
    return Target(
        websockets=tuple(find_websocket(data, one) for one in given or [None]),
        https=tuple(find_url(data, one) for one in given or [None]),
        api_key=find_api_key(data, options["api_key"]),
        token=tokens.__getitem__,
    )


def _tokens(
    users: Sequence[str],
    secret_file: Path | None,
    claims: dict[str, str],
    auth: ServiceAddress,
    grant: dict[str, object],
) -> dict[str, str]:
    """Return the tokens of all users, made before the run so that it needs no auth.

    `claims`: issuer and audience of tokens that are signed here. `grant`: what all of them grant.
    """
    if secret_file is not None:
        secret = read_secret_file(secret_file, "--secret-file")
        issuer, audience = claims["issuer"], claims["audience"]
        return {
            user: sign(secret, f"verify-{user}", ttl_s=_TOKEN_TTL_S, caps=[grant], issuer=issuer, audience=audience)
            for user in users
        }
    from cli.auth_rpc import AuthRpc

    with AuthRpc(auth.address, auth.service_token_file, auth.tls) as service:
        caps = json.dumps([grant]).encode()
        return {user: service.mint(f"verify-{user}", ttl_s=_TOKEN_TTL_S, caps=caps) for user in users}
