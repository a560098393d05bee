"""Asks persistence and presence over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import grpc
import msgspec

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.ports import Plan, Shown
from services.shared.errors import Unavailable
from services.shared.rpc.replicas import Replicas
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub
from thalamus.presence.v1 import presence_pb2
from thalamus.presence.v1.presence_pb2_grpc import PresenceServiceStub

_PERSISTENCE_S = 5.0  # longest answer, seconds
_PRESENCE_S = 2.0
_USERS = 500  # of one call
T = TypeVar("T")


class _Answers(msgspec.Struct):
    """Answers of all methods: each has the members that it needs."""

    shown: Shown | None = None
    users: Any = msgspec.field(default_factory=dict)
    device: Device | None = None
    badge: int | None = None


class GrpcPersistence:
    """`Persistence` over gRPC; see `ports.py`."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def plan(self, channel: str, first: int, max_members: int, *, everybody: bool) -> Plan:
        params = {"channel": channel, "first": first, "max_members": max_members, "all": everybody}
        return await self._call("notify.plan", params, Plan)

    async def show(self, channel: str, epoch: str, offset: int, user: str, address: str) -> Shown | None:
        params = {"channel": channel, "epoch": epoch, "offset": offset, "user": user, "address": address}
        return (await self._call("notify.show", params, _Answers)).shown

    async def still(self, channel: str, epoch: str, shown: Mapping[str, int]) -> Mapping[str, bool]:
        found: dict[str, bool] = {}
        users = list(shown)
        for start in range(0, len(users), _USERS):
            some = {user: shown[user] for user in users[start : start + _USERS]}
            params = {"channel": channel, "epoch": epoch, "shown": some}
            found |= (await self._call("notify.still", params, _Answers)).users
        return found

    async def devices(self, users: Collection[str]) -> Mapping[str, Sequence[tuple[str, str]]]:
        found: dict[str, Sequence[tuple[str, str]]] = {}
        wanted = list(users)
        for start in range(0, len(wanted), _USERS):
            answer = await self._call("notify.devices", {"users": wanted[start : start + _USERS]}, _Answers)
            found |= {user: [(one[0], one[1]) for one in devices] for user, devices in answer.users.items()}
        return found

    async def device(self, user: str, address: str) -> tuple[Device | None, int | None]:
        found = await self._call("notify.device", {"user": user, "address": address}, _Answers)
        return found.device, found.badge

    async def gone(self, user: str, address: str) -> None:
        await self._call("notify.gone", {"user": user, "address": address}, _Answers)

    async def _call(self, method: str, params: Mapping[str, Any], kind: type[T]) -> T:
        return answer_of(await self._asked(pb.CallRequest(method=method, params=msgspec.json.encode(params))), kind)

    async def _asked(self, request: pb.CallRequest) -> pb.CallResponse:
        async def call(replica: grpc.aio.Channel) -> pb.CallResponse:
            return await ChatServiceStub(replica).Call(request, timeout=_PERSISTENCE_S)

        return await _ask(self._replicas, call, _PERSISTENCE_S, "persistence")


class GrpcPresence:
    """`Presence` over gRPC."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas

    async def active(self, users: Sequence[str]) -> set[str]:
        request = presence_pb2.OnlineRequest(users=users)

        async def call(replica: grpc.aio.Channel) -> presence_pb2.OnlineResponse:
            return await PresenceServiceStub(replica).Online(request, timeout=_PRESENCE_S)

        found = await _ask(self._replicas, call, _PRESENCE_S, "presence")
        pairs = zip(users, found.users, strict=True)
        return {user for user, one in pairs if one.connections and not one.away}


def answer_of(response: pb.CallResponse, kind: type[T]) -> T:
    """Decode the answer of persistence.

    Raises:
        Unavailable: it refused, or is of a version whose answer can't be read.
    """
    if response.HasField("refusal"):
        raise Unavailable(f"persistence refuses: {response.refusal.code} {response.refusal.text}")
    try:
        return msgspec.json.decode(response.result, type=kind)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"persistence answers something else: {error}") from error


async def _ask(replicas: Replicas, call: Callable[[grpc.aio.Channel], Awaitable[T]], timeout_s: float, name: str) -> T:
    try:
        return await replicas.call(call, timeout_s)
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"{name} says {error.code().name}") from error
