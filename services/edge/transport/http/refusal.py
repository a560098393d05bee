"""Error responses of the transport: plain text, then the connection ends."""

from __future__ import annotations

from http import HTTPStatus


class Refused(Exception):
    """Raised for a request that the transport answers with an error status.

    The connection ends after the response.

    Args:
        status: HTTP status code.
        reason: Label of the counter of refusals, a short constant.
        detail: Text of the response, one sentence. Never contains what the client sent.
        headers: Header lines to add, without line ends.
    """

    def __init__(self, status: int, reason: str, detail: str = "", headers: tuple[str, ...] = ()) -> None:
        self.status = status
        self.reason = reason
        self.detail = detail or HTTPStatus(status).phrase
        self.headers = headers
        super().__init__(f"{status} {self.detail}")

    @property
    def body(self) -> bytes:
        """Text of the response."""
        return f"{self.detail}\n".encode("ascii")

    def response(self) -> bytes:
        """Return the whole response, ready to be written."""
        lines = (f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *self._lines())
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + self.body

    def _lines(self) -> tuple[str, ...]:
        text = "Content-Type: text/plain; charset=utf-8"
        return text, f"Content-Length: {len(self.body)}", "Connection: close", *self.headers
