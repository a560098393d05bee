"""Settings of DynamoDB, read by every service that stores something there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.shared.process.config import ConfigError, field_env, number

_PREFIX = re.compile(r"[a-zA-Z0-9_.-]{0,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoDbSettings:
    """Address, tables and limits; `docs/configuration.md` explains each.

    boto3 finds the credentials: a role, or the file that AWS_SHARED_CREDENTIALS_FILE names.
    """

    endpoint: str = field_env("DYNAMODB_ENDPOINT", "")  # empty: the one of AWS for the region
    region: str = field_env("AWS_REGION", "us-east-1")
    table_prefix: str = field_env("DYNAMODB_TABLE_PREFIX", "thalamus-")
    threads: int = number(32, 1, 1_024, env="DYNAMODB_THREADS")  # concurrent requests of one process
    create_tables: bool = field_env("DYNAMODB_CREATE_TABLES", False)  # create missing tables

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.table_prefix):
            raise ConfigError("DYNAMODB_TABLE_PREFIX may have letters, digits, dot, underscore and hyphen")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError("DYNAMODB_ENDPOINT must begin with http:// or https://")

    @property
    def log_table(self) -> str:
        """Table of persistence: publications and channels."""
        return f"{self.table_prefix}log"

    @property
    def chat_table(self) -> str:
        """Table of persistence: what became of conversations."""
        return f"{self.table_prefix}chat"

    @property
    def accounts_table(self) -> str:
        """Table of auth: users, sessions and keys."""
        return f"{self.table_prefix}accounts"
