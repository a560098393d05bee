"""`thalamus publish`: publishes to a channel."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cli.options import api_options, find_api_key, find_url
from cli.output import say, say_json
from cli.server_api import Published, ServerApi
from cli.text import json_text, standard_input


@click.command("publish")
@click.argument("channel")
@click.argument("data_text", metavar="DATA")
@click.option("--key", "idempotency_key", default="", help="Idempotency key: a repeat publishes nothing new.")
@api_options
def command(
    channel: str, data_text: str, idempotency_key: str, url: str | None, api_key: str | None, data: Path, as_json: bool
) -> None:
    """Publish DATA, a JSON value, to CHANNEL; `-` reads it from standard input.

    Returns once the publication is kept as the channel's namespace says, and prints its offset and epoch.
    """
    payload = json_text(standard_input("DATA") if data_text == "-" else data_text, "DATA")
    body: dict[str, object] = {"channel": channel, "data": msgspec.Raw(payload)}
    if idempotency_key:
        body["idempotency_key"] = idempotency_key
    api = ServerApi(find_url(data, url), find_api_key(data, api_key))
    result = api.call("publish", body, Published)
    if as_json:
        say_json({"channel": channel, "offset": result.offset, "epoch": result.epoch})
    else:
        say(f"published to {channel} at {result.offset}:{result.epoch}" if result.offset else f"published to {channel}")
