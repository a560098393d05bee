"""Makes the ways out that the file names, and for which libraries are there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from services.persistence.notifier.options import Options
from services.persistence.notifier.ports import Way
from services.persistence.notifier.ways.webhook import WebhookWay
from services.shared.webhook_signing import read_signer

logger = logging.getLogger(__name__)

_LIBRARIES: Mapping[str, Sequence[str]] = {
    "webpush": ("pywebpush", "py_vapid"),
    "fcm": ("google.auth", "requests"),
    "apns": ("aioapns",),
}
_EXTRA = "pip install thalamus-realtime[push]"


def ways_of(options: Options, web_push_hosts: Sequence[str]) -> list[Way]:
    """Return the ways out. What lacks its library is left out, and logged.

    Raises:
        ConfigError: a file that is named can't be used.
    """
    made: list[Way] = []
    if (webhook := options.webhook) is not None:
        signer = read_signer([options.path(one) for one in webhook.secret_files], "[webhook] secret_files")
        made.append(WebhookWay(webhook.url, signer, timeout_s=webhook.timeout_s))
    return made
