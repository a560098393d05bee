"""Reports the progress of a run every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verify.events import Recorder

EVERY_S = 5.0  # pause between two lines, seconds


class Progress:
    """Says a line at every new stage, and every `EVERY_S` seconds within one."""

    def __init__(self, say: Callable[[str], None], recorder: Recorder) -> None:
        self._say = say
        self._recorder = recorder
        self._stage = ""

    def stage(self, text: str) -> None:
        """Begin a new stage with this name."""
        self._stage = text
        self._tell()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self._tell()

    def _tell(self) -> None:
        counts = self._recorder.counts
        self._say(
            f"{self._stage}: {counts['Acked']} of {counts['Publishing']} publications acknowledged, "
            f"{counts['Delivered']} deliveries, {counts['Offline']} cuts, {counts['Told']} gaps told"
        )
