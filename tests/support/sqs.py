"""A real SQS HTTP API for tests: moto's server."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from services.persistence.queue.settings import SqsSettings
from tests.support.dynamodb import CREDENTIALS, dynamodb_server


@pytest.fixture(scope="session")
def sqs_address() -> Iterator[str]:
    with dynamodb_server(threaded=True) as address:  # moto's server is all of AWS
        yield address


@pytest.fixture
def sqs_settings(sqs_address: str, monkeypatch: pytest.MonkeyPatch) -> SqsSettings:
    """Of a queue that nobody else has."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return SqsSettings(endpoint=sqs_address, queue=f"q-{uuid.uuid4().hex}", create_queues=True)


def environment_of(settings: SqsSettings) -> dict[str, str]:
    """Return what a process needs to use this queue."""
    return {
        "PERSISTENCE_QUEUE": "sqs",
        "SQS_ENDPOINT": settings.endpoint,
        "SQS_QUEUE": settings.queue,
        "SQS_CREATE_QUEUES": "true",
        "PATH": os.environ["PATH"],
        **CREDENTIALS,
    }
