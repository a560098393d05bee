"""`thalamus api-key`: API keys, by which backends use the HTTP API."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cli.auth_rpc import AuthRpc
from cli.options import Duration, auth_options, data_option, find_auth, json_option
from cli.output import printable, remark, say, say_json, when


@click.group("api-key")
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="SCOPE",
    help="What it may do: publish, or publish:chat for one namespace; may be repeated [everything, and a warning].",
)
@click.option("--expires", type=Duration(), default=0, metavar="TIME", help="How long it is good: 90d, 12h [for ever].")
@data_option
@auth_options
@json_option
def create(
    name: str,
    scopes: tuple[str, ...],
    expires: int,
    data: Path,
    auth: str | None,
    service_token_file: Path | None,
    as_json: bool,
) -> None:
    """Create a key; NAME says what it is for. The key is shown only now.

    docs/permissions.md lists the scopes. Without any the key may do everything; --scope admin says that this is meant.
    """
    expires_at = int(time.time()) + expires if expires else 0
    with _auth(data, auth, service_token_file) as service:
        made = service.create_key(name, scopes, expires_at)
    if as_json:
        say_json({"id": made.id, "name": name, "key": made.key, "scopes": list(made.scopes), "expires_at": expires_at})
    else:
        remark(f"key {made.id} for {name}; good on every edge within 5 s, and not shown again:")
        say(made.key)
    if not scopes:
        ends = "" if expires else ", for ever"
        remark(
            f"this key may do everything{ends}: read, publish and remove in every channel, disconnect, make and delete"
            f" users. To limit one, name what it needs (--scope publish:chat --expires 90d)"
        )


@command.command("list")
@data_option
@auth_options
@json_option
def list_(data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """List the keys that are not revoked, with their last use."""
    with _auth(data, auth, service_token_file) as service:
        keys = service.list_keys()
    for key in keys:
        if as_json:
            say_json(
                {
                    "id": key.id,
                    "name": key.name,
                    "created_at": key.created_at,
                    "scopes": list(key.scopes),
                    "expires_at": key.expires_at,
                    "last_used_at": key.last_used_at,
                }
            )
        else:
            used = f"used {when(key.last_used_at)}" if key.last_used_at else "not used yet"
            ends = f"  until {when(key.expires_at)}" if key.expires_at else ""
            may = printable(" ".join(key.scopes)) or "everything"
            say(f"{key.id}  {when(key.created_at)}  {printable(key.name)}  {used}  {may}{ends}")
    remark(f"{len(keys)} keys")


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@data_option
@auth_options
@json_option
def revoke(key_id: str, data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """Revoke a key: edges refuse it within seconds."""
    with _auth(data, auth, service_token_file) as service:
        service.revoke_key(key_id)
    if as_json:
        say_json({"id": key_id, "revoked": True})
    else:
        say(f"revoked {key_id}")


def _auth(data: Path, auth: str | None, service_token_file: Path | None) -> AuthRpc:
    found = find_auth(data, auth, service_token_file)
    return AuthRpc(found.address, found.service_token_file, found.tls)
