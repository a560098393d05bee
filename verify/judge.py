"""Judges a recorded history, without knowing anything of the servers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from verify import events as e

LOST = "lost"  # publications skipped in an unbroken subscription, or missing at its end
DUPLICATE = "duplicate"  # delivered twice to one client
ORDER = "out of order"  # offsets of deliveries, of one publisher's acks, or of history went back
DIVERGENCE = "divergence"  # two publications at one position
UNEXPECTED = "unexpected"  # delivered or kept though refused or never published; or delivered while not subscribed
FALSE_RECOVERY = "false recovery"  # "recovered" across epochs, or from another position than the client's
NOT_STORED = "not stored"
STORED_TWICE = "stored twice"
PRESENCE = "presence not converged"
GAP = "gap notification"  # a fault only where continuity is promised
NO_TRAFFIC = "no traffic"
UNFINISHED = "unfinished"  # the history itself is incomplete

KINDS = (LOST, DUPLICATE, ORDER, DIVERGENCE, UNEXPECTED, FALSE_RECOVERY, NOT_STORED, STORED_TWICE, PRESENCE, GAP)
_SHOWN = 20  # findings per kind that are described


@dataclass(slots=True)
class Verdict:
    """Findings by kind: how many, and the first few in words."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    acked: int = 0
    delivered: int = 0
    recoveries: int = 0
    told: int = 0

    def find(self, kind: str, text: str, count: int = 1) -> None:
        """Add a finding."""
        self.counts[kind] += count
        if len(self.findings[kind]) < _SHOWN:
            self.findings[kind].append(text)

    @property
    def passed(self) -> bool:
        """Whether there are no findings."""
        return not any(self.counts.values())


@dataclass(slots=True)
class _Stream:
    """One client's view of one channel."""

    epoch: str = ""
    offset: int = 0
    open: bool = False  # whether the client takes itself for subscribed now
    seen: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Facts:
    """What the history says about logs and publications, whoever said it."""

    channel_of: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    places: dict[tuple[str, str, int], str] = field(default_factory=dict)
    acked: dict[str, tuple[str, int]] = field(default_factory=dict)  # id → (epoch, offset)
    markers: dict[str, str] = field(default_factory=dict)  # channel → id
    last_of_publisher: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    publisher_of: dict[str, str] = field(default_factory=dict)


def judge(
    history: Iterable[e.Event], *, gaps_allowed: Iterable[str] = (), gaps_allowed_to: Iterable[str] = ()
) -> Verdict:
    """Return the verdict on a history.

    In the channels `gaps_allowed`, and for the clients `gaps_allowed_to`, a gap notification is only counted, in
    `told`.

    An acknowledgement may be recorded after deliveries of the same publication: positions are compared once both are
    known.
    """
    allowed = frozenset(gaps_allowed)
    allowed_to = frozenset(gaps_allowed_to)
    verdict, facts = Verdict(), _Facts()
    streams: dict[str, dict[str, _Stream]] = defaultdict(lambda: defaultdict(_Stream))  # client → channel → stream
    started: e.Started | None = None
    finished: e.Finished | None = None
    kept: dict[str, e.Kept] = {}
    for event in history:
        match event:
            case e.Delivered():
                _delivered(event, streams[event.client][event.channel], facts, verdict)
            case e.Publishing():
                facts.channel_of[event.id] = event.channel
                facts.publisher_of[event.id] = event.publisher
            case e.Acked():
                _acked(event, facts, verdict)
            case e.Refused():
                facts.refused.add(event.id)
            case e.Subscribed():
                gap_allowed = event.channel in allowed or event.client in allowed_to
                _subscribed(event, streams[event.client][event.channel], verdict, gap_allowed=gap_allowed)
            case e.Told():
                streams[event.client][event.channel].open = False
            case e.Offline():
                for stream in streams[event.client].values():
                    stream.open = False
            case e.Marker():
                facts.markers[event.channel] = event.id
            case e.Kept():
                kept[event.channel] = event
            case e.Present():
                if sorted(event.roster) != sorted(event.expected):
                    ghosts = set(event.roster) - set(event.expected)
                    missing = set(event.expected) - set(event.roster)
                    verdict.find(
                        PRESENCE, f"{event.channel} as {event.asked} says: {len(ghosts)} ghosts, {len(missing)} missing"
                    )
            case e.Started():
                started = event
            case e.Finished():
                finished = event
            case _:
                pass
    _at_the_end(started, finished, streams, facts, kept, verdict)
    return verdict


def _place(facts: _Facts, verdict: Verdict, channel: str, epoch: str, offset: int, id_: str, who: str) -> None:
    """Note what is at this position; a finding if something else is there already."""
    there = facts.places.setdefault((channel, epoch, offset), id_)
    if there != id_:
        verdict.find(DIVERGENCE, f"{channel} {offset}:{epoch} is {there}, and {id_} to {who}")


def _acked(event: e.Acked, facts: _Facts, verdict: Verdict) -> None:
    """Check an acknowledgement: its position, and the order of its publisher's."""
    verdict.acked += 1
    before = facts.acked.get(event.id)
    if before is not None and before != (event.epoch, event.offset):
        verdict.find(STORED_TWICE, f"{event.id} was acknowledged at {before} and at {(event.epoch, event.offset)}")
    facts.acked[event.id] = (event.epoch, event.offset)
    _place(facts, verdict, event.channel, event.epoch, event.offset, event.id, "its publisher")
    if event.id in facts.refused:
        verdict.find(UNEXPECTED, f"{event.id} was refused and acknowledged")
    publisher = (facts.publisher_of.get(event.id, ""), event.channel)
    epoch, offset = facts.last_of_publisher.get(publisher, ("", 0))
    if epoch == event.epoch and event.offset <= offset:
        verdict.find(ORDER, f"{publisher[0]} was acknowledged {offset}, then {event.offset} in {event.channel}")
    facts.last_of_publisher[publisher] = (event.epoch, event.offset)


def _subscribed(event: e.Subscribed, stream: _Stream, verdict: Verdict, *, gap_allowed: bool) -> None:
    """Check the response to a subscribe: a recovery must be real, a gap allowed."""
    who = f"{event.client} in {event.channel}"
    if event.recovered:
        verdict.recoveries += 1
        if event.since is None or stream.epoch not in ("", event.epoch) or event.since[1] not in ("", event.epoch):
            verdict.find(FALSE_RECOVERY, f"{who}: recovered from {event.since} into {event.epoch}")
        elif event.since[0] != stream.offset:
            verdict.find(FALSE_RECOVERY, f"{who}: has {stream.offset}, asked since {event.since[0]}")
    else:
        if stream.epoch:
            verdict.told += 1
            if not gap_allowed:
                verdict.find(GAP, f"{who}: had {stream.offset}:{stream.epoch}, begins at {event.offset}:{event.epoch}")
        stream.offset = event.offset
        if stream.epoch != event.epoch:
            stream.seen.clear()  # an id must be unique within one epoch; in the next epoch it may be published again
    stream.epoch = event.epoch
    stream.open = True


def _delivered(event: e.Delivered, stream: _Stream, facts: _Facts, verdict: Verdict) -> None:
    """Check a delivery: expected, not twice, at the next offset."""
    verdict.delivered += 1
    who = f"{event.client} in {event.channel}"
    if facts.channel_of.get(event.id) != event.channel or event.id in facts.refused:
        verdict.find(UNEXPECTED, f"{who}: {event.id}")
    if not stream.open:
        verdict.find(UNEXPECTED, f"{who}: {event.id} while not subscribed")
    facts.delivered.add(event.id)
    again = event.id in stream.seen
    if again:
        verdict.find(DUPLICATE, f"{who}: {event.id} at {event.offset}")
    stream.seen.add(event.id)
    _place(facts, verdict, event.channel, stream.epoch, event.offset, event.id, event.client)
    if event.offset == stream.offset + 1:
        stream.offset = event.offset
    elif event.offset > stream.offset + 1:
        missing = event.offset - stream.offset - 1
        verdict.find(LOST, f"{who}: {stream.offset + 1} to {event.offset - 1} of {stream.epoch}", missing)
        stream.offset = event.offset
    elif not again:
        verdict.find(ORDER, f"{who}: {event.offset} after {stream.offset}")


def _at_the_end(
    started: e.Started | None,
    finished: e.Finished | None,
    streams: dict[str, dict[str, _Stream]],
    facts: _Facts,
    kept: dict[str, e.Kept],
    verdict: Verdict,
) -> None:
    """Check what only the whole history shows."""
    if started is None or finished is None:
        verdict.find(UNFINISHED, "the history has no beginning or no end")
        return
    acked = len(set(facts.acked) - set(facts.markers.values()))
    delivered = len(facts.delivered - set(facts.markers.values()))
    if not acked or not delivered:
        verdict.find(NO_TRAFFIC, f"but for the markers {acked} were acknowledged, {delivered} delivered")
    for id_ in facts.refused & set(facts.acked):
        verdict.find(UNEXPECTED, f"{id_} was acknowledged and refused")
    for client, channel in finished.subscribers:
        _reached(client, channel, streams[client][channel], facts, verdict)
    for channel in started.stored:
        if channel not in kept:
            verdict.find(NOT_STORED, f"{channel}: its history could not be read")
    for channel, found in kept.items():
        _kept(channel, found, facts, verdict, must_be_whole=channel in started.stored)


def _reached(client: str, channel: str, stream: _Stream, facts: _Facts, verdict: Verdict) -> None:
    """Check that a subscriber at the end has reached the channel's marker."""
    marker = facts.markers.get(channel)
    if marker is None or marker not in facts.acked:
        verdict.find(UNFINISHED, f"{channel} has no acknowledged marker")
        return
    epoch, offset = facts.acked[marker]
    if stream.epoch != epoch:
        verdict.find(LOST, f"{client} in {channel}: ends in epoch {stream.epoch}, not {epoch}")
    elif stream.offset < offset:
        verdict.find(LOST, f"{client} in {channel}: ends at {stream.offset} of {offset}", offset - stream.offset)


def _kept(channel: str, found: e.Kept, facts: _Facts, verdict: Verdict, *, must_be_whole: bool) -> None:
    """Check a channel's history against what was acknowledged."""
    ids = Counter(id_ for _, id_ in found.entries)
    for id_, times in ids.items():
        if times > 1:
            verdict.find(STORED_TWICE, f"{channel}: {id_} {times} times", times - 1)
        if facts.channel_of.get(id_) != channel or id_ in facts.refused:
            verdict.find(UNEXPECTED, f"{channel}: history has {id_}")
    offsets = [offset for offset, _ in found.entries]
    if offsets != sorted(set(offsets)):
        verdict.find(ORDER, f"{channel}: offsets of its history do not rise")
    for offset, id_ in found.entries:
        _place(facts, verdict, channel, found.epoch, offset, id_, "history")
    if not must_be_whole:
        return
    if not found.whole or (offsets and offsets != list(range(offsets[0], offsets[0] + len(offsets)))):
        verdict.find(NOT_STORED, f"{channel}: its history has a hole")
    there = dict(found.entries)
    for id_, (epoch, offset) in facts.acked.items():
        if facts.channel_of.get(id_) == channel and (epoch != found.epoch or there.get(offset) != id_):
            verdict.find(NOT_STORED, f"{channel}: {id_}, acknowledged at {offset}:{epoch}")
