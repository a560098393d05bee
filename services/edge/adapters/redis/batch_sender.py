"""Sends one batch of the broker to Redis, and settles its items.

PUBLISH commands go first, in a round trip of their own, because they are never repeated. Then follow the append
scripts, each for up to 64 channels, and the other scripts, all in one round trip. `broker` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from services.edge.adapters.redis.acknowledged import AcknowledgedPositions
from services.edge.adapters.redis.incarnation import IncarnationWatch
from services.edge.adapters.redis.own_appends import OwnAppends
from services.edge.adapters.redis.queued import Append, OtherCommand, fail, settle
from services.edge.domain.model import AppendResult, StreamPosition
from services.shared.errors import Unavailable
from services.shared.hotlog import hot, hotlog
from services.shared.incarnation.calls import Incarnation, Known
from services.shared.incarnation.gate import IncarnationGate
from services.shared.redis.pipeline import NotSent, RedisPipeline

DEADLINE_S = 2.8  # longest wait for Redis, seconds
CHANNELS_PER_CALL = 64  # per append script: with a publication or two each, it blocks Redis for under a millisecond


class BatchSender:
    """Sends the batches of a broker over its command connection.

    Args:
        pipeline: The connection.
        gate: Says which incarnation of Redis may be used.
        incarnation: Is told when a reply shows that Redis went back.
        appends: Numbers of this edge's append calls.
        acknowledged: Takes the positions that were acknowledged.
        clock: The clock of Redis, in Unix seconds.
        meta_ttl_s: How long Redis keeps epoch and top of an unused `hot` channel, seconds.
        feed_max_entries: Entries that a stream of the feed keeps.
    """

    def __init__(
        self,
        pipeline: RedisPipeline,
        gate: IncarnationGate,
        incarnation: IncarnationWatch,
        appends: OwnAppends,
        acknowledged: AcknowledgedPositions,
        clock: Callable[[], float],
        *,
        meta_ttl_s: int,
        feed_max_entries: int,
    ) -> None:
        self._pipeline = pipeline
        self._gate = gate
        self._incarnation = incarnation
        self._appends = appends
        self._acknowledged = acknowledged
        self._clock = clock
        self._meta_ttl_s = meta_ttl_s
        self._feed_max_entries = feed_max_entries

    async def send(self, batch: Sequence[Append | OtherCommand]) -> None:
        """Send what is not settled yet, and settle it.

        Raises:
            Unavailable: some items are not settled; their outcome is unknown. `NotSent`: nothing was done for them.
        """
        appends: dict[tuple[str, int, int], list[Append]] = {}
        others: list[OtherCommand] = []
        publishes: list[OtherCommand] = []
        for work in batch:
            if work.future.done():
                continue
            if isinstance(work, Append):
                appends.setdefault((work.channel, work.history_size, work.history_ttl_s), []).append(work)
            elif work.publish is not None:
                publishes.append(work)
            else:
                others.append(work)
        incarnation = self._gate.incarnation
        if incarnation is None:
            raise NotSent("this incarnation of Redis may not be used yet")
        if publishes:
            await self._send_publishes(publishes)
        groups = list(appends.items())
        parts = [groups[start : start + CHANNELS_PER_CALL] for start in range(0, len(groups), CHANNELS_PER_CALL)]
        fresh_epoch = hotlog.new_epoch(incarnation.generation)
        now_s = int(self._clock())
        calls = [
            hot.append_call(
                [
                    hot.HotBatch(
                        channel,
                        size,
                        ttl_s,
                        [(work.publication, work.key) for work in group],
                        () if group[0].author is None else [work.author or "" for work in group],
                    )
                    for (channel, size, ttl_s), group in part
                ],
                edge=self._incarnation.name,
                fresh_epoch=fresh_epoch,
                now_s=now_s,
                writes=self._gate.writes,
                number=self._appends.highest,
                meta_ttl_s=self._meta_ttl_s,
                feed_max_entries=self._feed_max_entries,
            )
            for part in parts
        ]
        calls += [work.call(incarnation) for work in others if work.call is not None]
        if not calls:
            return
        self._appends.began()
        try:
            results = await self._pipeline.run(calls, timeout_s=DEADLINE_S)
            if self._gate.token != incarnation.token:
                raise Unavailable("another incarnation of Redis began meanwhile")
            for part, result in zip(parts, results, strict=False):
                self._settle_appends(incarnation, [group for _, group in part], result)
        finally:
            self._appends.ended()
        for work, result in zip(others, results[len(parts) :], strict=True):
            settle(work.future, result)

    async def _send_publishes(self, publishes: list[OtherCommand]) -> None:
        commands = [("PUBLISH", *work.publish) for work in publishes if work.publish is not None]
        try:
            results = await self._pipeline.execute(commands, timeout_s=DEADLINE_S)
        except Unavailable as error:
            for work in publishes:  # not repeated: subscribers may have got it, and could not recognise a second one
                settle(work.future, Unavailable(str(error)))
            return
        for work, result in zip(publishes, results, strict=True):
            settle(work.future, result)

    def _settle_appends(self, incarnation: Incarnation, groups: list[list[Append]], result: Any) -> None:
        try:
            reply = hot.appended(result)
        except Unavailable as error:
            for group in groups:
                fail(group, error)
            return
        if reply is None:
            self._incarnation.check_now()
            for group in groups:
                fail(group, Unavailable("Redis went back"))
            return
        if self._gate.token != incarnation.token or not self._appends.is_new(reply.number):
            if self._gate.is_open:
                self._incarnation.went_back(incarnation.token)
            for group in groups:
                fail(group, Unavailable("Redis went back"))
            return
        if any(isinstance(appended, hot.HotAppended) for appended in reply.batches):
            self._gate.saw(Known(incarnation.generation, reply.writes))
        for group, appended in zip(groups, reply.batches, strict=True):
            if isinstance(appended, hot.HotAppended):
                self._settle_group(group, *appended)
            elif appended is None:
                self._incarnation.check_now()
                fail(group, Unavailable("the log is of a later generation"))
            else:
                fail(group, appended)

    def _settle_group(self, group: list[Append], epoch: str, offsets: list[int]) -> None:
        for work, offset in zip(group, offsets, strict=True):
            if offset > 0:
                self._acknowledged.note(work.channel, epoch, offset, work.publication_id)
            if not work.future.done():
                work.future.set_result(AppendResult(StreamPosition(abs(offset), epoch), offset < 0))
