"""Where objects are, as PERSISTENCE_ARCHIVE says."""

from __future__ import annotations

from pathlib import Path

from services.persistence.archive.directory import Directory
from services.persistence.archive.ports import ObjectStore
from services.shared.process.config import ConfigError

S3 = "s3://"


def check_place(place: str) -> None:
    """Check what PERSISTENCE_ARCHIVE says.

    Raises:
        ConfigError: it is not the address of a bucket.
    """
    if place.startswith(S3):
        raise ConfigError("PERSISTENCE_ARCHIVE must be the path of a directory")


def open_objects(place: str) -> ObjectStore:
    """Return the place of objects; makes no request."""
    return Directory(Path(place))
