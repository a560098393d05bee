"""`thalamus subscribe`: prints what happens in channels until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from cli.errors import EXIT_OK, WrongUsage
from cli.options import PositionType, ServiceAddress, auth_options, find_auth, find_websocket, json_option, url_options
from cli.output import printable, remark, say, say_json
from cli.realtime.messages import Position, client_fields, publication_fields
from cli.realtime.protocol import (
    Connected,
    Event,
    Joined,
    Left,
    Message,
    Published,
    Refreshed,
    Subscribed,
    SubscribeRefused,
    Unsubscribed,
    WireClient,
)
from services.shared.version import VERSION

_USER = "dev"
_TTL_S = 3600


@click.command("subscribe")
@click.argument("channels", metavar="CHANNEL...", nargs=-1, required=True)
@click.option("--token", envvar="THALAMUS_TOKEN", show_envvar=True, help="Connection token [one is minted].")
@click.option("--user", help=f"Mint the token for this user [{_USER}].")
@click.option("--recover", type=PositionType(), help="Begin with what came after this place (one channel only).")
@url_options
@auth_options
@json_option
def command(
    channels: tuple[str, ...],
    token: str | None,
    user: str | None,
    recover: Position | None,
    url: str | None,
    data: Path,
    auth: str | None,
    service_token_file: Path | None,
    as_json: bool,
) -> int:
    """Print publications, joins and leaves of the CHANNELs until Ctrl-C.

    Reconnects after a lost connection and recovers what was missed; stderr says whether that succeeded.
    """
    if token is not None and user is not None:
        raise WrongUsage("--token says who the user is; leave out --user")
    if recover is not None and len(channels) > 1:
        raise WrongUsage("--recover is a place in one channel; name one channel")
    wire = WireClient(dict.fromkeys(channels, recover), token=token or "")
    address = find_websocket(data, url)
    new_token = None if token is not None else _minter(find_auth(data, auth, service_token_file), user or _USER)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(address, wire, new_token, as_json))
    return EXIT_OK


def _minter(auth: ServiceAddress, user: str) -> Callable[[], Awaitable[str]]:
    def mint() -> str:
        from cli.auth_rpc import AuthRpc  # slow to import

        with AuthRpc(auth.address, auth.service_token_file, auth.tls) as service:
            return service.mint(user, ttl_s=_TTL_S)

    return lambda: asyncio.to_thread(mint)


async def _follow(
    address: str, wire: WireClient, new_token: Callable[[], Awaitable[str]] | None, as_json: bool
) -> None:
    from cli.realtime.follow import Follower

    wire.version = VERSION
    if new_token is not None:
        wire.token = await new_token()
    show = _show_json if as_json else _show
    follower = Follower(address, wire, show=show, remark=remark, new_token=new_token)
    main = asyncio.ensure_future(follower.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await main


def _show(event: Event) -> None:
    match event:
        case Published(channel, publication):
            say(f"{printable(channel)} {publication}")
        case Joined(channel, info):
            say(f"{printable(channel)} + {info}")
        case Left(channel, info):
            say(f"{printable(channel)} - {info}")
        case Message(message):
            say(f"message {printable(bytes(message).decode('utf-8', 'replace'))}")
        case _:
            _remark_on(event)


def _show_json(event: Event) -> None:
    line: dict[str, Any]
    match event:
        case Published(channel, publication):
            line = {"type": "publication", "channel": channel} | publication_fields(publication)
        case Joined(channel, info):
            line = {"type": "join", "channel": channel, "info": client_fields(info)}
        case Left(channel, info):
            line = {"type": "leave", "channel": channel, "info": client_fields(info)}
        case Message(message):
            line = {"type": "message", "data": message}
        case _:
            _remark_on(event)
            return
    say_json(line)


def _remark_on(event: Event) -> None:
    """Print an event of the connection, rather than of a channel, to stderr."""
    match event:
        case Connected():
            remark(f"connected as client {printable(event.client)}")
        case Subscribed() if event.since is None:
            remark(f"subscribed to {event.channel}" + (f" at {event.position}" if event.position.epoch else ""))
        case Subscribed() if event.recovered:
            remark(f"recovered {event.channel} since {event.since}: {event.missed} missed")
        case Subscribed():
            remark(f"NOT recovered: {event.channel} has moved on from {event.since}; following from {event.position}")
        case SubscribeRefused():
            remark(f"subscription to {event.channel} refused: {event.error}")
        case Unsubscribed():
            remark(f"subscription to {event.channel} ended: {event.reason} ({event.code})")
        case Refreshed():
            remark("token refreshed")
