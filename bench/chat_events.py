"""CPU per event of a conversation: reading it, deciding about it, and folding it.

    python -m bench.chat_events [--rounds 15]

One process, no network. Each line is the lowest and the median of the rounds, in µs of CPU time per event. The state is
a group of 100 members, the messages have 73 characters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from services.persistence.chat.domain import events
from services.persistence.chat.domain.fold import Entry, fold
from services.persistence.chat.domain.rules import decide
from services.persistence.chat.domain.state import Conversation

EVENTS = 5_000  # in a round
_TEXT = "The lift in the north building is out of order until Thursday, use stairs"


def group() -> Conversation:
    """A group of 100 members, of whom u1 has written message 101."""
    log = [("u0", {"kind": "conversation", "op": "create"})]
    log += [("u0", {"kind": "member", "op": "add", "user": f"u{number}"}) for number in range(1, 100)]
    log += [("u1", {"kind": "message", "text": _TEXT})]
    return fold(Entry(at, author, at, json.dumps(event).encode()) for at, (author, event) in enumerate(log, start=1))


def measure(work: Callable[[], None], rounds: int) -> tuple[float, float]:
    """Return the lowest and the median time of the work, µs per event."""
    times = []
    for _ in range(rounds):
        start = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - start) / EVENTS / 1_000)
    return min(times), statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.chat_events", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    plain = json.dumps({"kind": "message", "text": _TEXT, "cid": "a1b2"}).encode()
    accents = json.dumps(
        {"kind": "message", "text": _TEXT + " 👍", "mentions": ["u2", "u3"]}, ensure_ascii=False
    ).encode()
    edit = json.dumps({"kind": "edit", "of": 101, "text": _TEXT}).encode()
    state, message = group(), events.parse(plain)

    def each(act: Callable[[], object]) -> Callable[[], None]:
        def work() -> None:
            for _ in range(EVENTS):
                act()

        return work

    def fold_messages() -> None:
        fold((Entry(at, "u1", at, plain) for at in range(102, 102 + EVENTS)), group())

    print(f"{'':52}lowest  median   µs per event")
    for name, work in (
        ("parse a message, as on the way in", each(lambda: events.parse(plain))),
        ("… with other letters and mentions", each(lambda: events.parse(accents))),
        ("read a message of the log", each(lambda: events.read(plain))),
        ("decide about a message", each(lambda: decide(state, message, "u1", 9_000))),
        ("parse a message and decide", each(lambda: decide(state, events.parse(plain), "u1", 9_000))),
        ("parse an edit and decide", each(lambda: decide(state, events.parse(edit), "u1", 9_000))),
        ("fold a message", fold_messages),
    ):
        lowest, median = measure(work, rounds)
        print(f"{name:52}{lowest:6.2f}  {median:6.2f}")


if __name__ == "__main__":
    main()
