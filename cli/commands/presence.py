"""`thalamus presence`: prints the clients in a channel."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import api_options, find_api_key, find_url
from cli.output import printable, remark, say, say_json
from cli.realtime.messages import client_fields
from cli.server_api import Presence, ServerApi


@click.command("presence")
@click.argument("channel")
@api_options
def command(channel: str, url: str | None, api_key: str | None, data: Path, as_json: bool) -> None:
    """Show the clients in CHANNEL."""
    api = ServerApi(find_url(data, url), find_api_key(data, api_key))
    members = api.call("presence", {"channel": channel}, Presence).presence
    for member in sorted(members.values(), key=lambda each: (each.user, each.client)):
        if as_json:
            say_json({"channel": channel} | client_fields(member))
        else:
            info = printable(bytes(member.conn_info).decode("utf-8", "replace"))
            say(f"{member}  {printable(member.client)}  {info}".rstrip())
    users = len({member.user for member in members.values()})
    remark(f"{len(members)} clients, {users} users in {channel}")
