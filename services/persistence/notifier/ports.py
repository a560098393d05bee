"""What the notifier needs of others: persistence, presence, and ways out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from services.persistence.chat.devices.device import Device
from services.persistence.webhooks.http import Answer


class Planned(msgspec.Struct, frozen=True):
    """A user to notify: the message, the event that is the reason, and the devices.

    `devices`: (platform, address) of each.
    """

    offset: int
    rev: int
    devices: Sequence[tuple[str, str]] = ()


class Plan(msgspec.Struct, frozen=True):
    """What persistence says of a range of a log.

    See services/persistence/chat/notifications.py.
    """

    epoch: str
    upto: int
    more: bool
    is_changed: bool
    users: Mapping[str, Planned]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a notification says."""

    type: str
    title: str
    author: str
    author_name: str
    text: str
    time_ms: int
    attachments: int
    is_mention: bool
    badge: int | None = None
    device: Device | None = None


class Persistence(Protocol):
    """Answers about conversations. Every method raises `Unavailable`."""

    async def plan(self, channel: str, first: int, max_members: int, *, everybody: bool) -> Plan:
        """Say whom to notify of what; with `everybody` also users without devices."""

    async def show(self, channel: str, epoch: str, offset: int, user: str, address: str) -> Shown | None:
        """Return what to say of a message; None: nothing."""

    async def still(self, channel: str, epoch: str, shown: Mapping[str, int]) -> Mapping[str, bool]:
        """Say of each user whether the message at an offset is still to be shown."""

    async def devices(self, users: Collection[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return (platform, address) of the devices of users."""

    async def device(self, user: str, address: str) -> tuple[Device | None, int | None]:
        """Return a device, and the badge of its user; with address "" the badge alone."""

    async def gone(self, user: str, address: str) -> None:
        """Remove a device that can't be reached any more."""


class Presence(Protocol):
    """Says who is there."""

    async def active(self, users: Sequence[str]) -> set[str]:
        """Return those who have a client in the state `active`.

        Raises:
            Unavailable: presence does not answer.
        """


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes to a device, and to a backend: the members of docs/push.md."""

    id: str
    kind: str
    user: str
    channel: str
    offset: int
    title: str = ""
    body: str = ""
    type: str = ""
    author: str = ""
    mention: bool = False
    time: int = 0
    badge: int | None = None

    @property
    def is_message(self) -> bool:
        """Whether it shows something; otherwise it takes something back."""
        return self.kind == "message"


class Way(Protocol):
    """A way out. `platform`: of the devices that it reaches; "webhook": none."""

    platform: str
    concurrency: int

    async def send(self, request_id: str, note: Note, device: Device | None) -> Answer:
        """Send it once. Raises nothing but a cancellation."""

    async def close(self) -> None:
        """Close the connections."""
