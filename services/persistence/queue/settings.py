"""Settings of the queue, read by persistence and its workers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.shared.process.config import ConfigError, field_env, number

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,75}")
DEAD = "-dead"  # how the name of the dead-letter queue ends


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsSettings:
    """Address and name; `docs/configuration.md` explains each.

    boto3 finds the credentials.
    """

    endpoint: str = field_env("SQS_ENDPOINT", "")  # empty: the one of AWS for the region
    region: str = field_env("AWS_REGION", "us-east-1")
    queue: str = field_env("SQS_QUEUE", "thalamus")
    create_queues: bool = field_env("SQS_CREATE_QUEUES", False)  # create the queue and its dead-letter queue
    receivers: int = number(4, 1, 64, env="SQS_RECEIVERS")  # concurrent receivers of one worker

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.queue):
            raise ConfigError("SQS_QUEUE may have up to 75 letters, digits, underscores and hyphens")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError("SQS_ENDPOINT must begin with http:// or https://")

    @property
    def dead_queue(self) -> str:
        """Name of the dead-letter queue."""
        return self.queue + DEAD
