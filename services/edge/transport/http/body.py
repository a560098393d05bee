"""Reader of request bodies, with Content-Length or in chunks. RFC 9112, 6 and 7."""

from __future__ import annotations

import re

from services.edge.transport.http.head import HEADER, MAX_HEAD_BYTES, MAX_LINE_BYTES, Head
from services.edge.transport.http.refusal import Refused

_CHUNK = re.compile(r"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\x20-\x7e\x80-\xff\t]*)?")

_LINES_PER_TURN = 192  # lines of a chunked body read at once (under 1 ms), then other connections get a turn

# What the next line of a chunked body must be.
_SIZE, _END_OF_CHUNK, _TRAILER = range(3)


class BodyReader:
    """Reads one body from the bytes behind its head, which was checked before."""

    __slots__ = ("_chunked", "_left", "_line", "_next", "_trailer_bytes", "is_whole")

    def __init__(self, head: Head) -> None:
        lengths = head.all("content-length")
        self._chunked = bool(head.all("transfer-encoding"))
        self._left = int(lengths[0]) if lengths else 0  # bytes still to come, of the body or of the present chunk
        self._line = bytearray()  # beginning of a line of a chunked body whose end has not come yet
        self._next = _SIZE
        self._trailer_bytes = 0
        self.is_whole = not self._chunked and not self._left

    def read(self, data: bytearray) -> bytes:
        """Remove the bytes of this body from the front of `data`, and return its content.

        A call reads at most 192 lines of a chunked body. Call again for the rest.

        Raises:
            Refused: 400 if a chunk is malformed, 431 if the trailers are too long.
        """
        if self._chunked:
            return self._read_chunks(data)
        part = bytes(memoryview(data)[: self._left])
        del data[: len(part)]
        self._left -= len(part)
        self.is_whole = not self._left
        return part

    def _read_chunks(self, data: bytearray) -> bytes:
        body = bytearray()
        start, size, lines = 0, len(data), 0
        while start < size and not self.is_whole and lines < _LINES_PER_TURN:
            if self._left:
                end = min(size, start + self._left)
                body += memoryview(data)[start:end]
                self._left -= end - start
            else:
                lines += 1
                found = data.find(b"\n", start, start + MAX_LINE_BYTES)
                end = found + 1 if found >= 0 else size
                self._line += memoryview(data)[start:end]
                if len(self._line) > MAX_LINE_BYTES:
                    raise _malformed()
                if found >= 0:
                    self._read_line()
            start = end
        del data[:start]
        return bytes(body)

    def _read_line(self) -> None:
        line = self._line.decode("latin-1")
        self._line.clear()
        if not line.endswith("\r\n"):
            raise _malformed()
        line = line[:-2]
        if self._next == _SIZE:
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise _malformed()
            self._left = int(match[1], 16)
            self._next = _END_OF_CHUNK if self._left else _TRAILER
        elif self._next == _END_OF_CHUNK:
            if line:
                raise _malformed()
            self._next = _SIZE
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_HEAD_BYTES:
                raise Refused(431, "head_too_long", "the trailers are longer than 65536 bytes")
            if not HEADER.fullmatch(line):
                raise _malformed()
        else:
            self.is_whole = True


def _malformed() -> Refused:
    return Refused(400, "malformed", "a chunk of the body is malformed")
