"""An HTTP proxy in front of DynamoDB that makes faults, by a seed.

It throttles requests, fails, loses responses and leaves work unprocessed.

`python dynamodb_faults.py http://dynamodb:8000 8000` runs it by itself, without faults until `PUT /shares` asks for
some; `GET /counts` tells what came and what was done to it. It needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_THROTTLE = "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
_FAILURE = "com.amazonaws.dynamodb.v20120810#InternalServerError"
_REFUSAL = "com.amazonaws.dynamodb.v20120810#AccessDeniedException"
_JSON = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-RequestId": "of-the-proxy"}
_KEPT = {name.lower() for name in _JSON}


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the requests that meet a fault, from 0 to 1.

    `unprocessed` is a share of the BatchWriteItems and BatchGetItems that are executed.
    """

    throttled: float = 0.0  # 400, not executed
    failed: float = 0.0  # 500, not executed
    lost: float = 0.0  # executed, then the connection ends without an answer
    unprocessed: float = 0.0  # 200, but a part was not executed


class DynamoDbFaults:
    """The proxy: counts of requests and of faults, and the shares of faults.

    `requests` counts what came, by operation; `faults` what was done to it. All may be set at any time.

    Requests that have the text `refused` in them are refused for good, those with `throttled` throttled; empty: none.
    Every request waits for `delay_s` first.
    """

    def __init__(
        self, target: str, *, seed: int, shares: Shares | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.shares = shares or Shares()
        self.refused, self.refused_requests = "", 0
        self.throttled, self.delay_s = "", 0.0
        self.answered_bytes = 0
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._target = urlsplit(target).netloc
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Until it is closed."""
        self._thread.join()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def begin(self, seed: int, shares: Shares) -> None:
        """From now on these shares, by this seed; counts begin at 0."""
        with self._lock:
            self._random, self.shares = random.Random(seed), shares
            self.requests.clear()
            self.faults.clear()

    def answer(self, op: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body for the client; None: nothing, the connection ends."""
        if self.refused and self.refused.encode() in body:
            self.refused_requests += 1
            return _error(400, _REFUSAL)
        time.sleep(self.delay_s)
        if self.throttled and self.throttled.encode() in body:
            return _error(400, _THROTTLE)
        fault = self._choose(op)
        if fault == "throttled":
            return _error(400, _THROTTLE)
        if fault == "failed":
            return _error(500, _FAILURE)
        if fault == "unprocessed":
            return self._in_part(headers, body)
        reply = self._forward(headers, body)
        return None if fault == "lost" else reply

    def _choose(self, op: str) -> str:
        with self._lock:
            self.requests[op] += 1
            chance, shares, fault = self._random.random(), self.shares, ""
            for name in ("throttled", "failed", "lost"):
                chance -= getattr(shares, name)
                if chance < 0 and not fault:
                    fault = name
            if not fault and op in ("BatchWriteItem", "BatchGetItem") and self._random.random() < shares.unprocessed:
                fault = "unprocessed"
            if fault:
                self.faults[fault] += 1
            return fault

    def _in_part(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Execute some of the items of a request: at least one, and not all of several."""
        request = json.loads(body)
        ((table, asked),) = request["RequestItems"].items()
        reads = isinstance(asked, dict)  # a BatchGetItem
        all_of_them = asked["Keys"] if reads else asked
        with self._lock:
            most = max(1, len(all_of_them) - 1)
            chosen = self._random.sample(range(len(all_of_them)), self._random.randint(1, most))
        some = [one for index, one in enumerate(all_of_them) if index in chosen]
        rest = [one for index, one in enumerate(all_of_them) if index not in chosen]
        first, left = ({**asked, "Keys": part} if reads else part for part in (some, rest))
        status, kept, reply = self._forward(headers, json.dumps({**request, "RequestItems": {table: first}}).encode())
        if status == 200 and rest:
            name = "UnprocessedKeys" if reads else "UnprocessedItems"
            reply = json.dumps({**json.loads(reply), name: {table: left}}).encode()
        return status, _JSON if status == 200 else kept, reply

    def _forward(self, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        passed = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        connection = http.client.HTTPConnection(self._target, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/", body, passed)
            response = connection.getresponse()
            content = response.read()
            self.answered_bytes += len(content)
            kept = {name: value for name, value in response.headers.items() if name.lower() in _KEPT}
            return response.status, kept, content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        faults = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                op = self.headers["X-Amz-Target"].partition(".")[2]
                found = faults.answer(op, dict(self.headers.items()), body)
                if found is None:
                    self.close_connection = True
                    return
                status, headers, content = found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                self._say({"requests": faults.requests, "faults": faults.faults, "shares": asdict(faults.shares)})

            def do_PUT(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                faults.begin(asked.pop("seed"), Shares(**asked))
                self._say({})

            def _say(self, content: object) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        return Handler


@contextlib.contextmanager
def dynamodb_faults(target: str, *, seed: int, shares: Shares | None = None) -> Iterator[DynamoDbFaults]:
    """In front of the server at `target`, such as `http://127.0.0.1:8000`."""
    made = DynamoDbFaults(target, seed=seed, shares=shares)
    made.start()
    try:
        yield made
    finally:
        made.close()


def _error(status: int, kind: str) -> tuple[int, dict[str, str], bytes]:
    return status, _JSON, json.dumps({"__type": kind, "message": "by the seed"}).encode()


if __name__ == "__main__":
    alone = DynamoDbFaults(sys.argv[1], seed=0, host="0.0.0.0", port=int(sys.argv[2]))
    alone.start()
    alone.wait()
