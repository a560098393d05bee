"""Heads of requests, read strictly and within bounds: what is refused here, no later parser can read otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.edge.transport.refusal import Refused

MAX_LINE_BYTES = 8_192  # of the request line and of each header, without CRLF
MAX_HEADERS = 128
MAX_HEAD_BYTES = 65_536

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
_TARGET = r"[\x21\x22\x24-\x7e]+"
_VALUE = r"[\x20-\x7e\x80-\xff\t]*"
_REQUEST_LINE = re.compile(rf"({TOKEN}) ({_TARGET}) HTTP/([0-9])\.([0-9])")
_HEADER = re.compile(rf"({TOKEN}):({_VALUE})")
_WHOLE = re.compile(rf"({TOKEN}) ({_TARGET}) HTTP/1\.([01])\r\n((?:{TOKEN}:{_VALUE}\r\n)*)\r\n")
_TOKEN_BYTE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]")
# A reg-name or address with an optional port; user information and paths have no place in Host.
_HOST = re.compile(r"(?:[A-Za-z0-9._~%!$&'()*+,;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


@dataclass(frozen=True, slots=True)
class Head:
    """One request without its body."""

    method: str
    target: str
    version: tuple[int, int]
    headers: Mapping[str, Sequence[str]]  # names in lower case; values in order, without blanks around them

    def all(self, name: str) -> Sequence[str]:
        """Values of a header, in order; `name` in lower case."""
        return self.headers.get(name, ())

    def tokens(self, name: str) -> list[str]:
        """Items of a header that holds a list, over all its lines, empty ones left out."""
        items = (item.strip(" \t") for value in self.all(name) for item in value.split(","))
        return [item for item in items if item]

    @property
    def path(self) -> str:
        """The target before its query, as sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query of the target, as sent. May hold a token: not for logs."""
        return self.target.partition("?")[2]


class HeadReader:
    """Collects the bytes of one head."""

    __slots__ = ("_buffer", "_headers", "_request", "_scanned", "_start")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0  # of the line being read
        self._scanned = 0  # no LF before
        self._request: tuple[str, str, tuple[int, int]] | None = None
        self._headers: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> Head | None:
        """Add bytes; the head once it is whole, then not to be called again.

        Raises:
            Refused: the head is malformed (400, 505) or too long (414, 431); as soon as that can be told.
        """
        buffer = self._buffer
        if not buffer and data and not _TOKEN_BYTE.match(data):
            raise _malformed("not HTTP")  # TLS, for one, would keep us waiting for a line end
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
                self._check_length(self._scanned - self._start - 1)  # the last byte may be the CR
                return None
            self._check_length(end - 1 - self._start)
            if end == self._start or buffer[end - 1] != 0x0D:
                raise _malformed("a line ends without CR")
            line = buffer[self._start : end - 1].decode("latin-1")
            self._start = self._scanned = end + 1
            if self._request is None:
                self._request = _parse_request_line(line)
            elif line:
                self._add_header(line)
            else:
                head = Head(*self._request, _by_name(self._headers))
                _check(head)
                return head

    def rest(self) -> bytes:
        """What came behind the head."""
        return bytes(memoryview(self._buffer)[self._start :])

    def everything(self) -> bytes:
        """All bytes fed so far."""
        return bytes(self._buffer)

    def _check_length(self, line_bytes: int) -> None:
        if line_bytes > MAX_LINE_BYTES:
            if self._request is None:
                raise Refused(414, "line_too_long", "the request line is longer than 8192 bytes")
            raise Refused(431, "line_too_long", "a header is longer than 8192 bytes")
        if self._start + line_bytes > MAX_HEAD_BYTES:
            raise Refused(431, "head_too_long", "the head is longer than 65536 bytes")

    def _add_header(self, line: str) -> None:
        match = _HEADER.fullmatch(line)
        if match is None:  # also a folded line, and blanks before the colon
            raise _malformed("a header is malformed")
        if len(self._headers) == MAX_HEADERS:
            raise Refused(431, "too_many_headers", "there are more than 128 headers")
        self._headers.append((match[1], match[2]))


def _read_whole(data: bytes) -> Head | None:
    """A sound head that came at once and alone, as nearly all do. All others are read, or refused, line by line."""
    if len(data) > MAX_LINE_BYTES:
        return None
    match = _WHOLE.fullmatch(data.decode("latin-1"))
    if match is None or match[1] == "PRI":
        return None
    headers = _HEADER.findall(match[4])
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
    """Refuse what two parsers could read in two ways. RFC 9112, 3.2 and 6.3."""
    hosts = head.all("host")
    if len(hosts) > 1 or (not hosts and head.version == (1, 1)):
        raise _malformed("exactly one Host header is needed")
    if hosts and hosts[0] and not _HOST.fullmatch(hosts[0]):
        raise _malformed("the Host header is malformed")
    lengths, codings = head.all("content-length"), head.all("transfer-encoding")
    if len(lengths) > 1 or (lengths and not (lengths[0].isascii() and lengths[0].isdigit())):
        raise _malformed("the Content-Length header is malformed")
    if codings and (lengths or head.version == (1, 0) or [coding.lower() for coding in codings] != ["chunked"]):
        raise _malformed("the Transfer-Encoding header can't be used so")


def _malformed(detail: str) -> Refused:
    return Refused(400, "malformed", detail)
