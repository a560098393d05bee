"""Reader of the PROXY header that a load balancer sends before the first request.

Specification: HAProxy's proxy-protocol.txt, versions 1 and 2.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from services.edge.transport.http.refusal import Refused
from services.edge.transport.proxies import canonical

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_MAX_BYTES = 107  # longest version 1 header, with CRLF
_V2_HEAD_BYTES = 16
_V2_MAX_BYTES = 4_096  # most bytes of addresses and TLVs, which may hold a certificate's names
_V1_LINE = re.compile(r"PROXY (TCP[46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})")
_V1_UNKNOWN = re.compile(r"PROXY UNKNOWN(?: [\x20-\x7e]*)?")
_LOCAL, _PROXY = 0x20, 0x21
# Family and protocol → (bytes of both addresses and ports, bytes of the source address). 0: not TCP over IP, no source.
_FAMILIES = {0x11: (12, 4), 0x21: (36, 16), 0x00: (0, 0), 0x31: (216, 0)}


class ProxyHeader:
    """Reads one PROXY header.

    `source` is the client's address; it is "" if the header names none, as those of health checks do.
    """

    __slots__ = ("_buffer", "source")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.source = ""

    def feed(self, data: bytes) -> bytes | None:
        """Add bytes; return the bytes behind the header once it is complete, else None.

        Must not be called again after it has returned bytes.

        Raises:
            Refused: 400 if there is no PROXY header, or if it is malformed or too long; as early as that is certain.
        """
        buffer = self._buffer
        buffer += data
        if buffer[: len(_V2)] == _V2[: len(buffer)]:
            return self._version_2(bytes(buffer))
        if buffer[: len(_V1)] == _V1[: len(buffer)]:
            return self._version_1(bytes(buffer))
        raise _refused("the connection must begin with a PROXY header")

    def _version_1(self, data: bytes) -> bytes | None:
        end = data.find(b"\r\n", 0, _V1_MAX_BYTES)
        if end < 0:
            if len(data) >= _V1_MAX_BYTES:
                raise _refused("the PROXY header is too long")
            return None
        line = data[:end].decode("latin-1")
        if not _V1_UNKNOWN.fullmatch(line):
            match = _V1_LINE.fullmatch(line)
            if match is None or max(int(match[4]), int(match[5])) > 65_535:
                raise _refused("the PROXY header is malformed")
            family = IPv4Address if match[1] == "TCP4" else IPv6Address
            try:
                source, _ = family(match[2]), family(match[3])
            except ValueError:
                raise _refused("the PROXY header is malformed") from None
            self.source = canonical(str(source))
        return data[end + 2 :]

    def _version_2(self, data: bytes) -> bytes | None:
        if len(data) < _V2_HEAD_BYTES:
            return None
        command, family, size = data[12], data[13], int.from_bytes(data[14:16], "big")
        if size > _V2_MAX_BYTES:
            raise _refused("the PROXY header is too long")
        if command not in (_LOCAL, _PROXY) or (command == _PROXY and family not in _FAMILIES):
            raise _refused("the PROXY header is malformed")
        end = _V2_HEAD_BYTES + size
        if command == _PROXY:
            least, address_bytes = _FAMILIES[family]
            if size < least:
                raise _refused("the PROXY header is malformed")
            if len(data) >= end and address_bytes:
                packed = data[_V2_HEAD_BYTES : _V2_HEAD_BYTES + address_bytes]
                self.source = canonical(str(IPv4Address(packed) if address_bytes == 4 else IPv6Address(packed)))
        return data[end:] if len(data) >= end else None


def _refused(detail: str) -> Refused:
    return Refused(400, "proxy_protocol", detail)
