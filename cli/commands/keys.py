"""`thalamus keys`: the keys with which auth signs tokens."""

from __future__ import annotations

from pathlib import Path

import click

from cli.auth_rpc import AuthRpc
from cli.options import auth_options, data_option, find_auth, json_option
from cli.output import remark, say, say_json, when
from thalamus.auth.v1 import auth_pb2 as pb

_STATES = {
    pb.SIGNING_KEY_STATE_WAITING: "waiting",
    pb.SIGNING_KEY_STATE_SIGNING: "signing",
    pb.SIGNING_KEY_STATE_VERIFYING: "verifying",
}


@click.group("keys")
def command() -> None:
    """Rotate, list and retire the keys that sign tokens."""


@command.command("rotate")
@data_option
@auth_options
@json_option
def rotate(data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """Make a new key. Edges know it at once; it signs later (AUTH_KEY_OVERLAP_S).

    Tokens of the old key stay good until you retire that key.
    """
    with _auth(data, auth, service_token_file) as service:
        made = service.rotate_signing_key()
    if as_json:
        say_json(_as_json(made))
    else:
        remark(f"it signs from {when(made.signs_from)} on; the keys of before are still accepted")
        say(made.kid)


@command.command("list")
@data_option
@auth_options
@json_option
def list_(data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """List the keys, oldest first, with what each is good for."""
    with _auth(data, auth, service_token_file) as service:
        keys = service.list_signing_keys()
    for key in keys:
        say_json(_as_json(key)) if as_json else say(_line(key))
    remark(f"{len(keys)} keys")


@command.command("retire")
@click.argument("kid")
@click.option("--force", is_flag=True, help="Also the key that signs at present: everyone has to sign in again.")
@data_option
@auth_options
@json_option
def retire(kid: str, force: bool, data: Path, auth: str | None, service_token_file: Path | None, as_json: bool) -> None:
    """Remove a key: its tokens are refused within 5 s.

    Open connections stay until their tokens expire.
    """
    with _auth(data, auth, service_token_file) as service:
        service.retire_signing_key(kid, force=force)
    if as_json:
        say_json({"kid": kid, "retired": True})
    else:
        say(f"retired {kid}")


def _line(key: pb.SigningKey) -> str:
    words = [key.kid, key.algorithm, f"made {when(key.created_at)}", _STATES.get(key.state, "unknown")]
    if key.state == pb.SIGNING_KEY_STATE_WAITING:
        words.append(f"signs from {when(key.signs_from)}")
    elif key.logins_until:
        words.append(f"tokens of logins until {when(key.logins_until)}")
    return "  ".join(words)


def _as_json(key: pb.SigningKey) -> dict[str, object]:
    return {
        "kid": key.kid,
        "algorithm": key.algorithm,
        "state": _STATES.get(key.state, "unknown"),
        "created_at": key.created_at,
        "signs_from": key.signs_from,
        "logins_until": key.logins_until or None,
    }


def _auth(data: Path, auth: str | None, service_token_file: Path | None) -> AuthRpc:
    found = find_auth(data, auth, service_token_file)
    return AuthRpc(found.address, found.service_token_file, found.tls)
