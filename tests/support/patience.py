"""Longer limits for what a service in the test's own process waits for.

Edges wait 2.8 s for an answer, so persistence gives up before. A test that is about something else must not see that on
a busy machine. Tests of such limits set their own.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest

_LONG_S = 60.0
_LIMITS = (
    ("services.persistence.adapters.redis.hotlog", "TIMEOUT_S"),
    ("services.persistence.chat.append", "_PATIENCE_S"),
    ("services.persistence.chat.erasure_marks", "_TIMEOUT_S"),
    ("services.persistence.chat.expiry", "_TIMEOUT_S"),
    ("services.persistence.chat.farewells", "_TIMEOUT_S"),
    ("services.persistence.chat.inbox.inbox", "_TIMEOUT_S"),
    ("services.persistence.chat.inbox.kept_heads", "_TIMEOUT_S"),
    ("services.persistence.chat.inbox.lists", "_TIMEOUT_S"),
    ("services.persistence.chat.markers.kept", "_TIMEOUT_S"),
    ("services.persistence.chat.markers.receipts", "_TIMEOUT_S"),
    ("services.persistence.chat.marks", "_TIMEOUT_S"),
    ("services.persistence.chat.methods.me", "_ENDS_S"),
    ("services.persistence.chat.shown_marks", "_TIMEOUT_S"),
    ("services.persistence.chat.who_types", "_TIMEOUT_S"),
    ("services.persistence.domain.comparison", "_MAX_WAIT_S"),
    ("services.persistence.domain.log", "_MAX_WAIT_S"),
    ("services.shared.redis.pipeline", "CONNECT_TIMEOUT_S"),
)
_OF_DYNAMODB = (
    ("services.persistence.adapters.dynamodb.store", "DynamoDbLogStore"),
    ("services.persistence.chat.adapters.dynamodb.devices", "DynamoDbDeviceStore"),
    ("services.persistence.chat.adapters.dynamodb.markers", "DynamoDbMarkerStore"),
    ("services.persistence.chat.adapters.dynamodb.store", "DynamoDbChatStore"),
    ("services.shared.dynamodb.client", "DynamoDb"),
)
_DEFAULTS = (
    ("services.persistence.chat.adapters.sqlite_search", "SqliteSearchIndex", "longest_s"),
    ("services.persistence.chat.unread.badge", "Badges", "longest_s"),
)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the limits of persistence to a minute, for what is made from now on."""
    for module, name in _LIMITS:
        monkeypatch.setattr(importlib.import_module(module), name, _LONG_S)
    for module, kind, argument in _DEFAULTS:
        monkeypatch.setitem(_defaults(module, kind), argument, _LONG_S)


def be_patient_with_dynamodb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set deadlines that are not given to a minute.

    Moto takes one request at a time, and seconds for some.
    """
    for module, kind in _OF_DYNAMODB:
        defaults = _defaults(module, kind)
        for argument in defaults.keys() & {"deadline_s", "shared_deadline_s", "long_deadline_s"}:
            monkeypatch.setitem(defaults, argument, _LONG_S)


def _defaults(module: str, kind: str) -> dict[str, Any]:
    made = getattr(importlib.import_module(module), kind)
    found: dict[str, Any] = made.__init__.__kwdefaults__
    return found
