"""How many bytes of a TCP connection the peer's system has confirmed (Linux)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios

_TCP_INFO_BYTES = 232
_BYTES_ACKED = struct.Struct("@Q")
_BYTES_ACKED_AT = 120  # offset of `tcpi_bytes_acked` in `struct tcp_info` of Linux
_INT = struct.Struct("@i")


def taken_and_under_way(transport: asyncio.Transport) -> tuple[int, int] | None:
    """Return how many sent bytes the peer's system has confirmed, and how many not.

    Unconfirmed bytes are in the network, in our kernel or in asyncio's transport. Returns None if the system does not
    say (it is not Linux), or if the socket is closed.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return None
    with contextlib.suppress(OSError, ValueError):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _BYTES_ACKED_AT + _BYTES_ACKED.size:
            return None
        (acked,) = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)
        (in_kernel,) = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
        return acked, in_kernel + transport.get_write_buffer_size()
    return None
