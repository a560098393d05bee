"""Settings of persistence, read from the environment (PERSISTENCE_*) at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.persistence.chat.devices.device import WEB_PUSH_HOSTS
from services.shared.hotlog.hotlog import MAX_UNSTORED_BYTES
from services.shared.process.config import HIGHEST_PORT, ConfigError, field_env, group, number
from services.shared.startup.config import FeedConfig, GrpcServiceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistenceConfig(GrpcServiceConfig):
    """Settings; `docs/configuration.md` explains each."""

    grpc_port: int = number(9003, 0, HIGHEST_PORT)
    grpc_tls_port: int = number(9013, 0, HIGHEST_PORT)
    channels_file: Path = field_env("CHANNELS_FILE", Path("config/channels.toml"))
    store: str = "sqlite"
    db: Path = Path("data/persistence.sqlite3")
    queue: str = ""  # between persistence and the store, for durability `queued`: none, or "sqs"
    max_unstored: int = number(10_000, 1)  # publications of a channel; beyond, appends are refused as busy
    max_unstored_bytes: int = number(MAX_UNSTORED_BYTES, 1)  # the same in bytes, where they are acknowledged before
    max_waiting: int = number(20_000, 1)  # publications that wait for a batch, of all edges
    inbox_conversations: int = number(1_000, 1, 10_000)  # of a user that inboxes look at
    archive: str = ""  # where old publications go: the path of a directory, or s3://bucket/prefix; "": nowhere
    archive_keep_days: int = number(35, 1, 36_500)  # for which objects that no segment needs any more are kept
    search: str = "off"  # "on": messages are indexed, and can be searched
    search_threads: int = number(2, 1, 16)  # that search the index in SQLite
    web_push_hosts: tuple[str, ...] = field_env("WEB_PUSH_HOSTS", WEB_PUSH_HOSTS)
    feed: FeedConfig = group(FeedConfig)

    def __post_init__(self) -> None:
        if self.store not in ("sqlite", "dynamodb"):
            raise ConfigError("PERSISTENCE_STORE must be sqlite or dynamodb")
        if self.queue not in ("", "sqs"):
            raise ConfigError("PERSISTENCE_QUEUE must be sqs, or not set")
        if self.archive and self.store != "sqlite":
            raise ConfigError(
                "PERSISTENCE_ARCHIVE needs PERSISTENCE_STORE=sqlite: there is no archive with DynamoDB yet"
            )
        if self.search not in ("on", "off"):
            raise ConfigError("PERSISTENCE_SEARCH must be on or off")
