"""Answers to connections that are not let in: plain text, and the connection ends."""

from __future__ import annotations

from http import HTTPStatus


class Refused(Exception):
    """A request that is answered with an error status and nothing else.

    Args:
        status: HTTP status code.
        reason: Label of the counter of refusals; a short constant.
        detail: One sentence for whoever reads the answer; never something that the client sent.
        headers: Header lines to add, without line ends.
    """

    def __init__(self, status: int, reason: str, detail: str = "", headers: tuple[str, ...] = ()) -> None:
        self.status = status
        self.reason = reason
        self.detail = detail or HTTPStatus(status).phrase
        self.headers = headers
        super().__init__(f"{status} {self.detail}")

    def response(self) -> bytes:
        """The whole response, ready to be written."""
        body = f"{self.detail}\n"
        lines = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *self.headers,
        )
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("ascii")
