"""The service worker of docs/push.md as it is printed, in headless Chromium."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import threading
from pathlib import Path

import pytest

from services.persistence.notifier.letter import Errand
from services.persistence.notifier.ports import Shown
from services.persistence.notifier.ways.webpush import payload
from services.persistence.notifier.wording import note_of
from tests.web.test_console import chromium, node, playwright  # noqa: F401  # fixtures

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "docs" / "push.md"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def notes() -> tuple[str, str]:
    """What the notifier sends: a message, and what takes it back."""
    place = {"user": "bob", "channel": "conv:g.x", "epoch": "e", "offset": 7, "address": "a"}
    shown = Shown(
        type="group",
        title="Lunch",
        author="ann",
        author_name="Ann",
        text="hi 👋",
        time_ms=1,
        attachments=0,
        is_mention=False,
        badge=3,
    )
    message = note_of(Errand(kind="message", **place), shown, "text")  # type: ignore[arg-type]
    back = note_of(Errand(kind="dismiss", **place), None, "")  # type: ignore[arg-type]
    return payload(message).decode(), payload(back).decode()


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
def test_the_worker_shows_a_notification_once_and_takes_it_back(node: str, chromium: str, tmp_path: Path) -> None:  # noqa: F811
    (worker,) = [
        code for code in re.findall(r"```js\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL) if "self." in code
    ]
    site = tmp_path / "site"
    site.mkdir()
    (site / "worker.js").write_text(worker)
    (site / "index.html").write_text("<!doctype html><title>page</title>")
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        shown, back = notes()
        command = [node, str(_HERE / "push_worker.mjs"), base, str(tmp_path / "profile"), chromium, shown, back]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(shown)["id"] == json.loads(back)["id"]
