"""`thalamus users`: makes, invites, finds, changes, disables and deletes users."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from cli.errors import WrongUsage
from cli.options import Duration, api_options, find_api_key, find_url
from cli.output import printable, remark, say, say_json, when
from cli.server_api import ServerApi

_PAGE = 1_000  # users that are asked for at once


class _User(msgspec.Struct, frozen=True):
    """A user as the server API describes it."""

    user: str
    username: str = ""
    display_name: str = ""
    avatar_url: str = ""
    status: str = ""
    custom: Any = None
    hidden: bool = False
    version: int = 0
    created_at: int = 0
    disabled: bool = False


class _Page(msgspec.Struct, frozen=True):
    users: list[_User] = []
    next: str = ""


class _Invite(msgspec.Struct, frozen=True):
    invite: str
    note: str = ""
    created_at: int = 0
    expires_at: int = 0


class _NewInvite(_Invite, frozen=True):
    code: str = ""


class _Invites(msgspec.Struct, frozen=True):
    invites: list[_Invite] = []


class _Nothing(msgspec.Struct, frozen=True):
    pass


def _profile_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--display-name", help="At most 64 characters."),
        click.option("--avatar-url", help="An https address; empty: none."),
        click.option("--status", help="At most 140 characters."),
        click.option("--custom", help="A JSON value of at most 2 KiB; null: none."),
        click.option("--hidden/--found", default=None, help="Whether others can't find the user by name."),
    ):
        command = option(command)
    return command


def _who(command: Callable[..., None]) -> Callable[..., None]:
    """Add the user whom a command is about, by username or --id, as `who`."""

    @click.argument("username", required=False)
    @click.option("--id", "user", metavar="USER", help="Instead of a username: the id of the user.")
    @functools.wraps(command)
    def run(username: str | None, user: str | None, **others: Any) -> None:
        if (username is None) == (user is None):
            raise WrongUsage("give a username, or --id")
        command(who={"username": username} if user is None else {"user": user}, **others)

    return run


_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="File with the password, - for standard input [asks].",
)


@click.group("users")
def command() -> None:
    """Create, invite, find, change, disable and delete users."""


@command.command("create")
@click.argument("username", required=False)
@click.option("--user", help="Instead of a username: the id of a user whose tokens come from another login server.")
@_password_file
@_profile_options
@api_options
def create(
    username: str | None,
    user: str | None,
    password_file: Path | None,
    url: str | None,
    api_key: str | None,
    data: Path,
    as_json: bool,
    **profile: Any,
) -> None:
    """Create a user with USERNAME and a password, and print the id."""
    if (username is None) == (user is None):
        raise WrongUsage("give a username, or --user")
    who = {"user": user} if user else {"username": username, "password": _password(password_file)}
    made = _api(url, api_key, data).call("users_create", {**who, **_change(profile)}, _User)
    say_json(msgspec.to_builtins(made)) if as_json else say(printable(made.user))


@command.command("get")
@_who
@api_options
def get(who: dict[str, str], url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """Show the user with this USERNAME."""
    _show(_api(url, api_key, data).call("users_get", who, _User), as_json)


@command.command("list")
@api_options
def list_(url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """List all users, in no particular order."""
    api = _api(url, api_key, data)
    count, after = 0, ""
    while True:
        page = api.call("users_list", {"after": after, "limit": _PAGE}, _Page)
        for one in page.users:
            _show(one, as_json)
        count += len(page.users)
        after = page.next
        if not after:
            break
    remark(f"{count} users")


@command.command("update")
@_who
@_profile_options
@api_options
def update(
    who: dict[str, str], url: str | None, api_key: str | None, data: Path, as_json: bool, **profile: Any
) -> None:
    """Change the profile of the user with this USERNAME."""
    change = _change(profile)
    api = _api(url, api_key, data)
    _show(api.call("users_update", {"user": _id(api, who), **change}, _User), as_json)


@command.command("password")
@_who
@_password_file
@api_options
def password(
    who: dict[str, str], password_file: Path | None, url: str | None, api_key: str | None, data: Path, as_json: bool
) -> None:
    """Set the password of the user with this USERNAME; all sessions end."""
    api = _api(url, api_key, data)
    user = _id(api, who)
    api.call("users_password", {"user": user, "password": _password(password_file)}, _Nothing)
    _done("password", "changed the password of the user", user, as_json)


@command.command("invite")
@click.option("--note", default="", help="Whom it is for: at most 100 characters.")
@click.option("--expires", type=Duration(), default=0, metavar="TIME", help="How long it is good: 30d, 12h [7d].")
@api_options
def invite(note: str, expires: int, url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """Make a code that is good for one registration. It is shown only now.

    Registration asks for one where AUTH_REGISTRATION is invite.
    """
    body = {"note": note, **({"ttl_s": expires} if expires else {})}
    made = _api(url, api_key, data).call("invites_create", body, _NewInvite)
    if as_json:
        say_json(msgspec.to_builtins(made))
    else:
        remark(f"invite {made.invite}, good once and until {when(made.expires_at)}; not shown again:")
        say(printable(made.code))


@command.command("invites")
@api_options
def invites(url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """List the invites that are neither used nor expired."""
    found = _api(url, api_key, data).call("invites_list", {}, _Invites).invites
    for one in found:
        if as_json:
            say_json(msgspec.to_builtins(one))
        else:
            say("  ".join(filter(None, (one.invite, f"until {when(one.expires_at)}", printable(one.note)))))
    remark(f"{len(found)} invites")


@command.command("uninvite")
@click.argument("invite_id", metavar="ID")
@api_options
def uninvite(invite_id: str, url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """Make an invite worth nothing."""
    _api(url, api_key, data).call("invites_revoke", {"invite": invite_id}, _Nothing)
    say_json({"invite": invite_id, "done": "uninvite"}) if as_json else say(
        f"revoked the invite {printable(invite_id)}"
    )


def _add(verb: str, done: str, help_text: str) -> None:
    @command.command(verb, help=help_text)
    @_who
    @api_options
    def run(who: dict[str, str], url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
        api = _api(url, api_key, data)
        user = _id(api, who)
        api.call(f"users_{verb}", {"user": user}, _Nothing)
        _done(verb, f"{done} the user", user, as_json)


_add("disable", "disabled", "Refuse the user with this USERNAME, and close all connections.")
_add("enable", "enabled", "Accept the user with this USERNAME again.")
_add("delete", "deleted", "Remove the user with this USERNAME with all that is known of them.")


def _api(url: str | None, api_key: str | None, data: Path) -> ServerApi:
    return ServerApi(find_url(data, url), find_api_key(data, api_key))


def _id(api: ServerApi, who: dict[str, str]) -> str:
    return who.get("user") or api.call("users_get", who, _User).user


def _change(profile: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a profile that were given."""
    change = {name: value for name, value in profile.items() if value is not None}
    if "custom" in change:
        try:
            change["custom"] = msgspec.Raw(msgspec.json.decode(change["custom"].encode(), type=msgspec.Raw))
        except msgspec.MsgspecError as error:
            raise WrongUsage(f"--custom is not JSON: {error}") from error
    return change


def _password(file: Path | None) -> str:
    if file is None:
        text: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return text
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    return text.removesuffix("\n").removesuffix("\r")


def _show(user: _User, as_json: bool) -> None:
    if as_json:
        say_json(msgspec.to_builtins(user))
        return
    words = [user.user, user.username or "(another login server)", user.display_name]
    say("  ".join(printable(word) for word in (*words, "disabled" if user.disabled else "") if word))


def _done(verb: str, what: str, user: str, as_json: bool) -> None:
    """Say what was done, so that nobody takes the id of the user for something else."""
    say_json({"user": user, "done": verb}) if as_json else say(f"{what} {printable(user)}")
