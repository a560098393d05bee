"""Objects in a bucket of S3, by boto3, in threads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from services.persistence.archive.ports import ObjectMissing, StoredObject
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError, field_env

_PLACE = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_.=-]+)*)/?")
_THREADS = 8
_CONNECT_S = 1.0  # longest wait for a connection, seconds
_READ_S = 5.0  # longest wait for data of a response, seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """Where S3 is; boto3 finds the credentials."""

    endpoint: str = field_env("S3_ENDPOINT", "")  # empty: the one of AWS for the region
    region: str = field_env("AWS_REGION", "us-east-1")

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError("S3_ENDPOINT must begin with http:// or https://")


def parse(place: str) -> tuple[str, str]:
    """Return bucket and prefix of `s3://bucket/prefix`.

    The prefix ends in a slash, or is empty.

    Raises:
        ConfigError: it is no such address.
    """
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ConfigError("PERSISTENCE_ARCHIVE must be the path of a directory, or s3://bucket/prefix")
    prefix = found[2].lstrip("/")
    return found[1], f"{prefix}/" if prefix else ""


class S3Objects:
    """`ObjectStore` in a bucket."""

    def __init__(self, place: str, settings: S3Settings) -> None:
        """Create the client; no request yet.

        Raises:
            ConfigError: boto3 does not accept the settings.
        """
        self._bucket, self._prefix = parse(place)
        self._executor = ThreadPoolExecutor(_THREADS, "s3")
        try:
            self._client = boto3.session.Session().client(
                "s3",
                region_name=settings.region,
                endpoint_url=settings.endpoint or None,
                config=Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    max_pool_connections=_THREADS,
                    retries={"total_max_attempts": 3, "mode": "standard"},
                    s3={"addressing_style": "path"} if settings.endpoint else {},
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"S3_ENDPOINT, AWS_REGION: {error}") from error

    async def put(self, name: str, body: bytes) -> None:
        await self._call("put_object", Key=self._prefix + name, Body=body)

    async def get(self, name: str) -> bytes:
        reply = await self._call("get_object", Key=self._prefix + name)
        return bytes(reply["Body"])

    async def delete(self, name: str) -> None:
        await self._call("delete_object", Key=self._prefix + name)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        more: dict[str, str] = {}
        while True:
            reply = await self._call("list_objects_v2", Prefix=f"{self._prefix}{prefix}/", **more)
            for one in reply.get("Contents", []):
                yield StoredObject(one["Key"].removeprefix(self._prefix), one["LastModified"].timestamp())
            if not reply.get("IsTruncated"):
                return
            more = {"ContinuationToken": reply["NextContinuationToken"]}

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown, cancel_futures=True)
        self._client.close()

    async def _call(self, op: str, **arguments: Any) -> Mapping[str, Any]:
        def run() -> Mapping[str, Any]:
            reply: dict[str, Any] = getattr(self._client, op)(Bucket=self._bucket, **arguments)
            if "Body" in reply:
                reply["Body"] = reply["Body"].read()
            return reply

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, run)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "NoSuchKey":
                raise ObjectMissing(str(arguments.get("Key"))) from error
            raise Unavailable(f"S3 refused: {code}") from error
        except (BotoCoreError, OSError) as error:  # OSError: the connection broke while the object was read
            raise Unavailable(f"S3 does not answer: {type(error).__name__}") from error
