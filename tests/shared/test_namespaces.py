"""The channels file: what it gives, and how it is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from services.shared.namespaces import (
    ChannelEvent,
    DataFormat,
    Durability,
    Mode,
    Namespace,
    Namespaces,
    Permission,
    UnknownUsers,
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


def test_it_is_known_whether_any_namespace_is_queued(tmp_path: Path) -> None:
    assert not load(tmp_path, '[default]\n[namespaces.aa]\ndurability = "stored"\n').has_queued
    assert load(tmp_path, '[namespaces.aa]\n[namespaces.bb]\ndurability = "queued"\n').has_queued
    assert load(tmp_path, '[default]\ndurability = "queued"\n').has_queued


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
        for words in (
            line.split() for line in SHIPPED.read_text().splitlines() if line.startswith("# ") and line[2] != " "
        )
        if len(words) > 3
    }
    for field in dataclasses.fields(Namespace):
        if field.name == "name" or "fixed" in field.metadata:
            continue
        default = next(iter(field.default), "") if isinstance(field.default, frozenset) else field.default
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
        retention_days = 90
        retention_messages = 1000
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
        events = ["publication", "join"]
        """,
    ).find("ab:1")
    assert found == Namespace(
        name="ab",
        durability=Durability.STORED,
        history_size=5,
        history_ttl_s=60,
        retention_days=90,
        retention_messages=1000,
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
        events=frozenset({ChannelEvent.PUBLICATION, ChannelEvent.JOIN}),
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ('durabilty = "hot"', r"durabilty: unknown option; known: .*durability"),
        ('durability = "durable"', "durability: must be one of none, hot, queued, stored, not 'durable'"),
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
        (
            'subscribe = ["everyone"]',
            "subscribe: must be one of anyone, authenticated, subscriber, grant, member, nobody",
        ),
        ("subscribe = [1]", "subscribe: must be one of"),
        ('publish = ["nobody", "grant"]', "publish: nobody stands alone"),
        (
            'publish = ["grant", "member"]',
            "publish: member needs conversations = true",
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
        ("retention_days = 30", 'retention_days: needs durability = "stored"'),
        ('durability = "hot"\nretention_messages = 30', 'retention_messages: needs durability = "stored"'),
        ('durability = "stored"\nretention_days = -1', "retention_days: must be 0 to 36,500"),
        ('durability = "stored"\nretention_days = 0.5', "retention_days: must be a whole number"),
        ('durability = "stored"\nretention_messages = 1000000001', "retention_messages: must be 0 to 1,000,000,000"),
        ('events = "publication"', "events: must be a list"),
        ('events = ["gap"]', "events: must be one of publication, join, update, leave, occupied, vacated, not 'gap'"),
        ('events = ["publication", "join"]', "events: needs presence = true, except for publication"),
        ('durability = "none"\nevents = ["publication"]', "events: publication needs a log"),
        ("name = 1", "name: unknown option"),
        ('manage = ["member"]', "manage: member needs conversations = true"),
        ("group_max_members = 5", "group_max_members: needs conversations = true"),
        ('unknown_users = "accept"', "unknown_users: needs conversations = true"),
        ('unknown_users = "insert"', "unknown_users: must be one of refuse, accept"),
        ("receipts_max_members = 5", "receipts_max_members: needs conversations = true"),
        ("group_max_members = 0", "group_max_members: must be 1 to 10,000"),
        ("group_max_members = 10001", "group_max_members: must be 1 to 10,000"),
    ],
)
@pytest.mark.parametrize("table", ["default", "namespaces.chat"])
def test_what_is_wrong_is_named_with_file_table_and_option(tmp_path: Path, table: str, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"channels\.toml: \[{table}\] {said}") as refused:
        load(tmp_path, f"[{table}]\n{option}\n")
    assert "\n" not in str(refused.value)


CONVERSATIONS = 'conversations = true\ndurability = "stored"\ndata_format = "object"\n'


def test_conversations_may_be_queued(tmp_path: Path) -> None:
    table = CONVERSATIONS.replace("stored", "queued")
    found = load(tmp_path, f"[namespaces.ab]\n{table}").named["ab"]
    assert (found.conversations, found.durability) == (True, Durability.QUEUED)


def test_in_a_namespace_of_conversations_members_may_and_nobody_else(tmp_path: Path) -> None:
    table = f"[namespaces.ab]\n{CONVERSATIONS}"
    found = load(tmp_path, table).named["ab"]
    members, nobody = frozenset({Permission.MEMBER}), frozenset({Permission.NOBODY})
    assert (found.subscribe, found.publish, found.history, found.presence_read) == (members, members, members, nobody)
    assert found.time_in_tags
    assert (found.group_max_members, found.unknown_users) == (1000, UnknownUsers.REFUSE)
    assert found.receipts_max_members == 100
    assert load(tmp_path, f"{table}receipts_max_members = 0").named["ab"].receipts_max_members == 0
    assert load(tmp_path, f"{table}retention_days = 30").with_retention() == {"ab"}
    assert load(tmp_path, f"{table}presence = true").named["ab"].presence_read == members
    more = 'publish = ["nobody"]\ntime_in_tags = false\ngroup_max_members = 10000\nunknown_users = "accept"'
    other = load(tmp_path, f"{table}{more}").named["ab"]
    assert (other.publish, other.time_in_tags) == (nobody, False)
    assert (other.group_max_members, other.unknown_users) == (10_000, UnknownUsers.ACCEPT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('conversations = true\ndata_format = "object"', 'conversations: needs durability = "stored" or "queued"'),
        ('conversations = true\ndurability = "none"', 'conversations: needs durability = "stored" or "queued"'),
        ('conversations = true\ndurability = "stored"', 'conversations: needs data_format = "object"'),
        ("conversations = 1", "conversations: must be true or false"),
        (f'{CONVERSATIONS}subscribe = ["authenticated"]', r'subscribe: with conversations it is \["member"\] or'),
        (f'{CONVERSATIONS}subscribe = ["member", "grant"]', r'subscribe: with conversations it is \["member"\] or'),
        (f'{CONVERSATIONS}publish = ["subscriber"]', r'publish: with conversations it is \["member"\] or'),
        (f'{CONVERSATIONS}history = ["anyone"]', r'history: with conversations it is \["member"\] or'),
        (
            f'{CONVERSATIONS}presence = true\npresence_read = ["grant"]',
            r'presence_read: with conversations it is \["member"\] or',
        ),
        (
            f'{CONVERSATIONS}presence = true\npresence_enter = ["grant"]',
            r'presence_enter: with conversations it is \["subscriber"\] or',
        ),
        (f"{CONVERSATIONS}retention_messages = 30", "retention_messages: not with conversations"),
        (f'{CONVERSATIONS}manage = ["member"]', "manage: there is no such command for members"),
        (f"{CONVERSATIONS}anonymous_subscriber = true", "anonymous_subscriber: members of conversations have a user"),
    ],
)
def test_what_would_let_others_into_conversations_is_refused(tmp_path: Path, options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"channels\.toml: \[namespaces.ab\] {said}"):
        load(tmp_path, f"[namespaces.ab]\n{options}\n")


def test_channels_without_a_namespace_are_no_conversations(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[default\] conversations: not in \[default\]"):
        load(tmp_path, f"[default]\n{CONVERSATIONS}")


def test_the_shipped_conversations_and_personal_channels(shipped: Namespaces) -> None:
    conv, user = shipped.named["conv"], shipped.named["user"]
    members = {Permission.MEMBER}
    assert conv.conversations
    assert conv.subscribe == conv.publish == conv.history == conv.presence_read == members
    assert (conv.recovery, conv.presence, conv.time_in_tags) == (Mode.FORCE, True, True)
    assert not user.conversations
    assert (user.durability, user.recovery, user.presence) == (Durability.HOT, Mode.FORCE, False)
    assert user.subscribe == {Permission.AUTHENTICATED}
    assert user.publish == {Permission.NOBODY}


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


def test_the_channels_of_the_stack_differ_in_who_may_subscribe_to_chat_alone() -> None:
    shipped, stack = load_namespaces(SHIPPED), load_namespaces(SHIPPED.with_name("stack-channels.toml"))
    assert stack.default == shipped.default
    names = {*shipped.named, *stack.named}
    assert {name for name in names if shipped.named.get(name) != stack.named.get(name)} == {"chat"}
    granted = dataclasses.replace(shipped.named["chat"], subscribe=frozenset({Permission.GRANT}))
    assert stack.named["chat"] == granted
    only_granted = (granted.subscribe, stack.named["private"].publish, stack.named["private"].history)
    assert set(only_granted) == {frozenset({Permission.GRANT})}


def test_namespaces_with_conversations_are_known_by_name(tmp_path: Path) -> None:
    text = '[default]\n[namespaces.ab]\ndurability = "stored"\n[namespaces.cd]\n'
    assert load(tmp_path, text).with_conversations() == set()
    with_one = text.replace('"stored"\n', '"stored"\ndata_format = "object"\nconversations = true\n')
    assert load(tmp_path, with_one).with_conversations() == {"ab"}
