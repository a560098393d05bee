"""docs/push.md: its backend runs as printed, and takes what is signed alone."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import httpx

from services.persistence.notifier.letter import Errand
from services.persistence.notifier.ways.webhook import WebhookWay
from services.persistence.notifier.wording import note_of
from services.persistence.webhooks.http import Outcome
from services.shared.webhook_signing import Signer
from tests.support.faults import free_port
from tests.support.webhooks import SECRET

PAGE = (Path(__file__).parents[2] / "docs" / "push.md").read_text(encoding="utf-8")


async def test_the_backend_as_printed_is_told(tmp_path: Path) -> None:
    (found,) = re.findall(r"<!-- notified.py -->\n   ```python\n(.*?)   ```", PAGE, re.DOTALL)
    (tmp_path / "notified.py").write_text(re.sub("^   ", "", found, flags=re.MULTILINE))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(tmp_path / "notified.py"), str(port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "SECRET": SECRET},
    )
    url = f"http://127.0.0.1:{port}/push"
    way = WebhookWay(url, Signer([SECRET]))
    note = note_of(Errand(kind="dismiss", user="bob", channel="conv:g.x", epoch="e", offset=7), None, "")
    try:
        async with asyncio.timeout(30):
            while (await way.send("msg_1", note, None)).outcome is not Outcome.TAKEN:
                assert process.returncode is None
                await asyncio.sleep(0.05)
            assert process.stdout is not None
            assert await process.stdout.readline() == f"dismiss bob None {note.id}\n".encode()
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.post(url, content=b"{}")).status_code == 401
    finally:
        await way.close()
        process.kill()
        await process.wait()
