"""The channels file: what it gives, and how it is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from services.shared.namespaces import (
    DataFormat,
    Durability,
    Mode,
    Namespace,
    Namespaces,
    Permission,
    load_namespaces,
)
from services.shared.process.config import ConfigError

SHIPPED = Path(__file__).parents[2] / "config" / "channels.toml"


def load(tmp_path: Path, text: str) -> Namespaces:
    path = tmp_path / "channels.toml"
    path.write_text(text)
    return load_namespaces(path)


@pytest.fixture(scope="module")
def shipped() -> Namespaces:
    return load_namespaces(SHIPPED)


@pytest.mark.parametrize(
    ("channel", "name"),
    [
        ("chat:1", "chat"),
        ("$chat:1", "chat"),
        ("chat:a:b", "chat"),
        ("live:", "live"),
        ("room", ""),
        ("$room", ""),
        ("#42", ""),
        ("Chat:1", None),
        ("nope:1", None),
        (":1", None),
        ("$:1", None),
        ("$$chat:1", None),
    ],
)
def test_a_channels_namespace_stands_before_the_first_colon(
    shipped: Namespaces, channel: str, name: str | None
) -> None:
    found = shipped.find(channel)
    assert (None if found is None else found.name) == name


def test_without_a_default_there_are_no_channels_without_a_colon(tmp_path: Path) -> None:
    assert load(tmp_path, "[namespaces.chat]").find("room") is None


@pytest.mark.parametrize(
    ("channel", "durability", "presence", "recovery", "join_leave"),
    [
        ("room", Durability.HOT, True, Mode.FORCE, Mode.ALLOW),
        ("chat:1", Durability.STORED, True, Mode.FORCE, Mode.ALLOW),
        ("live:1", Durability.HOT, False, Mode.FORCE, Mode.OFF),
        ("tick:1", Durability.NONE, False, Mode.OFF, Mode.OFF),
    ],
)
def test_the_shipped_file_is_what_its_comments_say(
    shipped: Namespaces, channel: str, durability: Durability, presence: bool, recovery: Mode, join_leave: Mode
) -> None:
    found = shipped.find(channel)
    assert found is not None
    assert (found.durability, found.presence, found.recovery, found.join_leave) == (
        durability,
        presence,
        recovery,
        join_leave,
    )
    assert found.history_size == 1000
    assert Permission.AUTHENTICATED in found.subscribe
    assert Permission.ANYONE not in found.subscribe
    assert found.publish == {Permission.SUBSCRIBER}
    assert found.history == {Permission.NOBODY if durability is Durability.NONE else Permission.SUBSCRIBER}
    assert found.presence_read == {Permission.SUBSCRIBER if presence else Permission.NOBODY}


def test_the_shipped_file_explains_every_option_with_its_default() -> None:
    comments = {
        words[1]: words[2].strip('"[]')
        for words in (line.split() for line in SHIPPED.read_text().splitlines() if line.startswith("# "))
        if len(words) > 3
    }
    for field in dataclasses.fields(Namespace):
        if field.name == "name":
            continue
        default = next(iter(field.default)) if isinstance(field.default, frozenset) else field.default
        said = comments[field.name]
        assert said in (str(default).lower(), f"{default:g}" if isinstance(default, float) else ""), field.name


def test_defaults_let_nobody_in_but_who_was_granted(tmp_path: Path) -> None:
    found = load(tmp_path, "[namespaces.ab]").find("ab:1")
    assert found == Namespace(name="ab")
    assert found is not None
    assert found.subscribe == {Permission.GRANT}
    assert found.publish == found.history == found.presence_read == {Permission.NOBODY}


def test_every_option_is_read(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        [namespaces.ab]
        durability = "stored"
        history_size = 5
        history_ttl_s = 60
        recovery = "allow"
        positioning = "force"
        presence = true
        join_leave = "force"
        presence_grace_s = 0
        subscribe = ["anyone"]
        publish = ["grant", "subscriber"]
        history = ["authenticated"]
        presence_read = ["subscriber"]
        anonymous_subscriber = true
        max_data_bytes = 100
        publish_rate = 2.5
        channel_regex = "[0-9]+"
        data_format = "object"
        """,
    ).find("ab:1")
    assert found == Namespace(
        name="ab",
        durability=Durability.STORED,
        history_size=5,
        history_ttl_s=60,
        recovery=Mode.ALLOW,
        positioning=Mode.FORCE,
        presence=True,
        join_leave=Mode.FORCE,
        presence_grace_s=0,
        subscribe=frozenset({Permission.ANYONE}),
        publish=frozenset({Permission.GRANT, Permission.SUBSCRIBER}),
        history=frozenset({Permission.AUTHENTICATED}),
        presence_read=frozenset({Permission.SUBSCRIBER}),
        anonymous_subscriber=True,
        max_data_bytes=100,
        publish_rate=2.5,
        channel_regex="[0-9]+",
        data_format=DataFormat.OBJECT,
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('durabilty = "hot"', r"durabilty: unknown option; known: .*durability"),
        ('durability = "queued"', "durability: must be one of none, hot, stored, not 'queued'"),
        ("durability = 1", "durability: must be one of"),
        ("history_size = 0", "history_size: must be 1 to 1,000,000"),
        ("history_size = 1.5", "history_size: must be a whole number"),
        ("history_size = true", "history_size: must be a whole number"),
        ('history_size = "9"', "history_size: must be a whole number"),
        ("history_ttl_s = -1", "history_ttl_s: must be 1 to"),
        ("publish_rate = -0.5", "publish_rate: must be 0 to"),
        ("publish_rate = nan", "publish_rate: must be 0 to"),
        ("max_data_bytes = 99999999", "max_data_bytes: must be 1 to 1,048,576"),
        ('presence = "yes"', "presence: must be true or false"),
        ('subscribe = "anyone"', "subscribe: must be a list"),
        ("subscribe = []", "subscribe: must be a list"),
        ('subscribe = ["everyone"]', "subscribe: must be one of anyone, authenticated, subscriber, grant, nobody"),
        ("subscribe = [1]", "subscribe: must be one of"),
        ('publish = ["nobody", "grant"]', "publish: nobody stands alone"),
        (
            'publish = ["grant", "member"]',
            "publish: member needs conversations, which this version does not have",
        ),
        ('channel_regex = "["', "channel_regex: not a regular expression"),
        ("channel_regex = 1", "channel_regex: must be a string"),
        ('join_leave = "allow"', "join_leave: needs presence = true"),
        ('presence_read = ["subscriber"]', "presence_read: needs presence = true"),
        ("presence_grace_s = 5", "presence_grace_s: needs presence = true"),
        ('durability = "none"\nrecovery = "allow"', "recovery: needs a log"),
        ('durability = "none"\npositioning = "force"', "positioning: needs a log"),
        ('durability = "none"\nhistory = ["subscriber"]', "history: needs a log"),
        ('durability = "none"\nhistory_size = 10', "history_size: needs a log"),
        ('durability = "none"\nhistory_ttl_s = 10', "history_ttl_s: needs a log"),
        ("name = 1", "name: unknown option"),
    ],
)
@pytest.mark.parametrize("table", ["default", "namespaces.chat"])
def test_what_is_wrong_is_named_with_file_table_and_option(tmp_path: Path, table: str, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"channels\.toml: \[{table}\] {said}") as refused:
        load(tmp_path, f"[{table}]\n{option}\n")
    assert "\n" not in str(refused.value)


def test_what_is_off_may_be_said_to_be_off(tmp_path: Path) -> None:
    load(tmp_path, '[default]\ndurability = "none"\nrecovery = "off"\nhistory = ["nobody"]\njoin_leave = "off"')


@pytest.mark.parametrize("name", ["x", '"a b"', '"a:b"', '"ä1"', '"$ab"', '""'])
def test_a_name_that_no_channel_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a name is two or more of"):
        load(tmp_path, f"[namespaces.{name}]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[chat]", "unknown table 'chat'"),
        ("default = 1", r"\[default\]: must be a table"),
        ("namespaces = 1", r"\[namespaces\]: must be a table"),
        ("namespaces.chat = 1", r"\[namespaces.chat\]: must be a table"),
        ("[default", "not TOML"),
        ("[default]\n[default]", "not TOML"),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"channels\.toml: {said}"):
        load(tmp_path, text)


def test_a_file_that_is_not_there_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CHANNELS_FILE: can't read .*missing\.toml"):
        load_namespaces(tmp_path / "missing.toml")
