"""Calls methods on conversations, which persistence executes."""

from __future__ import annotations

import grpc

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.chat_client import ChatClient
from services.edge.adapters.chat_codec import options_of, refused
from services.edge.domain.conversations.calls import Begins, EarlierVersion, Ephemeral, Notice, Outcome
from services.edge.domain.model import ClientInfo
from services.shared.errors import ErrorCode, Unavailable
from services.shared.namespaces import Namespace
from services.shared.rpc.replicas import Replicas
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.chat.v1.chat_pb2_grpc import ChatServiceStub

DEADLINE_S = 2.5  # of a call, seconds


class PersistenceChat:
    """Implements `ChatCalls`, see services/edge/domain/conversations/calls.py."""

    def __init__(self, replicas: Replicas, client: ChatClient | None) -> None:
        """`client`: that of the same replicas, which knows whether all have conversations."""
        self._replicas, self._client = replicas, client

    async def call(
        self,
        method: str,
        params: bytes,
        *,
        info: ClientInfo | None,
        key_user: str,
        key: str,
        namespace: Namespace | None,
        session: str = "",
        asks_to_begin: bool = False,
    ) -> Outcome:
        if self._client is not None:
            self._client.require_served()
        request = pb.CallRequest(
            method=method,
            info=None if info is None else codec.encode_info(info),
            params=params,
            key_user=key_user,
            key=key,
            namespace="" if namespace is None else namespace.name,
            options=None if namespace is None else self._options(namespace),
            session=session,
            asks_to_begin=asks_to_begin,
        )

        async def call(replica: grpc.aio.Channel) -> pb.CallResponse:
            return await ChatServiceStub(replica).Call(request, timeout=DEADLINE_S)

        try:
            response = await self._replicas.call(call, DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise EarlierVersion("persistence is of an earlier version") from error
            raise Unavailable(f"persistence says {error.code().name}") from error
        if self._client is not None:
            self._client.note(response)
        if response.refusal.code == ErrorCode.METHOD_NOT_FOUND:
            raise EarlierVersion("persistence is of an earlier version")
        if response.HasField("refusal"):
            raise refused(response.refusal)
        if response.begins:
            raise Begins
        return Outcome(
            response.result,
            [Notice(notice.user, notice.data, notice.ephemeral) for notice in response.notices],
            [Ephemeral(one.channel, one.data) for one in response.ephemerals],
        )

    def _options(self, namespace: Namespace) -> pb.NamespaceOptions:
        if self._client is None:
            return options_of(namespace, may_queue=False)
        return self._client.options(namespace)
