"""The container's health: ready once, from then on alive.

Until the service was ready for the first time, only readiness counts, so an update with a setting that can't work is
rolled back. Afterwards a service that waits for Redis or the store is healthy: killing it would not bring them back.
"""

import pathlib
import socket
import sys

PORT = 9100
WAS_READY = pathlib.Path("/tmp/was-ready")  # /tmp is this container's own memory, empty at each start


def answers(path: str) -> bool:
    """Whether GET of the path on the internal port is answered 200."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=3) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return connection.recv(64).split(b" ")[1] == b"200"
    except (OSError, IndexError):
        return False


if WAS_READY.exists():
    sys.exit(0 if answers("/healthz") else 1)
if not answers("/readyz"):
    sys.exit(1)
WAS_READY.touch()
