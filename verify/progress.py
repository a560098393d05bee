"""Where a run stands, said every few seconds: a check of minutes shall not look as if it hung."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from verify.events import Recorder

EVERY_S = 5.0


class Progress:
    """Says a line at every new stage, and every `EVERY_S` seconds within one."""

    def __init__(self, say: Callable[[str], None], recorder: Recorder) -> None:
        self._say = say
        self._recorder = recorder
        self._stage = ""

    def stage(self, text: str) -> None:
        """What happens from now on."""
        self._stage = text
        self._tell()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self._tell()

    def _tell(self) -> None:
        counts = self._recorder.counts
        self._say(
            f"{self._stage}: {counts['Acked']} of {counts['Publishing']} publications acknowledged, "
            f"{counts['Delivered']} deliveries, {counts['Offline']} cuts, {counts['Told']} gaps told"
        )
