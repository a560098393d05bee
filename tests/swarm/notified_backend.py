"""A backend that says what it is told: a line of JSON for each request.

It runs in a container of the stack, with nothing but Python.
"""

from __future__ import annotations

import http.server
import json
import sys


class _Backend(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        sys.stdout.write(json.dumps({"headers": headers, "body": body}) + "\n")
        self._done()

    def do_GET(self) -> None:
        self._done()

    def _done(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing else."""


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("", int(sys.argv[1])), _Backend).serve_forever()
