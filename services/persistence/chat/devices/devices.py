"""The devices of users: set, removed, listed.

**Rules.**

1. A user has 25 at most. All of them are one document, which is replaced if nobody else did so meanwhile. So the bound
   holds whoever else writes.
2. A device belongs to one user: who signs in on it takes it from who was there before. It counts for a user only while
   its address is that user's. So no notification of the former user reaches it, from the moment of the change, whatever
   dies meanwhile.
3. Setting a device again is harmless. Applications do it at every start. It belongs to the sign-in in which it was set
   last, and is forgotten once edges say that this one has ended. Whose it is, is kept beside the addresses: a backend
   that revokes a sign-in need not say the user.

**Example.** bob signs in on alice's phone, which has the same token for both. The device comes into bob's document, the
address becomes bob's, and alice's document loses it. If the process dies before the last step, alice's entry is left;
it does not count, and goes with the next change of alice's devices.

**Trade-off.** A setting that dies after the first step has an entry that does not count yet. The client was told an
error, and sets the device again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence

import msgspec

from services.persistence.chat.devices.device import Device, sign_in
from services.persistence.chat.devices.ports import DeviceStore, Kept
from services.shared.errors import ErrorCode, ThalamusError, Unavailable

MAX_DEVICES = 25  # of a user
_ATTEMPTS = 20  # of a change, while others change the same document

_decode = msgspec.json.Decoder(tuple[Device, ...]).decode
_encode = msgspec.json.Encoder().encode
_Change = Callable[[Sequence[Device]], Sequence[Device]]


class Devices:
    """Devices of all users. All methods raise `Unavailable`."""

    def __init__(self, store: DeviceStore) -> None:
        """Take the store; makes no request."""
        self._store = store

    async def set(self, user: str, device: Device) -> None:
        """Add a device, or replace the one with its id.

        Raises:
            ThalamusError: 106, the user has 25 others.
        """

        def added(kept: Sequence[Device]) -> Sequence[Device]:
            others = [one for one in kept if one.id != device.id and one.address != device.address]
            if len(others) >= MAX_DEVICES:
                raise ThalamusError(f"a user has at most {MAX_DEVICES} devices", ErrorCode.LIMIT_EXCEEDED)
            return [*others, device]

        await self._change(user, added)
        before = await self._store.own(device.address, user)
        if before not in (None, user):
            await self._change(before or "", lambda kept: [one for one in kept if one.address != device.address])
        if device.session:
            await self._store.own(_name(device.session), user)

    async def remove(self, user: str, device_id: str) -> bool:
        """Remove a device; return whether there was one."""
        return await self._change(user, lambda kept: [one for one in kept if one.id != device_id])

    async def gone(self, user: str, address: str) -> None:
        """Remove a device whose address leads nowhere; one that was set anew stays."""
        await self._change(user, lambda kept: [one for one in kept if one.address != address])

    async def forget_sessions(self, user: str, sessions: Collection[str]) -> None:
        """Remove the devices that were set in sign-ins that have ended.

        `user` "": that of each, if devices were set in it.
        """
        ended = {sign_in(session) for session in sessions if session}
        users = {user} if user else set((await self._store.owners([_name(one) for one in ended])).values())
        for one in users:
            await self._change(one, lambda kept: [device for device in kept if device.session not in ended])

    async def forget(self, user: str) -> None:
        """Remove all devices of a user."""
        await self._change(user, lambda kept: ())

    async def of(self, users: Collection[str]) -> dict[str, list[Device]]:
        """Return the devices of those users who have any, the oldest setting first."""
        kept = {user: _decode(one.document) for user, one in (await self._store.devices(users)).items()}
        addresses = [device.address for devices in kept.values() for device in devices]
        owners = await self._store.owners(addresses) if addresses else {}
        mine = {
            user: [device for device in devices if owners.get(device.address) == user] for user, devices in kept.items()
        }
        return {user: devices for user, devices in mine.items() if devices}

    async def _disown_session(self, session: str, user: str) -> None:
        """Let a sign-in without devices be nobody's, unless one was set in it meanwhile."""
        await self._store.disown(_name(session), user)
        found = (await self._store.devices([user])).get(user)
        if found and any(one.session == session for one in _decode(found.document)):
            await self._store.own(_name(session), user)

    async def _change(self, user: str, change: _Change) -> bool:
        """Change the document of a user; return whether that changed it."""
        for _ in range(_ATTEMPTS):
            found = (await self._store.devices([user])).get(user)
            before = _decode(found.document) if found else ()
            after = tuple(change(before))
            if after == before:
                return False
            kept = Kept(str(uuid.uuid4()), _encode(after)) if after else None
            if await self._store.set_devices(user, found.version if found else "", kept):
                left = {device.address for device in after}
                for device in before:
                    if device.address not in left:
                        await self._store.disown(device.address, user)
                for session in {device.session for device in before} - {device.session for device in after} - {""}:
                    await self._disown_session(session, user)
                return True
        raise Unavailable("others change the devices of this user all the time")


def _name(session: str) -> str:
    """Return the address, among those of devices, that stands for a sign-in."""
    return f"session:{session}"
