"""What is kept of a user in a conversation: marker, delivered, preferences.

Purpose. A user has several devices, and each of them repeats what it could not be sure of. All of them, in any order
and however often, must end with the same marker.

Rules.

* A marker is (generation, offset). Of two the greater one counts: first the generation, then the offset.
* "Read up to 20" proposes (the generation that the device knows, 20). "Unread from 15 on" proposes (that + 1, 14).
* `delivered` is the greatest offset that any device had or read.
* Offsets are those of one epoch of the log. In another epoch the store was restored, and which messages the old offsets
  mean is not known: the marker is (generation + 1, 0) there.
* Settings have a version; of two the greater one counts.
* What a user has forgotten, or was made to forget by leaving, begins anew with the next generation and version. So an
  old record that turns up late is less.

Example. A phone without network reads up to 20. The laptop, where 12 is read, marks 5 and all after as unread: (1, 4).
The phone comes back with (0, 20), which is less: it stays unread.

Trade-offs. A device that does not say its generation means the newest one, so its late "read" undoes an "unread".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

FOR_GOOD_MS = 2**53 - 1  # muted until then
Notify = Literal["all", "mentions", "none"]
Receipts = Literal["members", "private"]


class Marker(NamedTuple):
    """Up to where a conversation is read: `offset` included. (0, 0): nothing is."""

    generation: int = 0
    offset: int = 0


class Preferences(NamedTuple):
    """What a user wants of a conversation.

    `muted_until_ms`: Unix ms; None: not muted; `FOR_GOOD_MS`: for good. `notify`: of which messages to send a push.
    """

    muted_until_ms: int | None = None
    archived: bool = False
    notify: Notify = "all"

    def is_muted(self, now_ms: int) -> bool:
        """Whether the conversation is muted, Unix ms."""
        return self.muted_until_ms is not None and self.muted_until_ms > now_ms


class Place(NamedTuple):
    """What is kept of a user in a conversation.

    `epoch`: that of the log which the offsets belong to; "": there are none.
    """

    marker: Marker = Marker()
    delivered: int = 0
    preferences: Preferences = Preferences()
    epoch: str = ""

    def within(self, epoch: str) -> Place:
        """Return what it means in an epoch of the log."""
        if self.epoch == epoch:
            return self
        if not self.epoch:
            return Place(self.marker, self.delivered, self.preferences, epoch)
        return Place(Marker(self.marker.generation + 1, 0), 0, self.preferences, epoch)


class Record(NamedTuple):
    """The same, as Redis and the store have it.

    `settings`: a JSON object, or "". `version`: when they were set, Unix ms; 0: never.
    """

    generation: int = 0
    offset: int = 0
    delivered: int = 0
    epoch: str = ""
    version: int = 0
    settings: str = ""

    @property
    def marker(self) -> Marker:
        return Marker(self.generation, self.offset)

    def within(self, epoch: str) -> Record:
        """Return what it means in an epoch of the log."""
        if self.epoch in ("", epoch):
            return self._replace(epoch=epoch)
        return Record(self.generation + 1, 0, 0, epoch, self.version, self.settings)

    def merged(self, other: Record) -> Record:
        """Return the greater of both, part by part."""
        mine, others = (self.generation, self.offset, self.epoch), (other.generation, other.offset, other.epoch)
        first = self if mine >= others else other
        delivered = max(self.delivered, other.delivered) if self.epoch == other.epoch else first.delivered
        version, settings = max((self.version, self.settings), (other.version, other.settings))
        return Record(first.generation, first.offset, delivered, first.epoch, version, settings)

    def read(self, offset: int, generation: int | None = None) -> Record:
        """Return it with all up to an offset read, as a device of that generation says.

        None: the newest generation.
        """
        said = self.generation if generation is None else generation
        return self.merged(Record(said, offset, offset, self.epoch))

    def unread(self, offset: int, generation: int | None = None) -> Record:
        """Return it with an offset and all above unread, said as in `read`."""
        said = self.generation if generation is None else generation
        return self.merged(Record(said + 1, offset - 1, 0, self.epoch))

    def set(self, settings: str, now_ms: int) -> Record:
        """Return it with other settings."""
        return self._replace(version=max(self.version + 1, now_ms), settings=settings)

    def forgotten(self) -> Record:
        """Return what takes its place once it is forgotten."""
        return Record(generation=self.generation + 1, version=self.version + 1)

    @property
    def place(self) -> Place:
        """The same for who uses it."""
        return Place(self.marker, self.delivered, preferences_of(self.settings), self.epoch)


class UserPreferences(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a user wants everywhere.

    `receipts`: who is told what the user has read: "members" of small conversations, or nobody ("private").
    """

    receipts: Receipts = "members"


class _Settings(msgspec.Struct, omit_defaults=True):
    """Settings of a user in a conversation, in JSON."""

    muted_until_ms: int | None = None
    archived: bool = False
    notify: Notify = "all"


_decode = msgspec.json.Decoder(_Settings).decode
_decode_user = msgspec.json.Decoder(UserPreferences).decode
_encode = msgspec.json.Encoder().encode
_NONE = Preferences()


def preferences_of(settings: str) -> Preferences:
    """Decode the settings of a record."""
    if not settings:
        return _NONE
    found = _decode(settings)
    return Preferences(found.muted_until_ms, found.archived, found.notify)


def settings_of(preferences: Preferences) -> str:
    """Encode preferences as the settings of a record."""
    return _encode(_Settings(*preferences)).decode()


def user_preferences_of(settings: str) -> UserPreferences:
    """Decode the settings of a user's own record, that of the channel ""."""
    return _decode_user(settings or "{}")


def user_settings_of(preferences: UserPreferences) -> str:
    """Encode the preferences of a user."""
    return _encode(preferences).decode()
