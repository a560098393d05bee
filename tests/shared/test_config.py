"""Settings: every type, every default, and complaints that name the variable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from services.shared.process.config import (
    ConfigError,
    field_env,
    fixed,
    group,
    number,
    read_env,
    read_secret_file,
    settings_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    per_user: int = number(3, 1, 9)
    ring_size: int = fixed(256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    name: str
    redis_url: str = field_env("REDIS_URL", "redis://here")
    port: int = 9001
    lease_ttl_s: float = 12.0
    insecure: bool = False
    data: Path = Path("data")
    token_file: Path | None = field_env("SERVICE_TOKEN_FILE", None)
    limit: int | None = None
    allowed_origins: tuple[str, ...] = ()
    limits: Limits = group(Limits)

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ConfigError("DEMO_PORT must not be negative")


def read(**env: str) -> Config:
    return read_env(Config, {"DEMO_NAME": "x"} | env, prefix="DEMO")


@pytest.mark.parametrize("prefix", ["DEMO", "DEMO_"])
def test_the_prefix_may_end_with_its_underscore(prefix: str) -> None:
    assert read_env(Config, {"DEMO_NAME": "x"}, prefix=prefix).name == "x"


def test_absent_variables_leave_the_defaults() -> None:
    assert read() == Config(name="x")


def test_variables_are_read_as_their_types() -> None:
    assert read(
        DEMO_PORT="0",
        DEMO_LEASE_TTL_S="1.5",
        DEMO_INSECURE="True",
        DEMO_DATA="/var/data",
        DEMO_LIMIT="7",
        DEMO_ALLOWED_ORIGINS=" https://a.example, ,https://b.example ",
    ) == Config(
        name="x",
        port=0,
        lease_ttl_s=1.5,
        insecure=True,
        data=Path("/var/data"),
        limit=7,
        allowed_origins=("https://a.example", "https://b.example"),
    )


def test_shared_settings_are_read_without_the_prefix() -> None:
    config = read(REDIS_URL="redis://there", SERVICE_TOKEN_FILE="/run/secrets/token", DEMO_REDIS_URL="ignored")
    assert (config.redis_url, config.token_file) == ("redis://there", Path("/run/secrets/token"))


def test_settings_of_a_group_are_read_by_their_own_names() -> None:
    assert read(DEMO_PER_USER="4").limits == Limits(per_user=4)
    assert read().limits == Limits()
    with pytest.raises(ConfigError, match="DEMO_PER_USER must be at most 9, not '10'"):
        read(DEMO_PER_USER="10")
    variables = [setting.variable for setting in settings_of(Config, "DEMO_")]
    assert "DEMO_PER_USER" in variables
    assert "DEMO_LIMITS" not in variables


def test_what_is_fixed_is_no_setting() -> None:
    assert read(DEMO_RING_SIZE="1").limits.ring_size == 256
    assert "DEMO_RING_SIZE" not in [setting.variable for setting in settings_of(Config, "DEMO_")]


def test_an_empty_variable_is_none_where_none_is_allowed() -> None:
    config = read(SERVICE_TOKEN_FILE="", DEMO_LIMIT="", DEMO_ALLOWED_ORIGINS="")
    assert (config.token_file, config.limit, config.allowed_origins) == (None, None, ())


@pytest.mark.parametrize("word", ["1", "true", "YES", " on "])
def test_words_for_true(word: str) -> None:
    assert read(DEMO_INSECURE=word).insecure


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DEMO_PORT", "80a"),
        ("DEMO_PORT", ""),
        ("DEMO_PORT", "1.5"),
        ("DEMO_PORT", "-1"),
        ("DEMO_LEASE_TTL_S", "soon"),
        ("DEMO_LEASE_TTL_S", "nan"),
        ("DEMO_LEASE_TTL_S", "inf"),
        ("DEMO_INSECURE", "perhaps"),
        ("DEMO_INSECURE", ""),
        ("DEMO_DATA", ""),
        ("DEMO_LIMIT", "many"),
    ],
)
def test_a_wrong_value_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        read(**{variable: text})


def test_a_variable_that_must_be_set_is_named() -> None:
    with pytest.raises(ConfigError, match="DEMO_NAME must be set"):
        read_env(Config, {}, prefix="DEMO")


@pytest.mark.parametrize(
    ("content", "secret"), [(b"s3cret\n", b"s3cret"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b" a ", b" a ")]
)
def test_a_secret_loses_one_newline_and_nothing_else(tmp_path: Path, content: bytes, secret: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert read_secret_file(path, "TOKEN_FILE") == secret


@pytest.mark.parametrize("content", [None, b"", b"\n"])
def test_a_secret_that_is_not_there_names_variable_and_path(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"TOKEN_FILE: .*{path}"):
        read_secret_file(path, "TOKEN_FILE")
