"""Text that `thalamus dev` prints when all is ready: addresses, tokens, examples."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from cli.running import RunningStack

_CHANNEL = "chat:lobby"


def banner(stack: RunningStack, *, token: str, user: str, api_key: str, data_option: str, start_took_s: float) -> str:
    """Return the text. The commands in it work as printed.

    `data_option` is added to the `thalamus` commands; it is empty if the data directory is the default one.
    """
    thalamus, python = _command_for("thalamus"), _command_for("python")
    first = stack.edges[0]
    edges = "".join(f"  {edge.name:<15}{edge.http}/\n" for edge in stack.edges[1:])
    internal = "".join(f"    {name:<13}{url}/metrics\n" for name, url in stack.internal.items())
    return f"""
Thalamus is ready after {start_took_s:.1f} s. Ctrl-C stops it.

  Console        {first.http}/
  HTTP API       {first.http}/docs
  WebSocket      {first.websocket}
{edges}
  Internal ports
{internal}    {"redis":<13}{stack.redis}

  API key        {api_key}
  Token          {token}
                 (user {user}, valid 24 h)

Try it, each in a terminal of its own:

  {thalamus} subscribe {_CHANNEL}{data_option}
  {thalamus} publish {_CHANNEL} '{{"text":"hello"}}'{data_option}

Or a plain WebSocket, which is all that a client needs:

{_plain_websocket(python, first.websocket, token)}
"""


def _plain_websocket(python: str, url: str, token: str) -> str:
    """Return the example with a plain WebSocket.

    It is not indented: a here-document must end at the beginning of a line.
    """
    return f"""{python} - <<'END'
from websockets.sync.client import connect
with connect("{url}", proxy=None) as ws:
    ws.send('{{"id":1,"connect":{{"token":"{token}"}}}}')
    ws.send('{{"id":2,"subscribe":{{"channel":"{_CHANNEL}"}}}}')
    for frame in ws:
        print(frame, flush=True)
        if frame == "{{}}": ws.send("{{}}")  # ping, pong
END"""


def _command_for(program: str) -> str:
    """Return how to call a program of our virtual environment from here."""
    beside = Path(sys.executable).with_name(program)
    found = shutil.which(program)
    if found and Path(found).absolute() == beside.absolute():
        return program
    relative = os.path.relpath(beside)
    return shlex.quote(relative if not relative.startswith("..") else str(beside))
