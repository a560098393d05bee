"""Strict reader of HTTP request heads, within bounds.

A head that two parsers could understand differently is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from services.edge.transport.http.refusal import Refused

MAX_LINE_BYTES = 8_192  # longest request line and longest header, bytes without CRLF
MAX_HEADERS = 128
MAX_HEAD_BYTES = 65_536
_MAX_BLANK_LINES = 8  # ignored before the request line; RFC 9112, 2.2 asks for at least one

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
_TARGET = r"[\x21\x22\x24-\x7e]+"
_VALUE = r"[\x20-\x7e\x80-\xff\t]*"
_REQUEST_LINE = re.compile(rf"({TOKEN}) ({_TARGET}) HTTP/([0-9])\.([0-9])")
HEADER = re.compile(rf"({TOKEN}):({_VALUE})")
_WHOLE = re.compile(rf"({TOKEN}) ({_TARGET}) HTTP/1\.([01])\r\n((?:{TOKEN}:{_VALUE}\r\n)*)\r\n")
_FIRST_BYTE = re.compile(rb"[\r!#$%&'*+\-.^_`|~0-9A-Za-z]")
# A host name or address with an optional port. User information and paths are not allowed in Host.
_AUTHORITY = r"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
_HOST = re.compile(_AUTHORITY)
_LENGTH = re.compile("[0-9]{1,18}")
_ABSOLUTE = re.compile(rf"(?:http|ws)s?://({_AUTHORITY})((?:[/?].*)?)", re.IGNORECASE)
_SERVER_ITSELF = ("OPTIONS", "*")


@dataclass(frozen=True, slots=True)
class Head:
    """Head of one request: request line and headers."""

    method: str
    target: str
    version: tuple[int, int]
    headers: Mapping[str, Sequence[str]]  # by name in lower case: values in order, without blanks around them

    def all(self, name: str) -> Sequence[str]:
        """Return the values of a header, in order; `name` is in lower case."""
        return self.headers.get(name, ())

    def tokens(self, name: str) -> list[str]:
        """Return the items of a list header, from all its lines, without empty items."""
        items = (item.strip(" \t") for value in self.all(name) for item in value.split(","))
        return [item for item in items if item]

    @property
    def has_body(self) -> bool:
        """Whether a body follows. True for a chunked one, even if it is empty."""
        lengths = self.all("content-length")
        return bool(self.all("transfer-encoding")) or (bool(lengths) and int(lengths[0]) > 0)

    @property
    def raw_path(self) -> str:
        """The path as sent, still percent-encoded."""
        return self._origin_form().partition("?")[0]

    @property
    def path(self) -> str:
        """The path with percent-encoding resolved."""
        raw = self.raw_path
        return unquote(raw) if "%" in raw else raw

    @property
    def query(self) -> str:
        """The query as sent. It may hold a token, so it must not be logged."""
        return self._origin_form().partition("?")[2]

    @property
    def host(self) -> str:
        """The host that the client asks for; may be empty.

        The authority of an absolute target has priority over the Host header (RFC 9112, 3.2.2).
        """
        match = None if self.target[0] == "/" else _ABSOLUTE.fullmatch(self.target)
        return match[1] if match is not None else next(iter(self.all("host")), "")

    def _origin_form(self) -> str:
        match = None if self.target[0] == "/" else _ABSOLUTE.fullmatch(self.target)
        if match is None:
            return self.target
        return match[2] if match[2].startswith("/") else f"/{match[2]}"


class HeadReader:
    """Reads one head from bytes that arrive in any pieces."""

    __slots__ = ("_blank", "_buffer", "_headers", "_request", "_scanned", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._blank = 0  # blank lines before the request line
        self._start = 0  # where the present line begins in `_buffer`
        self._scanned = 0  # there is no LF in `_buffer` between `_start` and here
        self._request: tuple[str, str, tuple[int, int]] | None = None
        self._headers: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> Head | None:
        """Add bytes; return the head once it is complete, else None.

        Must not be called again after it has returned a head.

        Raises:
            Refused: The head is malformed (400, 505) or too long (414, 431). Raised as early as that is certain.
        """
        buffer = self._buffer
        if not buffer and data and not _FIRST_BYTE.match(data):
            raise _malformed("not HTTP")  # TLS, for example: no line end would ever come
        if not buffer and (whole := _read_whole(data)) is not None:
            buffer += data
            self._start = len(data)
            _check(whole)
            return whole
        buffer += data
        while True:
            end = buffer.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(buffer)
                self._check_length(self._scanned - self._start - 1)  # the last byte may be the CR, which does not count
                return None
            self._check_length(end - 1 - self._start)
            if end == self._start or buffer[end - 1] != 0x0D:
                raise _malformed("a line ends without CR")
            line = buffer[self._start : end - 1].decode("latin-1")
            self._start = self._scanned = end + 1
            if self._request is None and not line and self._blank < _MAX_BLANK_LINES:
                self._blank += 1
            elif self._request is None:
                self._request = _parse_request_line(line)
            elif line:
                self._add_header(line)
            else:
                head = Head(*self._request, _by_name(self._headers))
                _check(head)
                return head

    def rest(self) -> bytes:
        """Return the bytes that came behind the head."""
        return bytes(memoryview(self._buffer)[self._start :])

    @property
    def has_begun(self) -> bool:
        """Whether any byte has come."""
        return bool(self._buffer)

    def _check_length(self, line_bytes: int) -> None:
        if line_bytes > MAX_LINE_BYTES:
            if self._request is None:
                raise Refused(414, "line_too_long", "the request line is longer than 8192 bytes")
            raise Refused(431, "line_too_long", "a header is longer than 8192 bytes")
        if self._start + line_bytes > MAX_HEAD_BYTES:
            raise Refused(431, "head_too_long", "the head is longer than 65536 bytes")

    def _add_header(self, line: str) -> None:
        match = HEADER.fullmatch(line)
        if match is None:  # folded lines and blanks before the colon are malformed, too
            raise _malformed("a header is malformed")
        if len(self._headers) == MAX_HEADERS:
            raise Refused(431, "too_many_headers", "there are more than 128 headers")
        self._headers.append((match[1], match[2]))


def _read_whole(data: bytes) -> Head | None:
    """Parse a valid head that arrived in one piece, with nothing behind it.

    Nearly all do. Returns None for all others, which are read, or refused, line by line.
    """
    if len(data) > MAX_LINE_BYTES:
        return None
    match = _WHOLE.fullmatch(data.decode("latin-1"))
    if match is None or match[1] == "PRI":
        return None
    headers = HEADER.findall(match[4])
    if len(headers) > MAX_HEADERS:
        return None
    return Head(match[1], match[2], (1, int(match[3])), _by_name(headers))


def _by_name(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value.strip(" \t"))
    return found


def _parse_request_line(line: str) -> tuple[str, str, tuple[int, int]]:
    match = _REQUEST_LINE.fullmatch(line)
    if match is None or match[1] == "PRI":  # PRI begins the preface of HTTP/2
        raise _malformed("the request line is malformed")
    version = int(match[3]), int(match[4])
    if version not in ((1, 1), (1, 0)):
        raise Refused(505, "http_version")
    return match[1], match[2], version


def _check(head: Head) -> None:
    """Refuse a head that two parsers could understand differently.

    RFC 9112, 3.2 and 6.3.
    """
    if head.target[0] != "/" and not _ABSOLUTE.fullmatch(head.target) and (head.method, head.target) != _SERVER_ITSELF:
        raise _malformed("the target is malformed")
    hosts = head.all("host")
    if len(hosts) > 1 or (not hosts and head.version == (1, 1)):
        raise _malformed("exactly one Host header is needed")
    if hosts and hosts[0] and not _HOST.fullmatch(hosts[0]):
        raise _malformed("the Host header is malformed")
    lengths, codings = head.all("content-length"), head.all("transfer-encoding")
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise _malformed("the Content-Length header is malformed")
    if codings and (lengths or head.version == (1, 0) or [coding.lower() for coding in codings] != ["chunked"]):
        raise _malformed("the Transfer-Encoding header can't be used so")


def _malformed(detail: str) -> Refused:
    return Refused(400, "malformed", detail)
