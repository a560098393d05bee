"""Methods on conversations, whichever way they are called.

**Purpose.** A method can be called by `rpc`, by HTTP of a signed-in user and by a backend. What all three have to check
is here; persistence decides about everything else.

**Rules.**

1. The channel says the namespace. Without a channel `namespace` does; without that the only one for conversations, or
   of several the one that is called `conv`. `conversations.list`, `inbox.list` and `messages.search` look into all of
   them, and devices lie in none.
2. Limits count before anything is asked, so a refused call counts. Backends have none. Only that a message begins a
   direct conversation is known to persistence alone: the edge asks not to begin one, counts it, and calls again.
3. A call that writes may have an idempotency key: beside it (`Idempotency-Key`), or as `key` among its parameters.
4. Where a hook sees publications, it sees what methods would publish, too (`hooked.py`). The permission is checked
   again behind it, as that of publications is.
5. Whom a call concerns is told on the personal channel once it is done, if there is a namespace `user`. That may be
   lost when an edge dies: an application lists its conversations when it connects.
6. What those are to be told who follow a conversation goes there as an ephemeral event, in the name of who called.

**Example.** `members.add {"channel":"conv:g.…","user":"u2"}` of u1: the namespace is `conv`, u1 has invites left,
persistence numbers the event and returns a notice, and `user:#u2` gets `{"kind":"added","channel":"conv:g.…"}`.

**Trade-off.** Parameters are read twice, here for the few members above and by persistence as a whole. In return there
is one place that knows what they may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from services.edge.domain.access.channel_names import find_namespace
from services.edge.domain.access.user_names import personal_channel
from services.edge.domain.channels.publisher import Publisher
from services.edge.domain.chat.refusal_time import wait_s
from services.edge.domain.conversations.calls import (
    Begins,
    ChatCalls,
    ChatRefused,
    EarlierVersion,
    Ephemeral,
    Notice,
    Outcome,
)
from services.edge.domain.conversations.hooked import HookedWrites, ToCall
from services.edge.domain.conversations.limits import ChatLimits
from services.edge.domain.model import ClientInfo
from services.edge.domain.user_ports import User
from services.shared.chat_methods import Act, Method, Rate
from services.shared.chat_requests import MAX_KEY_BYTES
from services.shared.errors import ErrorCode, ThalamusError
from services.shared.namespaces import Namespace, Namespaces, UnknownUsers
from services.shared.process.log_limit import RateLimitedLog

_UNTOLD = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)
_USUAL = "conv"  # the namespace that counts if there are several and none is named
_ANYWHERE = (
    "conversations.list",
    "inbox.list",
    "messages.search",
    "devices.set",
    "devices.remove",
    "devices.list",
    "me.preferences",
)
_SET_DEVICE = "devices.set"
_PERSONAL = "user"  # the namespace of personal channels
_MALFORMED = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class _Address(msgspec.Struct):
    """What an edge needs to know of the parameters."""

    channel: str = ""
    namespace: str = ""
    key: str = ""
    to: str = ""
    type: str = ""
    users: list[str] = []


_ADDRESS = msgspec.json.Decoder(_Address)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and as whose calls keys and limits count.

    `info`: None: the platform. `key_user`: whose idempotency keys they are. `is_backend`: has no limits. `session`: the
    claim `sid` of the token; empty: none.
    """

    info: ClientInfo | None
    key_user: str
    is_backend: bool = False
    session: str = ""


class Profiles(Protocol):
    """Tells which users there are."""

    async def get(self, users: Iterable[str]) -> Sequence[User]:
        """Return those that others may see.

        Raises:
            Unavailable: auth does not answer.
        """


class ChatMethods:
    """Checks calls of methods on conversations, has them executed and tells of them.

    Args:
        calls: What executes them.
        spawn: Runs a coroutine as a background task.
        wall: Unix seconds.
        refusal_step_s: Users are refused with 103 at multiples of it, see `chat/refusal_time.py`.
        hooked: Asks the hooks of publications.
    """

    def __init__(
        self,
        calls: ChatCalls,
        *,
        namespaces: Namespaces,
        channel_max_bytes: int,
        limits: ChatLimits,
        profiles: Profiles,
        publisher: Publisher,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        wall: Callable[[], float],
        refusal_step_s: float,
        hooked: HookedWrites,
    ) -> None:
        self._calls, self._namespaces, self._channel_max_bytes = calls, namespaces, channel_max_bytes
        self._limits, self._profiles, self._publisher = limits, profiles, publisher
        self._spawn, self._wall, self._refusal_step_s = spawn, wall, refusal_step_s
        self._hooked = hooked

    @property
    def namespaces(self) -> list[Namespace]:
        """Those that conversations lie in."""
        return [namespace for namespace in self._namespaces.named.values() if namespace.conversations]

    async def forget_devices(self, user: str) -> None:
        """Remove the devices of a user: no notification reaches them any more.

        A persistence of before has none.

        Raises:
            ThalamusError: what `ChatCalls.call` raises.
        """
        if self.namespaces:
            params = msgspec.json.encode({"user": user})
            with contextlib.suppress(EarlierVersion):
                await self._calls.call("devices.forget", params, info=None, key_user="", key="", namespace=None)

    async def forget_devices_of_sessions(self, user: str, sessions: Sequence[str]) -> None:
        """Remove the devices that a user set in these sign-ins.

        `user` "": it is not known whose they are. A persistence of before has none.

        Raises:
            ThalamusError: what `ChatCalls.call` raises.
        """
        if self.namespaces and sessions:
            params = msgspec.json.encode({"user": user, "sessions": sessions})
            with contextlib.suppress(EarlierVersion):
                await self._calls.call(
                    "devices.forget_sessions", params, info=None, key_user="", key="", namespace=None
                )

    async def call(
        self,
        method: Method,
        params: bytes,
        caller: Caller,
        *,
        key: str = "",
        permit: Callable[[Collection[Namespace]], None] | None = None,
    ) -> bytes:
        """Call a method; return its result, a JSON object.

        `key`: that beside the call; it must be the one in the parameters if both have one. `permit` is called with the
        namespaces that it concerns, and raises if the caller may do nothing there; it is called again after a hook.

        Raises:
            ThalamusError: 102, 107 or 108: nothing can lie there; 111: a limit; what `ChatCalls.call`, `permit` and
                `HookedWrites.ask` raise.
        """
        try:
            address = _ADDRESS.decode(params)
        except _MALFORMED as error:
            raise ChatRefused(ErrorCode.BAD_REQUEST, str(error), "malformed") from error
        namespace = self._namespace(method, address)
        if permit is not None:
            permit(self.namespaces if namespace is None else [namespace])
        key = _key(method, key, address.key)
        began = asyncio.get_running_loop().time()
        try:
            if not caller.is_backend:
                await self._admit(method, address, namespace, caller.info)
            to_call, by_user = ToCall(method.name, params), None if caller.is_backend else caller.info
            if namespace is not None and namespace.publish_hook and method.act is Act.WRITE and by_user:
                changed = await self._hooked.ask(method, params, by_user, key, namespace, address.channel)
                if permit is not None:
                    permit([namespace])
                if changed is None:
                    return msgspec.json.encode({"channel": address.channel, "applied": True})
                to_call = changed
            done = await self._execute(to_call, caller, key, namespace, begins=bool(address.to))
            if method.name == _SET_DEVICE and caller.session and caller.info is not None and permit is not None:
                await self._look_again(caller.info.user, caller.session, permit)
        except ChatRefused as error:
            if error.code is ErrorCode.PERMISSION_DENIED and not caller.is_backend:
                await asyncio.sleep(wait_s(self._refusal_step_s, asyncio.get_running_loop().time() - began))
            raise
        if done.notices:
            self._spawn(self._tell(done.notices))
        if done.ephemerals:
            self._spawn(self._publish_ephemeral(done.ephemerals, caller.info))
        return done.result

    async def _execute(
        self, to_call: ToCall, caller: Caller, key: str, namespace: Namespace | None, *, begins: bool
    ) -> Outcome:
        """Have a call executed; count the conversation that it begins.

        `begins`: it may begin one. Persistence alone knows whether it does, and says so before it does anything.
        """
        call = functools.partial(
            self._calls.call,
            *to_call,
            info=caller.info,
            key_user=caller.key_user,
            key=key,
            namespace=namespace,
            session=caller.session if to_call.method == _SET_DEVICE else "",
        )
        if caller.is_backend or caller.info is None or not begins or not self._limits.has(Rate.CONVERSATIONS):
            return await call()
        try:
            return await call(asks_to_begin=True)
        except Begins:
            await self._limits.take(caller.info.user, Rate.CONVERSATIONS)
            return await call()

    async def _look_again(self, user: str, session: str, permit: Callable[[Collection[Namespace]], None]) -> None:
        """Forget the device that was just set, if its sign-in is over by now.

        Whoever ends the sign-in forgets its devices afterwards: so either they see this one, or it is seen here that
        the sign-in is over.

        Raises:
            Exception: what `permit` raises.
        """
        try:
            permit(self.namespaces)
        except Exception:
            await self.forget_devices_of_sessions(user, [session])
            raise

    def _namespace(self, method: Method, address: _Address) -> Namespace | None:
        """Return where the conversation lies; None: in any."""
        if address.channel:
            namespace = find_namespace(self._namespaces, address.channel, self._channel_max_bytes)
            if not namespace.conversations:
                raise ChatRefused(ErrorCode.NOT_AVAILABLE, "no namespace of conversations")
            return namespace
        there = {namespace.name: namespace for namespace in self.namespaces}
        if address.namespace:
            if address.namespace not in there:
                raise ChatRefused(ErrorCode.NOT_AVAILABLE, "no namespace of conversations")
            return there[address.namespace]
        if method.name in _ANYWHERE:
            return None
        if not there:
            raise ChatRefused(ErrorCode.NOT_AVAILABLE, "no namespace of conversations")
        if len(there) > 1 and _USUAL not in there:
            raise ChatRefused(ErrorCode.BAD_REQUEST, "`namespace` must say which", "malformed")
        return there.get(_USUAL) or next(iter(there.values()))

    async def _admit(
        self, method: Method, address: _Address, namespace: Namespace | None, info: ClientInfo | None
    ) -> None:
        """Check what is only asked of users.

        Raises:
            ThalamusError: 103, nobody has signed in, or a user is not known; 111, a limit.
        """
        if info is None or not info.user:
            raise ChatRefused(ErrorCode.PERMISSION_DENIED, why="not_allowed")
        if method.rate is not None:
            await self._limits.take(info.user, method.rate)
        begins = method.name == "conversations.create"
        if begins and address.type != "direct" and address.users:
            await self._limits.take(info.user, Rate.INVITES, len(address.users))
        if namespace is None or namespace.unknown_users is UnknownUsers.ACCEPT:
            return
        others = [address.to] if address.to else address.users if begins and address.type == "direct" else []
        others = [user for user in others if user != info.user]
        if others and len(await self._profiles.get(others)) < len(set(others)):
            raise ChatRefused(ErrorCode.PERMISSION_DENIED, why="not_allowed")

    async def _tell(self, notices: Sequence[Notice]) -> None:
        """Publish notices on personal channels."""
        namespace = self._namespaces.named.get(_PERSONAL)
        if namespace is None:
            return
        time_ms = int(self._wall() * 1000)
        for notice in notices:
            channel = personal_channel(notice.user, _PERSONAL)
            try:
                find_namespace(self._namespaces, channel, self._channel_max_bytes)
                if notice.ephemeral:
                    await self._publisher.publish_ephemeral(channel, namespace, notice.data)
                else:
                    await self._publisher.publish(channel, namespace, notice.data, time_ms=time_ms)
            except ThalamusError as error:
                _UNTOLD("a user was not told on the personal channel", error=str(error))

    async def _publish_ephemeral(self, events: Sequence[Ephemeral], info: ClientInfo | None) -> None:
        """Tell those who follow conversations; what can't be sent is dropped."""
        for event in events:
            with contextlib.suppress(ThalamusError):
                namespace = find_namespace(self._namespaces, event.channel, self._channel_max_bytes)
                await self._publisher.publish_ephemeral(event.channel, namespace, event.data, info)


def _key(method: Method, beside: str, among: str) -> str:
    if not method.writes:
        return ""
    if beside and among and beside != among:
        raise ChatRefused(ErrorCode.BAD_REQUEST, "two idempotency keys", "malformed")
    key = beside or among
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise ChatRefused(ErrorCode.BAD_REQUEST, f"an idempotency key has at most {MAX_KEY_BYTES} bytes", "malformed")
    return key
