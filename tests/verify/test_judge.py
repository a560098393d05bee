"""The judge: a clean history passes, every break is found and named."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from verify import events as e
from verify import judge as j
from verify.judge import judge

History = list[e.Event]
CHANNELS = ("chat:a", "live:b")
CLIENTS = ("s0", "s1", "s2", "s3")


def clean(seed: int = 1) -> History:
    """Two channels, four clients that drop and recover, one that starts late.

    All as it should be.
    """
    rng = random.Random(seed)
    history: History = [e.Started(at=0.0, seed=seed, what="made by hand", stored=["chat:a"])]
    position = {(client, channel): 0 for client in CLIENTS for channel in CHANNELS}
    kept: dict[str, list[tuple[int, str]]] = {channel: [] for channel in CHANNELS}
    away: set[str] = set()

    def subscribe(client: str, at: float, *, again: bool) -> None:
        for channel in CHANNELS:
            offset = position[client, channel]
            if not again:
                position[client, channel] = offset = len(kept[channel])
            history.append(
                e.Subscribed(
                    at=at,
                    client=client,
                    channel=channel,
                    offset=offset,
                    epoch=f"E{channel}",
                    recovered=again,
                    since=(offset, f"E{channel}") if again else None,
                )
            )
            deliver(client, channel, at, live=False)

    def deliver(client: str, channel: str, at: float, *, live: bool) -> None:
        for offset, id_ in kept[channel][position[client, channel] :]:
            history.append(e.Delivered(at=at, client=client, channel=channel, offset=offset, id=id_, live=live))
            position[client, channel] = offset

    for client in CLIENTS[:3]:
        subscribe(client, 0.1, again=False)
    for number in range(120):
        at = 1.0 + number / 10
        if number == 60:
            subscribe("s3", at, again=False)
        channel = CHANNELS[number % 2]
        id_ = f"m{number}"
        history.append(e.Publishing(at=at, id=id_, channel=channel, publisher=f"p{number % 3}"))
        if number % 20 == 7:
            history.append(e.Refused(at=at, id=id_, code=111))
            continue
        kept[channel].append((len(kept[channel]) + 1, id_))
        if number % 20 == 9:
            history.append(e.Unknown(at=at, id=id_))  # and yet it appears, for everyone
        else:
            history.append(e.Acked(at=at, id=id_, channel=channel, offset=len(kept[channel]), epoch=f"E{channel}"))
        for client in CLIENTS[:3] if number < 60 else CLIENTS:
            if client not in away:
                deliver(client, channel, at, live=True)
        chosen = rng.choice(CLIENTS[:3])
        if chosen in away:
            away.discard(chosen)
            subscribe(chosen, at, again=True)
        elif rng.random() < 0.5:
            away.add(chosen)
            history.append(e.Offline(at=at, client=chosen, code=1006, planned=True))
    for client in sorted(away):
        subscribe(client, 20.0, again=True)
    for channel in CHANNELS:
        id_ = f"marker {channel}"
        kept[channel].append((len(kept[channel]) + 1, id_))
        history.append(e.Marker(at=21.0, id=id_, channel=channel))
        history.append(e.Publishing(at=21.0, id=id_, channel=channel, publisher="marker"))
        history.append(e.Acked(at=21.0, id=id_, channel=channel, offset=len(kept[channel]), epoch=f"E{channel}"))
        for client in CLIENTS:
            deliver(client, channel, 21.1, live=True)
        history.append(e.Kept(at=22.0, channel=channel, epoch=f"E{channel}", entries=kept[channel], whole=True))
    history.append(e.Present(at=23.0, channel="chat:a", asked="edge", roster=["c1", "c2"], expected=["c2", "c1"]))
    history.append(e.Finished(at=24.0, subscribers=[(client, channel) for client in CLIENTS for channel in CHANNELS]))
    return history


def places(history: History, kind: type[Any], **members: object) -> list[int]:
    """Indexes of events of a kind with these members."""
    return [
        index
        for index, event in enumerate(history)
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in members.items())
    ]


def change(event: Any, **members: object) -> Any:
    return msgspec.structs.replace(event, **members)


def middle(indexes: list[int]) -> int:
    return indexes[len(indexes) // 2]


# Ways to break it: each takes a clean history and leaves it with exactly one thing wrong.


def a_live_delivery_is_missing(history: History) -> None:
    del history[middle(places(history, e.Delivered, client="s1", channel="chat:a", live=True))]


def a_recovered_one_is_missing(history: History) -> None:
    del history[middle(places(history, e.Delivered, live=False))]


def the_last_deliveries_are_missing(history: History) -> None:
    for index in reversed(places(history, e.Delivered, client="s2", channel="live:b")[-3:]):
        del history[index]


def nothing_comes_after_a_recovery(history: History) -> None:
    index = places(history, e.Subscribed, client="s0", channel="chat:a", recovered=True)[-1]
    history[index:] = [
        one
        for one in history[index:]
        if not (isinstance(one, e.Delivered) and (one.client, one.channel) == ("s0", "chat:a"))
    ]


def one_is_delivered_twice_in_a_row(history: History) -> None:
    index = middle(places(history, e.Delivered, client="s1"))
    history.insert(index + 1, history[index])


def one_is_delivered_again_much_later(history: History) -> None:
    found = places(history, e.Delivered, client="s3", channel="chat:a")
    history.insert(found[-1] + 1, history[found[0]])


def one_is_delivered_again_under_another_offset(history: History) -> None:
    found = places(history, e.Delivered, client="s3", channel="live:b")
    history[found[-1]] = change(history[found[-1]], id=history[found[0]].id)  # type: ignore[union-attr]


def two_change_places(history: History) -> None:
    found = [
        (one, two)
        for one, two in zip(
            places(history, e.Delivered, client="s3", channel="chat:a")[:-1],
            places(history, e.Delivered, client="s3", channel="chat:a")[1:],
            strict=True,
        )
    ]
    one, two = found[len(found) // 2]
    history[one], history[two] = history[two], history[one]


def a_client_sees_another_publication_at_a_place(history: History) -> None:
    index = middle(places(history, e.Delivered, client="s1", channel="chat:a"))
    other = history[places(history, e.Acked, channel="chat:a")[0]]
    assert isinstance(other, e.Acked)
    history[index] = change(history[index], id=other.id)


def an_ack_names_another_place(history: History) -> None:
    index = middle(places(history, e.Acked, channel="live:b"))
    event = history[index]
    assert isinstance(event, e.Acked)
    history[index] = change(event, offset=event.offset + 1)


def history_holds_another_publication_at_a_place(history: History) -> None:
    (index,) = places(history, e.Kept, channel="live:b")
    event = history[index]
    assert isinstance(event, e.Kept)
    entries = list(event.entries)
    entries[10], entries[20] = (entries[10][0], entries[20][1]), (entries[20][0], entries[10][1])
    history[index] = change(event, entries=entries)


def what_was_refused_is_delivered(history: History) -> None:
    refused = history[places(history, e.Refused)[0]]
    assert isinstance(refused, e.Refused)
    index = places(history, e.Delivered, client="s3", channel="live:b")[-1]
    history[index] = change(history[index], id=refused.id)


def what_nobody_published_is_delivered(history: History) -> None:
    index = middle(places(history, e.Delivered, client="s0"))
    history[index] = change(history[index], id="never heard of")


def what_belongs_to_another_channel_is_delivered(history: History) -> None:
    index = middle(places(history, e.Delivered, client="s0", channel="chat:a"))
    other = history[middle(places(history, e.Delivered, client="s0", channel="live:b"))]
    assert isinstance(other, e.Delivered)
    history[index] = change(history[index], id=other.id)


def what_was_refused_is_kept(history: History) -> None:
    (index,) = places(history, e.Kept, channel="live:b")
    event, refused = history[index], history[places(history, e.Refused)[0]]
    assert isinstance(event, e.Kept)
    assert isinstance(refused, e.Refused)
    history[index] = change(event, entries=[*event.entries, (len(event.entries) + 1, refused.id)])


def something_comes_while_not_subscribed(history: History) -> None:
    index = places(history, e.Subscribed, client="s3", channel="chat:a")[0]
    history[index], history[index + 1] = history[index + 1], history[index]
    history.insert(index, e.Delivered(at=1.0, client="s3", channel="chat:a", offset=1, id="m0"))


def a_recovery_crosses_an_epoch(history: History) -> None:
    index = middle(places(history, e.Subscribed, client="s1", channel="chat:a", recovered=True))
    history[index] = change(history[index], since=(history[index].offset, "older"))  # type: ignore[union-attr]


def an_epoch_changes_unsaid(history: History) -> None:
    for index in range(middle(places(history, e.Subscribed, client="s1", recovered=True)), len(history)):
        event = history[index]
        if isinstance(event, e.Subscribed | e.Acked | e.Kept) and event.channel == "chat:a":
            history[index] = change(event, epoch="younger")
            if isinstance(event, e.Subscribed) and event.since is not None:
                history[index] = change(history[index], since=(event.since[0], "younger"))


def a_recovery_begins_elsewhere(history: History) -> None:
    index = middle(places(history, e.Subscribed, client="s2", channel="chat:a", recovered=True))
    event = history[index]
    assert isinstance(event, e.Subscribed)
    assert event.since is not None
    history[index] = change(event, since=(event.since[0] - 1, event.since[1]))


def an_acked_one_is_not_in_the_store(history: History) -> None:
    (index,) = places(history, e.Kept, channel="chat:a")
    event = history[index]
    assert isinstance(event, e.Kept)
    history[index] = change(event, entries=[*event.entries[:10], *event.entries[11:]])


def the_store_lost_its_end(history: History) -> None:
    (index,) = places(history, e.Kept, channel="chat:a")
    event = history[index]
    assert isinstance(event, e.Kept)
    history[index] = change(event, entries=event.entries[:-1])


def the_store_was_never_read(history: History) -> None:
    (index,) = places(history, e.Kept, channel="chat:a")
    del history[index]


def the_store_has_one_twice(history: History) -> None:
    (index,) = places(history, e.Kept, channel="chat:a")
    event = history[index]
    assert isinstance(event, e.Kept)
    history[index] = change(event, entries=[*event.entries, (len(event.entries) + 1, event.entries[3][1])])


def the_store_is_not_in_order(history: History) -> None:
    (index,) = places(history, e.Kept, channel="live:b")
    event = history[index]
    assert isinstance(event, e.Kept)
    history[index] = change(event, entries=list(reversed(event.entries)))


def one_is_acked_at_two_places(history: History) -> None:
    index = places(history, e.Acked, channel="chat:a")[-2]
    event = history[index]
    assert isinstance(event, e.Acked)
    history.insert(index + 1, change(event, offset=event.offset + 100))


def acks_of_a_publisher_go_back(history: History) -> None:
    found = places(history, e.Acked, channel="chat:a")
    by_publisher: dict[str, list[int]] = {}
    for index in found:
        event = history[index - 1]
        if isinstance(event, e.Publishing):
            by_publisher.setdefault(event.publisher, []).append(index)
    one, two = by_publisher["p0"][3:5]
    first, second = history[one], history[two]
    assert isinstance(first, e.Acked)
    assert isinstance(second, e.Acked)
    history[one], history[two] = change(first, offset=second.offset), change(second, offset=first.offset)


def a_ghost_is_present(history: History) -> None:
    (index,) = places(history, e.Present)
    history[index] = change(history[index], roster=["c1", "c2", "c9"])


def a_member_is_missing(history: History) -> None:
    (index,) = places(history, e.Present)
    history[index] = change(history[index], roster=["c1"])


def a_gap_is_told(history: History) -> None:
    index = middle(places(history, e.Subscribed, client="s1", channel="chat:a", recovered=True))
    event = history[index]
    assert isinstance(event, e.Subscribed)
    history[index] = change(event, recovered=False)


def nothing_was_published(history: History) -> None:
    history[:] = [one for one in history if isinstance(one, e.Started | e.Finished)]
    history[-1] = change(history[-1], subscribers=[])
    history[0] = change(history[0], stored=[])


def nothing_was_delivered(history: History) -> None:
    history[:] = [one for one in history if not isinstance(one, e.Delivered | e.Subscribed)]
    history[-1] = change(history[-1], subscribers=[])


def only_the_markers_came_through(history: History) -> None:
    markers = {event.id for event in history if isinstance(event, e.Marker)}
    history[:] = [
        event
        for event in history
        if not isinstance(event, e.Publishing | e.Acked | e.Delivered | e.Refused | e.Unknown) or event.id in markers
    ]
    for index, event in enumerate(history):
        if isinstance(event, e.Kept):
            history[index] = change(event, entries=event.entries[-1:])
        elif isinstance(event, e.Subscribed):
            history[index] = change(event, recovered=False, since=None)


def it_breaks_off(history: History) -> None:
    del history[-1]


def there_is_no_marker(history: History) -> None:
    for index in reversed(places(history, e.Marker)):
        del history[index]


BROKEN: list[tuple[Callable[[History], None], str]] = [
    (a_live_delivery_is_missing, j.LOST),
    (a_recovered_one_is_missing, j.LOST),
    (the_last_deliveries_are_missing, j.LOST),
    (nothing_comes_after_a_recovery, j.LOST),
    (one_is_delivered_twice_in_a_row, j.DUPLICATE),
    (one_is_delivered_again_much_later, j.DUPLICATE),
    (one_is_delivered_again_under_another_offset, j.DUPLICATE),
    (two_change_places, j.ORDER),
    (a_client_sees_another_publication_at_a_place, j.DIVERGENCE),
    (an_ack_names_another_place, j.DIVERGENCE),
    (history_holds_another_publication_at_a_place, j.DIVERGENCE),
    (what_was_refused_is_delivered, j.UNEXPECTED),
    (what_nobody_published_is_delivered, j.UNEXPECTED),
    (what_belongs_to_another_channel_is_delivered, j.UNEXPECTED),
    (what_was_refused_is_kept, j.UNEXPECTED),
    (something_comes_while_not_subscribed, j.UNEXPECTED),
    (a_recovery_crosses_an_epoch, j.FALSE_RECOVERY),
    (an_epoch_changes_unsaid, j.FALSE_RECOVERY),
    (a_recovery_begins_elsewhere, j.FALSE_RECOVERY),
    (an_acked_one_is_not_in_the_store, j.NOT_STORED),
    (the_store_lost_its_end, j.NOT_STORED),
    (the_store_was_never_read, j.NOT_STORED),
    (the_store_has_one_twice, j.STORED_TWICE),
    (one_is_acked_at_two_places, j.STORED_TWICE),
    (the_store_is_not_in_order, j.ORDER),
    (acks_of_a_publisher_go_back, j.ORDER),
    (a_ghost_is_present, j.PRESENCE),
    (a_member_is_missing, j.PRESENCE),
    (a_gap_is_told, j.GAP),
    (nothing_was_published, j.NO_TRAFFIC),
    (nothing_was_delivered, j.NO_TRAFFIC),
    (only_the_markers_came_through, j.NO_TRAFFIC),
    (it_breaks_off, j.UNFINISHED),
    (there_is_no_marker, j.UNFINISHED),
]


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_history_passes(seed: int) -> None:
    verdict = judge(clean(seed))
    assert verdict.passed, verdict.findings
    assert verdict.recoveries > 5


@pytest.mark.parametrize(("broken", "kind"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_broken_is_found_and_named(seed: int, broken: Callable[[History], None], kind: str) -> None:
    history = clean(seed)
    broken(history)
    verdict = judge(history)
    assert verdict.counts[kind] > 0, verdict.findings
    assert not verdict.passed


def test_a_told_gap_is_counted_where_it_is_allowed_and_no_loss() -> None:
    history = clean()
    index = middle(places(history, e.Subscribed, client="s1", channel="live:b", recovered=True))
    event = history[index]
    assert isinstance(event, e.Subscribed)
    end = next(one for one in places(history, e.Delivered, client="s1", channel="live:b", live=True) if one > index)
    recovered = [one for one in places(history, e.Delivered, client="s1", channel="live:b") if index < one < end]
    history[index] = change(event, recovered=False, offset=event.offset + len(recovered))
    for one in reversed(recovered):
        del history[one]
    verdict = judge(history, gaps_allowed=["live:b"])
    assert verdict.passed, verdict.findings
    assert verdict.told == 1
    assert judge(history).counts[j.GAP] == 1


def test_after_a_new_epoch_what_is_published_again_is_another_publication() -> None:
    history: History = [
        e.Started(at=0.0, seed=1, what="", stored=[]),
        e.Subscribed(at=0.1, client="s", channel="live:b", offset=0, epoch="1.a"),
        e.Publishing(at=0.2, id="m", channel="live:b", publisher="p"),
        e.Delivered(at=0.3, client="s", channel="live:b", offset=1, id="m"),
        e.Told(at=0.4, client="s", channel="live:b", code=2500),
        e.Subscribed(at=0.5, client="s", channel="live:b", offset=0, epoch="2.b", since=(1, "1.a")),
        e.Delivered(at=0.6, client="s", channel="live:b", offset=1, id="m"),
        e.Acked(at=0.7, id="m", channel="live:b", offset=1, epoch="2.b"),
        e.Marker(at=0.8, id="end", channel="live:b"),
        e.Publishing(at=0.8, id="end", channel="live:b", publisher="marker"),
        e.Acked(at=0.8, id="end", channel="live:b", offset=2, epoch="2.b"),
        e.Delivered(at=0.8, client="s", channel="live:b", offset=2, id="end"),
        e.Finished(at=0.9, subscribers=[("s", "live:b")]),
    ]
    verdict = judge(history, gaps_allowed=["live:b"])
    assert verdict.passed, verdict.findings
