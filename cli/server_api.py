"""Client of an edge's HTTP API, and the results that commands print."""

from __future__ import annotations

import urllib.parse
from typing import Any, TypeVar

import msgspec

from cli.errors import Refused, Unreachable
from cli.http import NoResponse, request
from cli.output import printable
from cli.realtime.messages import ClientInfo, Publication

_TIMEOUT_S = 10.0
Result = TypeVar("Result")


class Published(msgspec.Struct, frozen=True):
    """Position of a publication; zero and empty if the channel has no log."""

    offset: int = 0
    epoch: str = ""


class History(msgspec.Struct, frozen=True):
    """A page of history, and the top of the log."""

    publications: list[Publication] = []
    epoch: str = ""
    offset: int = 0


class Presence(msgspec.Struct, frozen=True):
    """Clients of a channel by client id."""

    presence: dict[str, ClientInfo] = {}


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection. `connected_at` is in Unix milliseconds."""

    client: str = ""
    user: str = ""
    edge: str = ""
    edge_id: str = ""
    connected_at: int = 0
    transport: str = ""
    protocol: str = ""
    name: str = ""
    session: str = ""


class ConnectionPage(msgspec.Struct, frozen=True):
    """A page of connections; `cursor` is empty on the last one.

    `unanswered`: how many edges did not answer.
    """

    connections: list[Connection] = []
    cursor: str = ""
    unanswered: int = 0


class _Error(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""


class _Response(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


class ServerApi:
    """Calls the HTTP API of one edge with one API key."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._headers = {"X-API-Key": api_key, "Content-Type": "application/json"}

    def call(self, method: str, body: Any, kind: type[Result]) -> Result:
        """Return the result of one call. Each step of the request may block for 10 s.

        Raises:
            Unreachable: the edge does not answer.
            Refused: the edge refuses; the text has its code and message.
        """
        try:
            status, text = request(
                "POST",
                f"{self._url}/api/{method}",
                body=msgspec.json.encode(body),
                headers=self._headers,
                timeout_s=_TIMEOUT_S,
            )
        except NoResponse as error:
            where = urllib.parse.urlsplit(self._url).netloc
            raise Unreachable(f"{where} can't be reached: {error}; is `thalamus dev` running?") from error
        try:
            response = msgspec.json.decode(text, type=_Response)
            if response.error is None and status == 200:
                return msgspec.json.decode(bytes(response.result), type=kind)
        except msgspec.MsgspecError as error:
            raise Refused(f"{self._url} answers {status} with something that is not of our API") from error
        if response.error is None:
            raise Refused(f"{self._url} answers {status}")
        code = f" ({response.error.code})" if response.error.code else ""
        raise Refused(f"{method} refused: {printable(response.error.message)}{code}")
