"""Where objects are, as PERSISTENCE_ARCHIVE says."""

from __future__ import annotations

import os
from pathlib import Path

from services.persistence.archive.directory import Directory
from services.persistence.archive.ports import ObjectStore
from services.shared.process.config import ConfigError
from services.shared.process.variables import read_checked_env

S3 = "s3://"


def open_objects(place: str) -> ObjectStore:
    """Return the place of objects; makes no request.

    Raises:
        ConfigError: it is an address, but not that of a bucket of S3, or a setting of S3 is wrong.
    """
    if "://" in place and not place.startswith(S3):
        raise ConfigError("PERSISTENCE_ARCHIVE must be the path of a directory, or s3://bucket/prefix")
    if not place.startswith(S3):
        return Directory(Path(place))
    from services.persistence.archive.s3 import S3Objects, S3Settings  # boto3 takes half a second to import

    return S3Objects(place, read_checked_env(S3Settings, os.environ, "S3_"))
