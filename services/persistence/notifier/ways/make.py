"""Makes the ways out that the file names, as far as their libraries are there."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence

from services.persistence.notifier.options import ApnsOptions, FcmOptions, Options, WebPushOptions
from services.persistence.notifier.ports import Way
from services.persistence.notifier.ways.webhook import WebhookWay
from services.shared.webhook_signing import read_signer

logger = logging.getLogger(__name__)

_EXTRA = "pip install thalamus-realtime[push]"


def ways_of(options: Options, web_push_hosts: Sequence[str]) -> list[Way]:
    """Return the ways out. One whose library is not there is left out, and logged.

    Raises:
        ConfigError: a file that is named can't be used.
    """
    made: list[Way] = []
    if (webhook := options.webhook) is not None:
        signer = read_signer([options.path(one) for one in webhook.secret_files], "[webhook] secret_files")
        made.append(WebhookWay(webhook.url, signer, timeout_s=webhook.timeout_s))
    if options.webpush is not None:
        made += _made("webpush", lambda: _web_push(options, options.webpush, web_push_hosts))
    if options.fcm is not None:
        made += _made("fcm", lambda: _fcm(options, options.fcm))
    if options.apns is not None:
        made += _made("apns", lambda: _apns(options, options.apns))
    return made


def _made(name: str, make: Callable[[], Way]) -> list[Way]:
    try:
        importlib.import_module(f"{__package__}.{name}")
    except ImportError as error:
        logger.error("%s can't be sent to: %s is missing; %s", name, error.name, _EXTRA)
        return []
    return [make()]


def _web_push(options: Options, mine: WebPushOptions | None, hosts: Sequence[str]) -> Way:
    from services.persistence.notifier.ways.webpush import WebPushWay  # its libraries may be missing

    assert mine is not None
    ca_file = options.path(mine.ca_file) if mine.ca_file else None
    return WebPushWay(options.path(mine.key_file), mine.subject, hosts, ttl_s=mine.ttl_s, ca_file=ca_file)


def _fcm(options: Options, mine: FcmOptions | None) -> Way:
    from services.persistence.notifier.ways.fcm import FcmWay

    assert mine is not None
    return FcmWay(options.path(mine.account_file), url=mine.url)


def _apns(options: Options, mine: ApnsOptions | None) -> Way:
    from services.persistence.notifier.ways.apns import ApnsWay

    assert mine is not None
    return ApnsWay(options.path(mine.key_file), mine.key_id, mine.team_id, mine.topic, sandbox=mine.sandbox)
