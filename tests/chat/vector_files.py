"""Reads the vectors of the fold: logs written by hand, with what must come out.

A file of `tests/chat/vectors` holds one topic. It needs nothing of Python, so other implementations can run it, too:

    {"about": "…", "vectors": [{"it": "…", "given": "group", "log": [STEP, …], "then": STATE}, …]}

* `given` names entries of `given.json` that come before `log`. Offsets are 1, 2, 3 … over both.
* A step is `{"by": author, "do": event}`, with `raw` (text) in place of `do` where the event is no JSON object. The
  empty author is the platform. `at_ms` is its time, by default 1,000 × its offset. `void` says why it does not apply;
  without it, it does. `"not_accepted": true`: nobody may publish this, so only a log can hold it. `"times": 100`
  repeats the step, and `%` in the event is then replaced by 1, 2, 3 …
* `then` names what the state must have, as `state.view` returns it. What it leaves out may be anything. `null` means
  null or missing. An empty object means an empty object, and `reactions`, `meta` and `rights` are compared as a whole.

A misspelled name is an error.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.persistence.chat.domain.fold import Entry
from services.persistence.chat.domain.rules import Why

FOLDER = Path(__file__).parent / "vectors"
_WHOLE = ("reactions", "meta", "rights")
_STATE = {"phase", "type", "name", "settings", "owner", "members", "invited", "banned", "silenced", "messages", "n"}
_MESSAGE = {"state", "by", "author", "time_ms", "text", "format", "attachments", "mentions", "mention_all", "meta"}
_MESSAGE |= {"rev", "counts", "reply_to", "thread", "reactions", "replies", "pinned", "priority"}
_MEMBER = {"role", "since", "role_since", "from"}


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


class Step(_Strict, frozen=True):
    """One entry of a log, and whether it applies."""

    by: str
    do: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    raw: str | msgspec.UnsetType = msgspec.UNSET
    at_ms: int | None = None
    void: Why | None = None
    not_accepted: bool = False
    times: int = 1

    def data(self, time: int) -> bytes:
        """The event as bytes, at the given repetition."""
        if isinstance(self.raw, str):
            return self.raw.encode()
        text = json.dumps(self.do, ensure_ascii=False)
        return (text.replace("%", str(time)) if self.times > 1 else text).encode()


class Vector(_Strict, frozen=True):
    """A log and what comes out."""

    it: str
    log: list[Step]
    then: dict[str, Any]
    given: str = ""

    def entries(self) -> Iterator[tuple[Step, Entry]]:
        """Yield every step with its entry of the log."""
        offset = 0
        for step in [*(given()[self.given] if self.given else []), *self.log]:
            for time in range(1, step.times + 1):
                offset += 1
                time_ms = offset * 1_000 if step.at_ms is None else step.at_ms
                yield step, Entry(offset, step.by, time_ms, step.data(time))


class Name(_Strict, frozen=True):
    """Users of a direct conversation, and its channel."""

    users: list[str]
    channel: str


class File(_Strict, frozen=True):
    """One topic."""

    about: str
    vectors: list[Vector] = []
    names: list[Name] = []


@functools.cache
def given() -> dict[str, list[Step]]:
    """The beginnings of logs, by name."""
    return msgspec.json.decode((FOLDER / "given.json").read_bytes(), type=dict[str, list[Step]])


def load(text: bytes) -> File:
    """Return a file's vectors.

    Raises:
        ValueError: a name is misspelled, a step has not one of `do` and `raw`, or two vectors have one name.
    """
    file = msgspec.json.decode(text, type=File)
    for vector in file.vectors:
        where = f"vector {vector.it!r}"
        if vector.given and vector.given not in given():
            raise ValueError(f"{where}: nothing is given as {vector.given!r}")
        for step in vector.log:
            if isinstance(step.do, dict) == isinstance(step.raw, str):
                raise ValueError(f"{where}: a step has either `do` or `raw`")
        _check_names(where, vector.then)
    if len({vector.it for vector in file.vectors}) != len(file.vectors):
        raise ValueError("two vectors have one name")
    return file


def _check_names(where: str, then: dict[str, Any]) -> None:
    unknown = then.keys() - _STATE
    for message in then.get("messages", {}).values():
        unknown |= (message or {}).keys() - _MESSAGE
    for member in then.get("members", {}).values():
        unknown |= (member or {}).keys() - _MEMBER
    if unknown or not all(offset.isdecimal() for offset in then.get("messages", {})):
        raise ValueError(f"{where}: `then` names what no state has: {sorted(unknown)}")


def files() -> dict[str, File]:
    """Return all topics by the name of their file."""
    return {path.stem: load(path.read_bytes()) for path in sorted(FOLDER.glob("*.json")) if path.stem != "given"}


def differences(then: Any, state: Any, path: str = "state") -> list[str]:
    """Return where a state is not what `then` says."""
    if then is None:
        return [] if state is None else [f"{path}: {state!r} should be missing"]
    if isinstance(then, dict) and then and isinstance(state, dict) and path.rpartition(".")[2] not in _WHOLE:
        return [line for name, value in then.items() for line in differences(value, state.get(name), f"{path}.{name}")]
    return [] if then == state else [f"{path}: {state!r} should be {then!r}"]


def entries_of(*steps: tuple[str, dict[str, Any]]) -> list[Entry]:
    """Return a log of (author, event), one second apart."""
    return [
        Entry(offset, author, offset * 1_000, json.dumps(event).encode())
        for offset, (author, event) in enumerate(steps, start=1)
    ]
