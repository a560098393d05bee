"""Namespaces: what the channels of a prefix offer and who may use them.

They are read once from a TOML file. A wrong entry is refused, and the message names file, table and option.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.shared.process.config import ConfigError, fixed
from services.shared.toml_file import as_bool, as_number, as_one_of, as_table, read_toml

_NAME = re.compile(r"[-a-zA-Z0-9_.]{2,}")  # wire protocol, 10
_MAX_DATA_BYTES = 1 << 20
MAX_HISTORY_SIZE = 1_000_000
MAX_HISTORY_TTL_S = 10 * 365 * 86_400
MAX_PRESENCE_GRACE_S = 3_600
MAX_TYPING_MEMBERS = 1_000
MAX_GROUP_MEMBERS = 10_000
MAX_RECEIPTS_MEMBERS = 1_000
MAX_RETENTION_DAYS = 36_500
MAX_RETENTION_MESSAGES = 1_000_000_000
MAX_ARCHIVE_AFTER_DAYS = 36_500


class Permission(enum.StrEnum):
    """Who may do something. A list of permissions is met if any of them is."""

    ANYONE = "anyone"  # anonymous clients too
    AUTHENTICATED = "authenticated"  # has a user id
    SUBSCRIBER = "subscriber"  # is subscribed to the channel; anonymous only with `anonymous_subscriber`
    GRANT = "grant"  # a token or the server API permits it
    MEMBER = "member"  # the conversation lets the user: only in namespaces with `conversations`
    NOBODY = "nobody"


class Durability(enum.StrEnum):
    """What the acknowledgement of a publication means.

    `keeps`: the durable store keeps the log.
    """

    keeps: bool
    NONE = "none"  # published to subscribers only: no log, no offsets
    HOT = "hot"  # it is in the Redis log
    QUEUED = "queued"  # it is in the Redis log, and soon in the durable store
    STORED = "stored"  # it is in the durable store

    def __init__(self, name: str) -> None:
        self.keeps = name in ("queued", "stored")


class Mode(enum.StrEnum):
    """Whether a feature is off, on for clients that ask for it, or on for everyone."""

    OFF = "off"
    ALLOW = "allow"
    FORCE = "force"


class DataFormat(enum.StrEnum):
    """Which `data` a publication may have."""

    JSON = "json"  # any JSON value
    OBJECT = "object"  # a JSON object
    BINARY = "binary"  # any bytes; not for clients of the JSON protocol


class CommandToken(enum.StrEnum):
    """Whether commands need a token of their own."""

    OFF = "off"
    REQUIRED = "required"


class PresenceBy(enum.StrEnum):
    """Of whom joins and leaves are told."""

    CLIENT = "client"  # of each client: three tabs are three
    USER = "user"  # of each user: the join of the first client, and the leave of the last one


class Delta(enum.StrEnum):
    """Format of the deltas that clients may ask for, patches of the last publication."""

    OFF = "off"
    FOSSIL = "fossil"


class UnknownUsers(enum.StrEnum):
    """What becomes of a direct conversation with a user whom nobody has seen."""

    REFUSE = "refuse"
    ACCEPT = "accept"  # it is begun


class ChannelEvent(enum.StrEnum):
    """What the feed may tell of a channel; see services/shared/feed."""

    PUBLICATION = "publication"  # a publication was committed
    JOIN = "join"  # a client came into the roster
    UPDATE = "update"  # its presence data changed
    LEAVE = "leave"  # it left the roster
    OCCUPIED = "occupied"  # the roster has its first client
    VACATED = "vacated"  # the last one left


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """Options of the channels `name:…`; the name "" is for channels without a colon."""

    name: str
    durability: Durability = Durability.HOT
    history_size: int = 1000
    history_ttl_s: int = 86_400
    retention_days: int = 0  # age at which publications are removed from the store; 0: never
    retention_messages: int = 0  # publications of a channel that the store keeps; 0: all
    archive_after_days: int = 0  # age at which publications go to the archive; 0: never
    recovery: Mode = Mode.OFF
    positioning: Mode = Mode.OFF
    presence: bool = False
    join_leave: Mode = Mode.OFF
    presence_grace_s: float = 10.0
    presence_auto: bool = True  # who subscribes enters
    presence_by: PresenceBy = PresenceBy.CLIENT
    presence_event_rate: float = 0.0  # events per second that subscribers of a channel are told of; 0: all, at once
    subscribe: frozenset[Permission] = frozenset({Permission.GRANT})
    publish: frozenset[Permission] = frozenset({Permission.NOBODY})
    history: frozenset[Permission] = frozenset({Permission.NOBODY})
    presence_read: frozenset[Permission] = frozenset({Permission.NOBODY})
    presence_enter: frozenset[Permission] = frozenset({Permission.SUBSCRIBER})
    manage: frozenset[Permission] = frozenset({Permission.GRANT})
    anonymous_subscriber: bool = False
    max_data_bytes: int = 32_768
    publish_rate: float = 0.0
    channel_regex: str = ""
    data_format: DataFormat = DataFormat.JSON
    delta: Delta = Delta.OFF
    command_token: CommandToken = CommandToken.OFF
    events: frozenset[ChannelEvent] = frozenset()  # what the feed tells of
    time_in_tags: bool = False  # adds the time as a tag too: SDKs pass tags on but drop `time`
    conversations: bool = False  # every channel is a conversation: its log says who may do what
    group_max_members: int = 1000  # of a new group
    unknown_users: UnknownUsers = UnknownUsers.REFUSE
    receipts_max_members: int = 100  # of a conversation in which all are told who has read
    typing_max_members: int = 200  # of a conversation in which all are told who types
    publish_hook: bool = fixed(False)  # no option: edges set it where a hook sees the publications of clients

    @property
    def has_retention(self) -> bool:
        """Whether the store does not keep everything for ever."""
        return self.retention_days > 0 or self.retention_messages > 0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """All namespaces of a deployment.

    `default` is for channels without a colon; None if such channels are not allowed.
    """

    default: Namespace | None = None
    named: Mapping[str, Namespace] = dataclasses.field(default_factory=dict)

    def find(self, channel: str) -> Namespace | None:
        """Return the namespace that the channel's name begins with; None if it is unknown.

        The name is the part before the first `:`, without a leading `$`.
        """
        name, colon, _ = channel.partition(":")
        return self.named.get(name.removeprefix("$")) if colon else self.default

    def with_conversations(self) -> frozenset[str]:
        """Return the names of namespaces with conversations."""
        return frozenset(name for name, namespace in self.named.items() if namespace.conversations)

    @property
    def has_queued(self) -> bool:
        """Whether any namespace has durability `queued`."""
        found = [*self.named.values(), *([self.default] if self.default else [])]
        return any(namespace.durability is Durability.QUEUED for namespace in found)

    def with_retention(self) -> frozenset[str]:
        """Return the names of namespaces whose publications are removed some day."""
        namespaces = [*self.named.values(), *([self.default] if self.default else [])]
        return frozenset(namespace.name for namespace in namespaces if namespace.has_retention)

    def with_archive(self) -> frozenset[str]:
        """Return the names of namespaces whose publications are archived some day."""
        namespaces = [*self.named.values(), *([self.default] if self.default else [])]
        return frozenset(namespace.name for namespace in namespaces if namespace.archive_after_days)


_OPTIONS = {
    field.name: field.default
    for field in dataclasses.fields(Namespace)
    if field.name != "name" and "fixed" not in field.metadata
}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "history_size": (1, MAX_HISTORY_SIZE),
    "history_ttl_s": (1, MAX_HISTORY_TTL_S),
    "retention_days": (0, MAX_RETENTION_DAYS),
    "retention_messages": (0, MAX_RETENTION_MESSAGES),
    "archive_after_days": (0, MAX_ARCHIVE_AFTER_DAYS),
    "presence_grace_s": (0, MAX_PRESENCE_GRACE_S),
    "presence_event_rate": (0, 1_000_000),
    "max_data_bytes": (1, _MAX_DATA_BYTES),
    "publish_rate": (0, 1_000_000),
    "group_max_members": (1, MAX_GROUP_MEMBERS),
    "receipts_max_members": (0, MAX_RECEIPTS_MEMBERS),
    "typing_max_members": (0, MAX_TYPING_MEMBERS),
}
_NEEDS_LOG = ("history_size", "history_ttl_s", "history", "recovery", "positioning")
_NEEDS_STORE = ("retention_days", "retention_messages")
_NEEDS_PRESENCE = (
    "join_leave",
    "presence_grace_s",
    "presence_read",
    "presence_enter",
    "presence_auto",
    "presence_by",
    "presence_event_rate",
)
_OF_CONVERSATIONS = ("group_max_members", "unknown_users", "receipts_max_members", "typing_max_members")
_BY_MEMBERSHIP = ("subscribe", "publish", "history", "presence_read")
_MEMBERS = frozenset({Permission.MEMBER})


def load_namespaces(path: Path) -> Namespaces:
    """Read `[default]` and `[namespaces.<name>]` from a TOML file.

    Raises:
        ConfigError: an entry is unknown, of the wrong type, out of bounds or without effect. The message names file,
            table and option.
    """
    tables = read_toml(path, "CHANNELS_FILE")
    for table in tables:
        if table not in ("default", "namespaces"):
            raise ConfigError(f"{path}: unknown table {table!r}; known: default, namespaces.<name>")
    named = as_table(tables.get("namespaces", {}), f"{path}: [namespaces]")
    for name in named:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{path}: [namespaces.{name}]: a name is two or more of a-z A-Z 0-9 - _ .")
    return Namespaces(
        default=_namespace("", tables["default"], f"{path}: [default]") if "default" in tables else None,
        named={name: _namespace(name, table, f"{path}: [namespaces.{name}]") for name, table in named.items()},
    )


def _namespace(name: str, table: object, where: str) -> Namespace:
    options = as_table(table, where)
    for option in options:
        if option not in _OPTIONS:
            raise ConfigError(f"{where} {option}: unknown option; known: {', '.join(sorted(_OPTIONS))}")
    given = {key: _value(key, value, f"{where} {key}") for key, value in options.items()}
    namespace = Namespace(name=name, **(_conversation_defaults(given) | given))
    _check_sense(namespace, options, where)
    if namespace.conversations:
        _check_conversations(namespace, options, where)
    else:
        _check_no_conversations(namespace, options, where)
    return namespace


def _conversation_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults that differ in a namespace with conversations."""
    if not given.get("conversations"):
        return {}
    permits = _BY_MEMBERSHIP if given.get("presence") else _BY_MEMBERSHIP[:-1]
    return {"time_in_tags": True, **dict.fromkeys(permits, _MEMBERS)}


def _value(option: str, value: object, where: str) -> Any:
    """Return `value` as the type of the option's default, checked against its bounds."""
    default = _OPTIONS[option]
    if isinstance(default, enum.StrEnum):
        return as_one_of(type(default), value, where)
    if option == "events":
        return _events(value, where)
    if isinstance(default, frozenset):
        return _permissions(value, where)
    if isinstance(default, bool):
        return as_bool(value, where)
    if isinstance(default, str):
        return _regex(value, where)
    return as_number(value, where, whole=isinstance(default, int), bounds=_BOUNDS[option])


def _permissions(value: object, where: str) -> frozenset[Permission]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f'{where}: must be a list such as ["{Permission.SUBSCRIBER}"], not {value!r}')
    rule = frozenset(as_one_of(Permission, each, where) for each in value)
    if Permission.NOBODY in rule and len(rule) > 1:
        raise ConfigError(f"{where}: nobody stands alone")
    return rule


def _events(value: object, where: str) -> frozenset[ChannelEvent]:
    if not isinstance(value, list):
        raise ConfigError(f'{where}: must be a list such as ["{ChannelEvent.PUBLICATION}"], not {value!r}')
    return frozenset(as_one_of(ChannelEvent, each, where) for each in value)


def _regex(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: must be a string, not {value!r}")
    try:
        re.compile(value)
    except re.error as error:
        raise ConfigError(f"{where}: not a regular expression: {error}") from error
    return value


def _check_sense(namespace: Namespace, given: Mapping[str, Any], where: str) -> None:
    """Refuse options that would have no effect: whoever set them expects one."""
    if namespace.durability is Durability.NONE:
        for option in _NEEDS_LOG:
            if option in given and getattr(namespace, option) not in (Mode.OFF, {Permission.NOBODY}):
                raise ConfigError(f'{where} {option}: needs a log; durability = "none" keeps none')
        if ChannelEvent.PUBLICATION in namespace.events:
            raise ConfigError(f'{where} events: publication needs a log; durability = "none" keeps none')
    for option in _NEEDS_STORE:
        if getattr(namespace, option) and namespace.durability is not Durability.STORED:
            raise ConfigError(f'{where} {option}: needs durability = "stored"')
    if namespace.archive_after_days:
        if not namespace.durability.keeps:
            raise ConfigError(f'{where} archive_after_days: needs durability = "stored" or "queued"')
        if 0 < namespace.retention_days <= namespace.archive_after_days:
            raise ConfigError(f"{where} archive_after_days: must be less than retention_days")
    if not namespace.presence:
        if namespace.events - {ChannelEvent.PUBLICATION}:
            raise ConfigError(f"{where} events: needs presence = true, except for publication")
        for option in _NEEDS_PRESENCE:
            if option in given and getattr(namespace, option) not in (Mode.OFF, {Permission.NOBODY}):
                raise ConfigError(f"{where} {option}: needs presence = true")


def _check_conversations(namespace: Namespace, given: Mapping[str, Any], where: str) -> None:
    """Refuse options that would let in others than members, or have no effect."""
    if not namespace.name:
        raise ConfigError(f"{where} conversations: not in [default]; their channels have the name of a namespace")
    if not namespace.durability.keeps:
        raise ConfigError(f'{where} conversations: needs durability = "stored" or "queued"')
    if namespace.data_format is not DataFormat.OBJECT:
        raise ConfigError(f'{where} conversations: needs data_format = "object"')
    if namespace.retention_messages:
        raise ConfigError(f"{where} retention_messages: not with conversations; there is retention_days")
    for option in _BY_MEMBERSHIP:
        if getattr(namespace, option) not in (_MEMBERS, {Permission.NOBODY}):
            raise ConfigError(f'{where} {option}: with conversations it is ["member"] or ["nobody"]')
    if namespace.presence_enter not in ({Permission.SUBSCRIBER}, {Permission.NOBODY}):
        raise ConfigError(f'{where} presence_enter: with conversations it is ["subscriber"] or ["nobody"]')
    if Permission.MEMBER in namespace.manage:
        raise ConfigError(f"{where} manage: there is no such command for members")
    if "anonymous_subscriber" in given and namespace.anonymous_subscriber:
        raise ConfigError(f"{where} anonymous_subscriber: members of conversations have a user id")


def _check_no_conversations(namespace: Namespace, given: Mapping[str, Any], where: str) -> None:
    for option in _OF_CONVERSATIONS:
        if option in given:
            raise ConfigError(f"{where} {option}: needs conversations = true")
    for option, value in given.items():
        if isinstance(value, list) and Permission.MEMBER in value and option != "events":
            raise ConfigError(f"{where} {option}: member needs conversations = true")
