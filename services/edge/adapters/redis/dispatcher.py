"""Dispatcher of pub/sub messages: decodes payloads and calls the listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable

from google.protobuf.message import DecodeError
from prometheus_client import Counter

from services.edge.adapters import publication_codec as codec
from services.edge.adapters.redis.acknowledged import AcknowledgedPositions
from services.edge.adapters.redis.command_log import parse_command
from services.edge.adapters.redis.self_check import PubSubSelfCheck
from services.edge.domain.model import ClientInfo
from services.edge.domain.ports import ChannelListener, ControlListener
from services.shared.hotlog import keys
from thalamus.common.v1 import common_pb2 as pb

logger = logging.getLogger(__name__)

_DROPPED = Counter("thalamus_edge_redis_unreadable", "Pub/sub payloads that could not be read.")


class PubSubDispatcher:
    """Calls the listeners on the event loop, in the order of arrival.

    A payload that can't be decoded is counted, logged and dropped.
    """

    def __init__(
        self,
        channels: ChannelListener,
        on_control: Callable[[bytes], None],
        commands: ControlListener | None,
        self_check: PubSubSelfCheck,
        acknowledged: AcknowledgedPositions,
    ) -> None:
        self._channels, self._on_control, self._commands = channels, on_control, commands
        self._self_check, self._acknowledged = self_check, acknowledged
        self._self_check_name = self_check.channel.encode()
        self._control = keys.control().encode()

    def connected(self, again: bool) -> None:
        """Tell the listeners that all subscriptions are confirmed.

        With `again` it is a new connection: messages may have been missed before.
        """
        if self._commands is not None:
            self._commands.poll()
        if again:
            self._channels.reconnected()

    def message(self, channel: bytes, payload: bytes) -> None:
        """Decode one message of a pub/sub channel and pass it on."""
        try:
            if channel == self._control:
                self._deliver_control(payload)
            elif channel == self._self_check_name:
                self._self_check.received(payload)
            else:
                self._deliver(keys.channel_of(channel), payload)
        except (DecodeError, ValueError) as error:
            _DROPPED.inc()
            logger.error("unreadable payload", extra={"channel": repr(channel), "error": repr(error)})

    def _deliver_control(self, payload: bytes) -> None:
        if not payload.startswith(keys.CONTROL_COMMAND):
            self._on_control(payload)
        elif self._commands is not None:
            self._commands.on_command(parse_command(payload))

    def _deliver(self, channel: str, payload: bytes) -> None:
        kind = payload[:1]
        if kind == keys.NUMBERED:
            head, offset, publication = payload.split(b" ", 2)
            epoch = head[1:].decode()
            found = codec.decode(publication, int(offset))
            self._acknowledged.note(channel, epoch, found.offset, found.id)
            self._channels.publication(channel, epoch, found)
        elif kind == keys.UNNUMBERED:
            self._channels.publication(channel, "", codec.decode(payload[1:], 0))
        elif kind == keys.EPHEMERAL:
            self._channels.ephemeral(channel, codec.decode(payload[1:], 0))
        elif kind == keys.JOINS:
            self._channels.joined(channel, _infos(payload))
        elif kind == keys.UPDATES:
            self._channels.updated(channel, _infos(payload))
        elif kind == keys.LEAVE:
            self._channels.left(channel, codec.decode_info(pb.ClientInfo.FromString(payload[1:])))
        elif kind == keys.RESET:
            self._channels.was_reset(channel, payload[1:].decode())
        else:
            raise ValueError(f"unknown kind {kind!r}")


def _infos(payload: bytes) -> list[ClientInfo]:
    return list(map(codec.decode_info, pb.ClientInfos.FromString(payload[1:]).infos))
