"""Endpoints: which addresses get which events. Read once from a TOML file.

Nothing else decides where requests go: no event and no answer names an address. All wrong entries are named at once, in
one line, each with its table and option.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.shared.addresses import why_not_called
from services.shared.feed.events import EventType
from services.shared.process.config import ConfigError, shown
from services.shared.toml_file import read_toml
from services.shared.webhook_signing import Signer, read_signer

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # part of key names and of metrics
_TYPES = frozenset(EventType) - {EventType.GAP}
DEFAULT_TYPES = _TYPES - {EventType.PUBLICATION}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One receiver of events.

    `events`: types it gets. `channels`: patterns with `*` and `?`, one of which the channel of an event must match;
    empty: any. Events of users have no channel and match.
    """

    name: str
    url: str
    secret_files: tuple[Path, ...]
    events: frozenset[EventType] = DEFAULT_TYPES
    channels: tuple[str, ...] = ()
    timeout_s: float = 10.0
    tries: int = 10
    concurrency: int = 4
    max_waiting: int = 100  # batches that wait for another try; beyond, no new events are read
    max_dead: int = 1_000  # dead letters that are kept; beyond, the oldest is dropped
    plain_http: bool = False

    def wants(self, kind: EventType, channel: str) -> bool:
        """Return whether this endpoint gets an event.

        A gap is for everyone: any event may have been in it.
        """
        if kind is EventType.GAP:
            return True
        if kind not in self.events:
            return False
        return not channel or not self.channels or any(fnmatch.fnmatchcase(channel, one) for one in self.channels)

    def signer(self) -> Signer:
        """Read the secrets.

        Raises:
            ConfigError: a file can't be read, or holds no secret.
        """
        return read_signer(self.secret_files, f"[endpoints.{self.name}] secret_files")


_OPTIONS = {field.name: field for field in dataclasses.fields(Endpoint) if field.name != "name"}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "timeout_s": (0.1, 60),
    "tries": (1, 50),
    "concurrency": (1, 64),
    "max_waiting": (1, 10_000),
    "max_dead": (1, 100_000),
}


def load_endpoints(path: Path) -> tuple[Endpoint, ...]:
    """Read `[endpoints.<name>]` from a TOML file, and the secrets that it names.

    Paths of secrets are relative to the folder of the file.

    Raises:
        ConfigError: entries are unknown, missing, of the wrong type or out of bounds, or a secret can't be read. The
            message names every one of them.
    """
    tables = read_toml(path, "WEBHOOKS_FILE")
    wrong = [f"unknown table {name!r}; known: endpoints.<name>" for name in tables if name != "endpoints"]
    named = tables.get("endpoints", {})
    if not isinstance(named, dict):
        wrong.append(f"[endpoints]: must be a table, not {named!r}")
        named = {}
    found = [_Reader(name, table, path.parent, wrong).endpoint() for name, table in named.items()]
    if wrong:
        raise ConfigError("; ".join(f"{path}: {each}" for each in wrong))
    return tuple(one for one in found if one is not None)


class _Reader:
    """Reads one table. What is wrong is added to a list, and reading goes on."""

    def __init__(self, name: str, table: object, folder: Path, wrong: list[str]) -> None:
        self._name, self._table, self._folder, self._wrong = name, table, folder, wrong

    def endpoint(self) -> Endpoint | None:
        """Return the endpoint; None if anything was wrong."""
        before = len(self._wrong)
        if not _NAME.fullmatch(self._name):
            self._say("", "a name is 1 to 32 of a-z 0-9 - _, first a letter or digit")
        if not isinstance(self._table, dict):
            self._say("", f"must be a table, not {self._table!r}")
            return None
        values: dict[str, Any] = {}
        for option, value in self._table.items():
            if option not in _OPTIONS:
                self._say(option, f"unknown option; known: {', '.join(sorted(_OPTIONS))}")
            else:
                values[option] = self._value(option, value)
        for option in ("url", "secret_files"):
            if option not in self._table:
                self._say(option, "must be set")
        if isinstance(url := values.get("url"), str) and (
            why := why_not_called(url, plain_http=values.get("plain_http") is True)
        ):
            more = "; plain_http = true allows it" if "http:// is" in why else ""
            self._say("url", f"{why}{more}")
        if len(self._wrong) > before:
            return None
        endpoint = Endpoint(name=self._name, **values)
        try:
            endpoint.signer()
        except ConfigError as error:
            self._wrong.append(str(error))
            return None
        return endpoint

    def _say(self, option: str, what: str) -> None:
        self._wrong.append(f"[endpoints.{self._name}]{' ' if option else ''}{option}: {what}")

    def _value(self, option: str, value: object) -> Any:
        if option in _BOUNDS:
            return self._number(option, value)
        return getattr(self, f"_{option}")(value)

    def _number(self, option: str, value: object) -> object:
        whole = isinstance(_OPTIONS[option].default, int)
        low, high = _BOUNDS[option]
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            self._say(option, f"must be {'a whole number' if whole else 'a number'}, not {value!r}")
        elif not low <= value <= high:
            self._say(option, f"must be {low:g} to {high:,.0f}, not {value!r}")
        return value

    def _plain_http(self, value: object) -> object:
        if not isinstance(value, bool):
            self._say("plain_http", f"must be true or false, not {value!r}")
        return value

    def _url(self, value: object) -> object:
        if not isinstance(value, str):
            self._say("url", f"must be a string, not {value!r}")
        return value

    def _texts(self, option: str, value: object, example: str) -> list[str]:
        if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
            return list(value)
        self._say(option, f"must be a list such as {example}, not {value!r}")
        return []

    def _secret_files(self, value: object) -> tuple[Path, ...]:
        texts = self._texts("secret_files", value, '["/run/secrets/webhook_secret"]')
        return tuple(self._folder / text for text in texts)

    def _channels(self, value: object) -> tuple[str, ...]:
        return tuple(self._texts("channels", value, '["room:*"]'))

    def _events(self, value: object) -> frozenset[EventType]:
        known = sorted(_TYPES)
        found = set()
        for text in self._texts("events", value, f'["{known[0]}"]'):
            if text in known:
                found.add(EventType(text))
            else:
                self._say("events", f"must be some of {', '.join(known)}, not {shown(text)}")
        return frozenset(found)
