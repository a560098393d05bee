"""One client over all its connections, which judges what it gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from centrifuge.fossil import apply_delta


@dataclass
class Follower:
    """One client over all its connections.

    Where it is, and that what it got is the log, once and in order.

    A `plain` one has no position: it gets what comes, never twice and never backwards.
    """

    truth: dict[str, list[int]]
    plain: bool = False
    offset: int = 0
    epoch: str = ""
    asked: tuple[int, str] | None = None  # what the subscribe under way wants to recover from
    asking: bool = False
    subscribed: bool = False
    known: bool = False  # it has a position
    last: int = 0
    top: int = 0  # of the log when it asked to recover
    seen: dict[str, int] = field(default_factory=dict)  # for the test: what happened, how often
    wants_delta: bool = False
    delta: bool = False  # negotiated
    base: bytes | None = None  # of the next patch: the last publication of this subscription

    def read(self, frames: Sequence[bytes]) -> None:
        """What the edge sent, in order."""
        for frame in frames:
            for line in frame.split(b"\n"):
                self._line(json.loads(line))

    def _line(self, line: dict[str, Any]) -> None:
        if "connect" in line:
            for result in line["connect"].get("subs", {}).values():
                self._began(result)
        elif "subscribe" in line:
            self._began(line["subscribe"])
        elif "unsubscribe" in line:
            self.subscribed = False
        elif "error" in line:
            self._refused(line["error"]["code"])
        elif "pub" in line.get("push", {}):
            assert self.subscribed, "a publication outside of a subscription"
            self._record(line["push"]["pub"])
            if self.offset <= self.top:
                self._count("a page behind the reply")
        elif "unsubscribe" in line.get("push", {}):
            assert line["push"]["unsubscribe"]["code"] == 2500
            assert self.subscribed, "told of the end of what had not begun"
            if self.offset < self.top:
                self._count("2500 amid pages")
            self.subscribed = False
            self._count("2500")

    def ended(self, code: int | None) -> None:
        """The connection is over."""
        self.subscribed = self.asking = False
        self.asked = None
        self.last = 0  # another edge may be behind
        if code is not None:
            assert code == 3010, code
            self._count("3010")

    def lost_position(self) -> None:
        self.known, self.offset, self.epoch = False, 0, ""

    def _began(self, result: dict[str, Any]) -> None:
        assert not self.subscribed, "subscribed twice"
        asked, self.asked, self.asking, self.subscribed = self.asked, None, False, True
        self.delta, self.base = result.get("delta", False), None
        assert self.delta == self.wants_delta
        if self.plain:
            return
        missed = result.get("publications", [])
        if result.get("recovered"):
            assert asked is not None, "recovered without having asked"
            assert asked[1] in ("", result["epoch"]), "recovered across an epoch change"
            assert result.get("offset", 0) == asked[0]
            self._count("recovered with publications" if missed else "recovered")
        else:
            assert not missed, "a part of what was missed"
            if asked is not None:
                self._count("not recovered, another epoch" if asked[1] != result["epoch"] else "not recovered")
        self.known, self.offset, self.epoch = True, result.get("offset", 0), result["epoch"]
        assert self.offset <= len(self.truth[self.epoch]), "a position beyond the log"
        for publication in missed:
            self._record(publication)

    def _refused(self, code: int) -> None:
        assert code in (100, 112), code
        if code == 112:
            assert self.asked is not None
            self.lost_position()
        self.asked, self.asking = None, False
        self._count(f"error {code}")

    def _record(self, publication: dict[str, Any]) -> None:
        number = self._value(publication)
        if self.plain:
            assert number > self.last, f"{number} behind {self.last}"
            self.last = number
            return
        assert publication["offset"] == self.offset + 1, f"{publication['offset']} behind {self.offset}"
        self.offset += 1
        assert self.truth[self.epoch][self.offset - 1] == number, "not what the log has at this offset"

    def _value(self, publication: dict[str, Any]) -> int:
        data, is_patch = publication["data"], publication.get("delta", False)
        if self.delta:
            assert isinstance(data, str), "data is no string"
            if is_patch:
                assert self.base is not None, "a patch without a base"
                self._count("a patch")
            self.base = apply_delta(self.base, data.encode()) if is_patch else data.encode()
            data = json.loads(self.base)
        else:
            assert not is_patch, "a patch without delta"
        return data if isinstance(data, int) else int(data["number"])

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1
