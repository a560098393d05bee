"""`thalamus token`: gets a token for a user from auth, or signs one here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cli.options import auth_options, data_option, find_auth, json_option, signing_options
from cli.output import remark, say, say_json
from cli.text import json_text
from services.shared.process.config import read_secret_file

_TTL_S = 3600
_MOST_TTL_S = (1 << 32) - 1


_OPERATIONS = ("subscribe", "publish", "history", "presence", "enter", "manage")


class Grant(click.ParamType[dict[str, object]]):
    """Click type of `OPERATION:CHANNEL`: an entry of the claim `caps`."""

    name = "operation:channel"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, object]:
        operation, _, channel = str(value).partition(":")
        if operation not in _OPERATIONS or not channel:
            self.fail(f"{value!r} is not OPERATION:CHANNEL, with one of {', '.join(_OPERATIONS)}", param, ctx)
        return grant_of(operation, channel)


@click.command("token")
@click.option("--user", required=True, help="Id of the user; empty is anonymous.")
@click.option("--channel", default="", help="Make a subscription token for this channel.")
@click.option(
    "--ttl",
    "ttl_s",
    type=click.IntRange(0, _MOST_TTL_S),
    default=_TTL_S,
    show_default=True,
    help="Seconds; 0: for ever.",
)
@click.option(
    "--grant",
    "grants",
    type=Grant(),
    multiple=True,
    metavar="OPERATION:CHANNEL",
    help="A grant in the token: subscribe:chat:lobby, or publish:team-7:* for a pattern; may be repeated.",
)
@click.option("--info", help="JSON that others see with the user.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    help="Sign with this HS256 secret (that of AUTH_HS256_SECRET_FILE) instead of asking auth.",
)
@signing_options
@data_option
@auth_options
@json_option
def command(
    user: str,
    channel: str,
    ttl_s: int,
    grants: tuple[dict[str, object], ...],
    info: str | None,
    secret_file: Path | None,
    issuer: str,
    audience: str,
    data: Path,
    auth: str | None,
    service_token_file: Path | None,
    as_json: bool,
) -> None:
    """Mint a connection token, or with --channel a subscription token.

    The last line of stdout is the token.
    """
    info_json = json_text(info, "--info") if info is not None else b""
    if secret_file is not None:
        secret = read_secret_file(secret_file, "--secret-file")
        token = sign(
            secret,
            user,
            channel=channel,
            ttl_s=ttl_s,
            info=info_json,
            caps=grants,
            issuer=issuer,
            audience=audience,
        )
    else:
        from cli.auth_rpc import AuthRpc  # slow to import

        found = find_auth(data, auth, service_token_file)
        with AuthRpc(found.address, found.service_token_file, found.tls) as service:
            caps = json.dumps(grants).encode() if grants else b""
            token = service.mint(user, channel=channel, ttl_s=ttl_s, info=info_json, caps=caps)
    if as_json:
        say_json({"token": token, "user": user, "channel": channel, "ttl_s": ttl_s})
        return
    what = f"subscription token of {user or 'anonymous'} for {channel}" if channel else f"connection token of {user}"
    remark(f"{what}, {f'valid for {ttl_s} s' if ttl_s else 'never expires'}")
    say(token)


def grant_of(operation: str, *channels: str) -> dict[str, object]:
    """Return an entry of the claim `caps`: an operation in channels or patterns."""
    return {"channels": list(channels), "match": "wildcard", "allow": [operation]}


def sign(
    secret: bytes,
    user: str,
    *,
    ttl_s: int,
    channel: str = "",
    info: bytes = b"",
    caps: Sequence[Mapping[str, object]] = (),
    issuer: str = "",
    audience: str = "",
) -> str:
    """Return a token that is signed here with an HS256 secret, without asking auth.

    With `channel` it is a subscription token, else a connection token. `ttl_s` 0: it never expires. `info` is JSON.
    `caps` are its grants (see `grant_of`).
    `issuer` and `audience` are what edges demand (`EDGE_TOKEN_ISSUER`, `EDGE_TOKEN_AUDIENCE`). Empty: not in the token.
    """
    import jwt
    import msgspec

    claims: dict[str, object] = {"sub": user, "iat": int(time.time())}
    if ttl_s:
        claims["exp"] = int(time.time()) + ttl_s
    if channel:
        claims["channel"] = channel
    if issuer:
        claims["iss"] = issuer
    if audience:
        claims["aud"] = audience
    if info:
        claims["info"] = msgspec.json.decode(info)
    if caps:
        claims["caps"] = list(caps)
    return jwt.encode(claims, secret, algorithm="HS256")
