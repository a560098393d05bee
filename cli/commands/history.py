"""`thalamus history`: prints the history of a channel."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import PositionType, api_options, find_api_key, find_url
from cli.output import remark, say, say_json
from cli.realtime.messages import Position, publication_fields
from cli.server_api import History, ServerApi


@click.command("history")
@click.argument("channel")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="Most publications to read.")
@click.option("--since", type=PositionType(), help="Start after this place (before it with --reverse).")
@click.option("--reverse", is_flag=True, help="Newest first.")
@api_options
def command(
    channel: str,
    limit: int,
    since: Position | None,
    reverse: bool,
    url: str | None,
    api_key: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Print the history of CHANNEL, oldest first.

    The position of its newest publication goes to stderr.
    """
    body: dict[str, object] = {"channel": channel, "limit": limit, "reverse": reverse}
    if since is not None:
        body["since"] = {"offset": since.offset, "epoch": since.epoch}
    page = ServerApi(find_url(data, url), find_api_key(data, api_key)).call("history", body, History)
    for publication in page.publications:
        if as_json:
            say_json({"channel": channel, "epoch": page.epoch} | publication_fields(publication))
        else:
            say(str(publication))
    remark(f"{len(page.publications)} of {channel}; its top is {page.offset}:{page.epoch}")
