"""`thalamus api-key`: API keys, by which backends use the HTTP API."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from cli.auth_rpc import AuthRpc
from cli.options import auth_options, data_option, find_auth, json_option
from cli.output import printable, remark, say, say_json


@click.group("api-key")
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@click.argument("name")
@data_option
@auth_options
@json_option
def create(name: str, data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """Create a key; NAME says what it is for. The key is shown only now."""
    with _auth(data, auth, service_token_file) as service:
        made = service.create_key(name)
    if as_json:
        say_json({"id": made.id, "name": name, "key": made.key})
    else:
        remark(f"key {made.id} for {name}; good on every edge within 2 s, and not shown again:")
        say(made.key)


@command.command("list")
@data_option
@auth_options
@json_option
def list_(data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """List the valid keys."""
    with _auth(data, auth, service_token_file) as service:
        keys = service.list_keys()
    for key in keys:
        created = datetime.datetime.fromtimestamp(key.created_at, datetime.UTC).isoformat(timespec="seconds")
        if as_json:
            say_json({"id": key.id, "name": key.name, "created_at": key.created_at})
        else:
            say(f"{key.id}  {created}  {printable(key.name)}")
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
