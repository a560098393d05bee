"""Each thing that would stop a start is one line that names it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack.preflight import check_namespaces, only_one, prepare_data, service_token, used_webhooks
from services.shared.process.config import ConfigError
from tests.support.webhooks import webhooks_file


def test_a_file_in_place_of_the_data_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/data can't be made, a file is in its place: .* --data"):
        prepare_data(tmp_path / "data")


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir(mode=0o500)
    return tmp_path / "data"


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root may write everywhere: be somebody else for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unwritable_data_directory_is_named(locked: Path, not_root: None) -> None:
    with pytest.raises(ConfigError, match=rf"data directory {locked}.* \(Permission denied\): .* --data"):
        prepare_data(locked)


def test_a_data_directory_that_can_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data directory /proc/thalamus is not writable|can't be made"):
        prepare_data(Path("/proc/thalamus"))


def test_a_second_start_on_the_same_directory_is_refused_with_the_first_one_s_pid(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigError, match=rf"in use by `thalamus dev` \(pid {os.getpid()}\)")
    with only_one(tmp_path), refused, only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_the_service_token_is_made_once_and_is_for_this_user_only(tmp_path: Path) -> None:
    path = service_token(None, tmp_path)
    first = path.read_bytes()
    assert len(first.strip()) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert service_token(None, tmp_path).read_bytes() == first


def test_a_service_token_file_that_does_not_exist_is_named_with_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SERVICE_TOKEN_FILE"):
        service_token(str(tmp_path / "missing"), tmp_path)


def test_a_missing_namespace_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml does not exist: name one with --config or CHANNELS_FILE"):
        check_namespaces(tmp_path / "none.toml")


def test_a_wrong_option_is_named_with_file_and_namespace(tmp_path: Path) -> None:
    path = tmp_path / "channels.toml"
    path.write_text('[namespaces.chat]\ndurabilty = "hot"\n')
    with pytest.raises(ConfigError) as complaint:
        check_namespaces(path)
    assert all(word in str(complaint.value) for word in (str(path), "chat", "durabilty"))


def test_the_file_of_webhooks_counts_where_it_names_an_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "webhooks.toml"
    path.write_text("# none yet\n")
    assert used_webhooks(path) is None
    assert used_webhooks(None) is None
    assert used_webhooks(webhooks_file(tmp_path, "https://there.example")) == path


def test_a_wrong_endpoint_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[endpoints\.crm\] tries: must be 1 to 50, not 0"):
        used_webhooks(webhooks_file(tmp_path, "https://there.example", tries=0))
    with pytest.raises(ConfigError, match="WEBHOOKS_FILE: can't read"):
        used_webhooks(tmp_path / "none.toml")


def test_a_secret_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "service.token.new").mkdir()  # nobody can write there, nor root
    with pytest.raises(ConfigError, match=rf"{tmp_path}/service.token can't be written: Is a directory"):
        service_token(None, tmp_path)
