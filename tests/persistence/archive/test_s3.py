"""The archive in a bucket of S3: moto's server, over HTTP."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from services.persistence.archive import s3
from services.persistence.archive.ports import ObjectMissing
from services.persistence.archive.s3 import S3Objects, S3Settings
from services.persistence.archive.settings import open_objects
from services.shared.errors import Unavailable
from services.shared.process.config import ConfigError
from tests.persistence.archive.test_model import finish, put, remove
from tests.support.archive import DAY, Clock, Model, archiver_of, store_at
from tests.support.aws import client
from tests.support.faults import free_port


@pytest.fixture
def bucket(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an empty bucket, which the environment tells how to find."""
    monkeypatch.setenv("S3_ENDPOINT", dynamodb)
    name = f"b-{uuid.uuid4().hex}"
    client("s3", dynamodb).create_bucket(Bucket=name)
    return name


def names_in(address: str, bucket: str) -> list[str]:
    found = client("s3", address).list_objects_v2(Bucket=bucket).get("Contents", [])
    return [one["Key"] for one in found if not one["Key"].endswith("/marker")]


async def test_a_log_with_its_archive_in_a_bucket_is_as_one_without(dynamodb: str, bucket: str, tmp_path: Path) -> None:
    place, clock, model = f"s3://{bucket}/of/tests", Clock(), Model("old:a", 3)
    store = store_at(tmp_path, clock, open_objects(place))
    await put(store, model, 25)
    clock.now += 2 * DAY
    await put(store, model, 1)
    assert await archiver_of(store, clock).archive()
    found = await store.segments.segments("old:a", 1, 26)
    assert names_in(dynamodb, bucket) == sorted(f"of/tests/{one.object}" for one in found)
    await model.check_all(store)

    await store.erase("old:a", {5: model.erase(5)})
    await archiver_of(store, clock).erase()
    assert len(names_in(dynamodb, bucket)) == len(found)
    assert f"of/tests/{found[0].object}" not in names_in(dynamodb, bucket)
    await remove(store, clock, model, found[1].first)
    await finish(store, clock)
    await model.check_all(store)
    left = await store.segments.segments("old:a", 1, 26)
    assert names_in(dynamodb, bucket) == sorted(f"of/tests/{one.object}" for one in left)

    client("s3", dynamodb).delete_object(Bucket=bucket, Key=f"of/tests/{left[0].object}")
    store.loaded.forget(left[0].object)
    with pytest.raises(Unavailable, match="missing"):
        await store.read("old:a", since_offset=0, upto=26, limit=100, reverse=False)
    await store.close()


async def test_objects_are_listed_page_by_page_and_deleted_once(dynamodb: str, bucket: str) -> None:
    objects = open_objects(f"s3://{bucket}")
    for number in range(5):
        await objects.put(f"mine/{number}", b"x" * number)
    await objects.put("other/1", b"")
    plain = objects._client.list_objects_v2  # type: ignore[attr-defined]  # noqa: SLF001
    objects._client.list_objects_v2 = lambda **named: plain(MaxKeys=2, **named)  # type: ignore[attr-defined]  # noqa: SLF001
    found = [one async for one in objects.list("mine")]
    assert [one.name for one in found] == [f"mine/{number}" for number in range(5)]
    assert all(one.modified > 1_700_000_000 for one in found)
    assert await objects.get("mine/3") == b"xxx"
    for _ in range(2):
        await objects.delete("mine/3")
    with pytest.raises(ObjectMissing):
        await objects.get("mine/3")
    await objects.close()


async def test_an_s3_that_does_not_answer_or_refuses_is_unavailable(dynamodb: str, bucket: str) -> None:
    nobody = S3Objects(f"s3://{bucket}", S3Settings(endpoint=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(Unavailable, match="does not answer"):
        await nobody.get("a/b")
    await nobody.close()
    missing = open_objects("s3://there-is-no-such-bucket")
    with pytest.raises(Unavailable, match="NoSuchBucket"):  # not as if the object had gone
        await missing.get("a/b")
    await missing.close()


def test_addresses_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.parse("s3://a-bucket") == s3.parse("s3://a-bucket/") == ("a-bucket", "")
    assert s3.parse("s3://a-bucket/a/b") == s3.parse("s3://a-bucket/a/b/") == ("a-bucket", "a/b/")
    for wrong in ("s3://", "s3://A", "s3://a-bucket//", "s3://a-bucket/ä", "s3://a-bucket/a b"):
        with pytest.raises(ConfigError, match="s3://bucket/prefix"):
            s3.parse(wrong)
    monkeypatch.setenv("S3_ENDPOINT", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="S3_ENDPOINT"):
        open_objects("s3://a-bucket")
