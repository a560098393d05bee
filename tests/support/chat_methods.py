"""Conversations for edges of tests: a real gRPC server with scripted answers."""

from __future__ import annotations

import asyncio
import copy
import itertools
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from services.edge.adapters.chat_calls import PersistenceChat
from services.edge.api.app import create_app
from services.edge.api.chat_rest import Route
from services.edge.api.context import ApiContext
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.conversations.hooked import HookedWrites
from services.edge.domain.conversations.methods import ChatMethods
from services.edge.domain.session import chat_methods
from services.edge.domain.session.node import Node
from services.shared.namespaces import Mode, Namespace, Permission, UnknownUsers
from services.shared.rpc.replicas import Replicas
from services.shared.rpc.server import GrpcServer, start_grpc_server
from tests.support import edge_chat
from tests.support.edge import Client, Cluster
from tests.support.waiting import until
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceServicer, add_ChatServiceServicer_to_server

CONV = replace(edge_chat.CONV, unknown_users=UnknownUsers.ACCEPT)
PERSONAL = Namespace(
    name="user",
    recovery=Mode.FORCE,
    subscribe=frozenset({Permission.AUTHENTICATED}),
    history=frozenset({Permission.SUBSCRIBER}),
)
GROUP = edge_chat.GROUP


class ScriptedChat(ChatServiceServicer):
    """Keeps what it is asked, and answers with `answer`; `go` holds answers back."""

    def __init__(self) -> None:
        self.asked: list[pb.CallRequest] = []
        self.answer = pb.CallResponse(result=b"{}")
        self.go = asyncio.Event()
        self.go.set()

    async def Append(self, request_iterator, context):  # type: ignore[no-untyped-def]
        async for _ in request_iterator:
            yield pb.EventResults()

    async def Check(self, request_iterator, context):  # type: ignore[no-untyped-def]
        async for _ in request_iterator:
            yield pb.CheckResults()

    async def Call(self, request, context):  # type: ignore[no-untyped-def]
        self.asked.append(request)
        await self.go.wait()
        return self.answer

    async def Memberships(self, request, context):  # type: ignore[no-untyped-def]
        return pb.MembershipsResponse(users=[pb.UserConversations() for _ in request.users])

    def refuse(self, code: int, *, why: str = "", text: str = "", retry_after_ms: int = 0) -> None:
        self.answer = pb.CallResponse(refusal=pb.Refusal(code=code, why=why, text=text, retry_after_ms=retry_after_ms))

    def take(self) -> pb.CallRequest:
        """The only request since the last `take`."""
        (request,) = self.asked
        self.asked.clear()
        return request


class ChatServer:
    """A persistence with conversations, or one of before; use `async with`."""

    def __init__(self, *, knows_chat: bool = True, script: ScriptedChat | None = None) -> None:
        self.script = script or ScriptedChat()
        self._knows_chat = knows_chat
        self._server: GrpcServer | None = None
        self.replicas: Replicas | None = None

    def _add(self, server: Any) -> None:
        if self._knows_chat:
            add_ChatServiceServicer_to_server(self.script, server)

    async def __aenter__(self) -> Self:
        self._server = await start_grpc_server(
            self._add, host="127.0.0.1", port=0, service_token=None, service="persistence"
        )
        self.replicas = Replicas(f"127.0.0.1:{self._server.port}", service_token=None, service="edge")
        await self.replicas.start()
        async with asyncio.timeout(30):
            while not self.replicas.is_ready():
                await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.script.go.set()
        assert self.replicas is not None
        await self.replicas.close()
        if self._server is not None:
            await self._server.stop(0)

    def methods(self, node: Node) -> ChatMethods:
        """The methods of an edge, which are callable by rpc from now on."""
        assert self.replicas is not None
        made = chat_methods_of(node, self.replicas)
        chat_methods.register(node.rpc, made)
        return made


def chat_methods_of(node: Node, replicas: Replicas) -> ChatMethods:
    """The methods of an edge, as `services/edge/edge.py` makes them."""
    return ChatMethods(
        PersistenceChat(replicas, None),
        namespaces=node.namespaces,
        channel_max_bytes=node.settings.channel_max_bytes,
        limits=node.chat_limits,
        profiles=node.profiles,
        publisher=node.publisher,
        spawn=node.spawn,
        wall=node.clock.wall,
        refusal_step_s=node.settings.refusal_step_s,
        hooked=HookedWrites(node.hooks, node.chat, edge_name=node.edge_name, wall=node.clock.wall),
    )


def split(route: Route, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path of a route, and the parameters that are not in it."""
    path, rest = route.path.replace(":path", ""), dict(params)
    for part, member in route.in_path.items():
        path = path.replace(f"{{{part}}}", quote(str(rest.pop(member)), safe=""))
    return path, rest


_NUMBERS = itertools.count(1_000)  # of commands that are sent as they are


def http_of(
    cluster: Cluster, node: Node, chat: ChatMethods, *, keyring: KeyRing | None = None, origin: str = ""
) -> httpx.AsyncClient:
    """The HTTP application of an edge; `origin`: whose pages may use it."""
    context = ApiContext(
        node=node,
        cluster=cast(Any, None),
        revoker=cast(Any, None),
        granter=cast(Any, None),
        accounts=cast(Any, None),
        users=cast(Any, None),
        profile_news=cast(Any, None),
        tickets=cast(Any, None),
        chat=chat,
        keyring=keyring or cluster.keyring,
        web_dir=Path("web"),
        websocket_path="/connection/websocket",
        origin_allowed=lambda asked: asked == origin,
        is_own_page=lambda _origin, _host: False,
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url="http://edge.internal")


async def rpc(client: Client, method: str, params: Any = None, *, token: str = "") -> dict[str, Any]:
    """The reply to a call, `{"data": …}` or `{"error": …}`.

    Bytes of `params` are sent as they are.
    """
    beside = {"token": token} if token else {}
    if isinstance(params, bytes):
        number = next(_NUMBERS)
        await client.raw(b'{"id":%d,"rpc":{"method":"%s","data":%s}}' % (number, method.encode(), params))
    else:
        number = await client.post(rpc={"method": method, "data": params}, **beside)
    line = await until(lambda: next((line for line in client.lines if line.get("id") == number), None))
    found: dict[str, Any] = line.get("rpc") or {"error": line["error"]}
    return found


async def rpc_text(client: Client, method: str, params: bytes) -> bytes:
    """The text of the reply to a call."""
    before = len(client.texts)
    await rpc(client, method, params)
    (text,) = [text for text in client.texts[before:] if b'"id":' in text]
    return text


def sample(method: str) -> dict[str, Any]:
    """Parameters with which a method can be called."""
    return copy.deepcopy(SAMPLES[method])


_AT = {"channel": GROUP}
SAMPLES: dict[str, dict[str, Any]] = {
    "conversations.create": {"name": "Lunch", "users": ["u2"], "settings": {"history": "joined"}},
    "conversations.get": _AT,
    "conversations.list": {"limit": 10},
    "inbox.list": {"limit": 10},
    "conversations.directory": {"prefix": "lu"},
    "conversations.update": {**_AT, "name": "Dinner"},
    "conversations.close": _AT,
    "conversations.reopen": _AT,
    "conversations.delete": _AT,
    "conversations.join": _AT,
    "conversations.leave": _AT,
    "conversations.decline": _AT,
    "conversations.search": {"query": "lunch", "limit": 10, "namespace": "conv"},
    "messages.search": {**_AT, "query": '"see you" -tomorrow', "limit": 10, "sort": "best"},
    "members.list": {**_AT, "limit": 10},
    "members.add": {**_AT, "user": "u2", "role": "reader", "from": 3},
    "members.invite": {**_AT, "user": "u2"},
    "members.remove": {**_AT, "user": "u2"},
    "members.role": {**_AT, "user": "u2", "role": "moderator"},
    "members.silence": {**_AT, "user": "u2", "until": 1_900_000_000_000},
    "members.ban": {**_AT, "user": "u2"},
    "members.unban": {**_AT, "user": "u2"},
    "messages.send": {**_AT, "text": "See you at 8", "meta": {"a": 1}},
    "messages.edit": {**_AT, "of": 2, "text": "See you at 9", "if_rev": 2},
    "messages.delete": {**_AT, "of": 2},
    "messages.purge": {**_AT, "user": "u2", "upto": 9},
    "messages.get": {**_AT, "offset": 2},
    "messages.list": {**_AT, "limit": 24, "before": 9},
    "messages.between": {"with": "u2", "limit": 10},
    "messages.thread": {**_AT, "thread": 2, "limit": 10, "after": 5},
    "messages.versions": {**_AT, "offset": 2},
    "reactions.add": {**_AT, "of": 2, "name": "👍"},
    "reactions.remove": {**_AT, "of": 2, "name": "👍"},
    "reactions.list": {**_AT, "offset": 2, "name": "👍"},
    "pins.add": {**_AT, "of": 2},
    "pins.remove": {**_AT, "of": 2},
    "pins.list": _AT,
    "markers.get": _AT,
    "typing.start": _AT,
    "typing.stop": _AT,
    "devices.set": {"id": "phone", "platform": "fcm", "token": "fMEP0vJqS0:APA91bHqX"},
    "devices.remove": {"id": "phone"},
    "devices.list": {},
    "markers.read": {**_AT, "offset": 2, "generation": 1, "epoch": "abc"},
    "markers.unread": {**_AT, "offset": 2},
    "markers.delivered": {**_AT, "offset": 2},
    "receipts.list": {**_AT, "offset": 2, "limit": 10},
    "conversations.preferences": {**_AT, "muted_until": 1_900_000_000_000, "archived": True, "notify": "none"},
    "me.preferences": {"receipts": "private"},
    "me.export": {"limit": 10, "cursor": "abc"},
    "me.erase": {"leave": False, "cursor": "abc"},
}
