"""Settings of the webhook dispatcher, read from WEBHOOKS_* variables at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.shared.startup.config import ProcessConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhooksConfig(ProcessConfig):
    """Settings; `docs/configuration.md` explains each."""

    file: Path = Path("config/webhooks.toml")
