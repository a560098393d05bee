"""What the file of notifications says: who is notified how, and the ways out.

Read once from a TOML file (`PUSH_FILE`). All wrong entries of a table are named by table and option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from services.persistence.notifier.planner import Rules
from services.shared.addresses import why_not_called
from services.shared.process.config import ConfigError
from services.shared.toml_file import as_table, read_toml

_MAX_DELAY_S = 3_600.0
_MAX_MEMBERS = 10_000
_WHEN = ("absent", "always")
_PREVIEWS = ("text", "sender", "none")
T = TypeVar("T")


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of tables."""


class WebhookOptions(_Table, frozen=True, kw_only=True):
    """A backend that reaches the users itself."""

    url: str
    secret_files: list[str]
    timeout_s: float = 10.0
    plain_http: bool = False


class WebPushOptions(_Table, frozen=True, kw_only=True):
    """Browsers. `subject`: `mailto:` or `https:`, where push services complain."""

    key_file: str
    subject: str
    ttl_s: int = 86_400
    ca_file: str = ""


class FcmOptions(_Table, frozen=True, kw_only=True):
    """Firebase Cloud Messaging. `url`: another address than Google's."""

    account_file: str
    url: str = "https://fcm.googleapis.com"


class ApnsOptions(_Table, frozen=True, kw_only=True):
    """Apple's service. `topic`: the bundle id of the application."""

    key_file: str
    key_id: str
    team_id: str
    topic: str
    sandbox: bool = False


class _Rules(_Table, frozen=True, kw_only=True):
    notify_delay_s: float = 10.0
    notify_when: str = "absent"
    notify_max_members: int = 500
    preview: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The file. `folder`: where relative paths begin."""

    folder: Path
    rules: Mapping[str, Rules]
    webhook: WebhookOptions | None = None
    webpush: WebPushOptions | None = None
    fcm: FcmOptions | None = None
    apns: ApnsOptions | None = None

    def path(self, name: str) -> Path:
        """Return the path of a file that is named there."""
        return self.folder / name


_WAYS: Mapping[str, type[_Table]] = {
    "webhook": WebhookOptions,
    "webpush": WebPushOptions,
    "fcm": FcmOptions,
    "apns": ApnsOptions,
}


def load_options(path: Path) -> Options:
    """Read the file.

    Raises:
        ConfigError: it can't be read, or an entry is unknown, missing or wrong.
    """
    tables = read_toml(path, "PUSH_FILE")
    wrong = [name for name in tables if name not in (*_WAYS, "namespaces")]
    if wrong:
        raise ConfigError(f"{path}: unknown table {wrong[0]!r}; known: namespaces.<name>, {', '.join(_WAYS)}")
    rules = {
        name: _rules(_read(table, _Rules, f"{path}: [namespaces.{name}]"), f"{path}: [namespaces.{name}]")
        for name, table in as_table(tables.get("namespaces", {}), f"{path}: [namespaces]").items()
    }
    ways: dict[str, Any] = {
        name: _read(tables[name], kind, f"{path}: [{name}]") for name, kind in _WAYS.items() if name in tables
    }
    options = Options(folder=path.parent, rules=rules, **ways)
    if options.webhook is not None and (
        why := why_not_called(options.webhook.url, plain_http=options.webhook.plain_http)
    ):
        raise ConfigError(f"{path}: [webhook] url: {why}")
    if options.webpush is not None and not options.webpush.subject.startswith(("mailto:", "https:")):
        raise ConfigError(f"{path}: [webpush] subject: must begin with mailto: or https:")
    return options


def _read(table: object, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(as_table(table, where), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from None


def _rules(read: _Rules, where: str) -> Rules:
    if not 0 <= read.notify_delay_s <= _MAX_DELAY_S:
        raise ConfigError(f"{where} notify_delay_s: must be 0 to {_MAX_DELAY_S:g}")
    if not 1 <= read.notify_max_members <= _MAX_MEMBERS:
        raise ConfigError(f"{where} notify_max_members: must be 1 to {_MAX_MEMBERS}")
    if read.notify_when not in _WHEN:
        raise ConfigError(f"{where} notify_when: must be {' or '.join(_WHEN)}")
    if read.preview not in _PREVIEWS:
        raise ConfigError(f"{where} preview: must be {', '.join(_PREVIEWS)}")
    return Rules(
        delay_s=read.notify_delay_s,
        when=read.notify_when,
        max_members=read.notify_max_members,
        preview=read.preview,
    )
