"""The container's health: ready once, from then on alive.

Until the service was ready for the first time, only readiness counts, so an update with a setting that can't work is
rolled back. Afterwards a service that waits for Redis or the store is healthy: killing it would not bring them back.
An edge with EDGE_WORKERS is as healthy as the worst of them.
"""

import os
import pathlib
import socket
import sys

PORT = 9100
WAS_READY = pathlib.Path("/tmp/was-ready")  # /tmp is this container's own memory, empty at each start


def ports() -> range:
    """The internal ports: those of workers follow one another."""
    workers = os.environ.get("EDGE_WORKERS", "1")
    return range(PORT, PORT + (max(len(os.sched_getaffinity(0)) - 1, 1) if workers == "auto" else int(workers)))


def answers(port: int, path: str) -> bool:
    """Whether GET of the path on an internal port is answered 200."""
    for host in ("127.0.0.1", "::1"):
        try:
            with socket.create_connection((host, port), timeout=3) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                return connection.recv(64).split(b" ")[1] == b"200"
        except ConnectionRefusedError:
            continue
        except (OSError, IndexError):
            return False
    return False


path = "/healthz" if WAS_READY.exists() else "/readyz"
if not all(answers(port, path) for port in ports()):
    sys.exit(1)
WAS_READY.touch()
