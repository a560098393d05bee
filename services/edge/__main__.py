"""The edge: reads its settings, wires domain, adapters, dialects and transport, runs, drains."""

from __future__ import annotations

import logging

logger = logging.getLogger("services.edge")

_SHORT_SECRET_BYTES = 32
