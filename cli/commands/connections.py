"""`thalamus connections`: prints who is connected, and where."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from cli.errors import WrongUsage
from cli.options import api_options, find_api_key, find_url
from cli.output import printable, remark, say, say_json
from cli.server_api import ConnectionPage, ServerApi

_PAGE = 1_000  # connections that are asked for at once


@click.command("connections")
@click.option("--user", default="", help="Those of this user.")
@click.option("--channel", default="", help="Those that are subscribed to this channel.")
@click.option("--edge", default="", help="Those of this edge: its name or id.")
@click.option("--partial", is_flag=True, help="Go on without edges that do not answer, and say how many.")
@api_options
def command(
    user: str,
    channel: str,
    edge: str,
    partial: bool,
    url: str | None,
    api_key: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Show the connections of a user, in a channel, or on an edge."""
    asked: dict[str, Any] = {
        name: value for name, value in (("user", user), ("channel", channel), ("edge", edge)) if value
    }
    if len(asked) != 1:
        raise WrongUsage("give one of --user, --channel and --edge")
    api = ServerApi(find_url(data, url), find_api_key(data, api_key))
    if partial:
        asked["partial"] = True
    count, cursor, unanswered = 0, "", 0
    while True:
        page = api.call("connections", {**asked, "limit": _PAGE, "cursor": cursor}, ConnectionPage)
        for one in page.connections:
            if as_json:
                say_json(msgspec.to_builtins(one))
            else:
                since = f"{datetime.fromtimestamp(one.connected_at / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
                what = (one.user or "(anonymous)", one.client, one.edge, since, one.protocol, one.session)
                say("  ".join(map(printable, what)).rstrip())
        count += len(page.connections)
        cursor, unanswered = page.cursor, max(unanswered, page.unanswered)
        if not cursor:
            break
    missing = f"; edges that did not answer, whose connections are missing: {unanswered}" if unanswered else ""
    remark(f"{count} connections{missing}")
