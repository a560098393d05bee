"""What is to be sent, as it waits in Redis: places and no content."""

from __future__ import annotations

import uuid
from typing import Literal

import msgspec

from services.persistence.webhooks.letters import Letter

FAMILY = "push"  # where names of keys begin
_SPACE = uuid.UUID("6f1f2b1e-9d0c-4b0f-8f0e-0d5a6a3c9b57")  # of the ids below; any constant

Kind = Literal["message", "dismiss"]


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One notification for one device.

    `kind`: `message` shows a message, `dismiss` takes it back. `address`: of the device; "": a backend's.
    """

    kind: Kind
    user: str
    channel: str
    epoch: str
    offset: int
    address: str = ""

    @property
    def notification(self) -> str:
        """Id of what the user sees: the same on all devices, and when it is repeated."""
        return _id("notification", self.user, self.channel, self.epoch, str(self.offset))

    @property
    def id(self) -> str:
        """Id of the request."""
        return _id(self.kind, self.user, self.channel, self.epoch, str(self.offset), self.address)

    @property
    def message_id(self) -> str:
        """Id of the request that shows the message on the same device."""
        return _id("message", self.user, self.channel, self.epoch, str(self.offset), self.address)

    def letter(self) -> Letter:
        """Return it as a letter."""
        return Letter(id=self.id, body=msgspec.json.encode(self).decode(), events=1, owner=self.user)


def errand_of(letter: Letter) -> Errand:
    """Return what a letter is about."""
    return msgspec.json.decode(letter.body, type=Errand)


def _id(*parts: str) -> str:
    return str(uuid.uuid5(_SPACE, "\n".join(parts)))
