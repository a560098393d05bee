"""`Recent` counts as a list of all messages does."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass

import pytest

from services.persistence.chat.recent import Found, Recent
from services.persistence.chat.said import NOBODY, Mentions

USERS = ["ann", "ben", "cid", ""]


@dataclass
class Message:
    """A message of the model."""

    offset: int
    author: str
    counts: bool
    mentions: Mentions

    def mentions_user(self, user: str) -> bool:
        return self.author != user and (self.mentions.everybody or user in self.mentions.users)


class Model:
    """All messages of a conversation, also those below `low`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.top = rng, 0
        self.live: dict[int, Message] = {}

    def mentions(self) -> Mentions:
        users = frozenset(self.rng.sample(USERS, self.rng.choice([0, 0, 0, 1, 2])))
        everybody = self.rng.random() < 0.1
        return Mentions(users, everybody) if users or everybody else NOBODY

    def message(self) -> Message:
        self.top += self.rng.choice([1, 1, 2])  # other events stand in between
        made = Message(self.top, self.rng.choice(USERS), self.rng.random() < 0.8, self.mentions())
        self.live[made.offset] = made
        return made


@pytest.mark.parametrize("seed", range(20))
def test_it_counts_as_a_list_does(seed: int) -> None:
    rng = random.Random(seed)
    model = Model(rng)
    for _ in range(40):
        model.message()
    recent = Recent(model.top)
    for _ in range(400):
        step(rng, model, recent)
        for user in USERS:
            above = rng.randint(recent.low, model.top)
            live = [one for one in model.live.values() if one.offset > above]
            assert recent.unread(user, above) == sum(one.counts and one.author != user for one in live)
            assert recent.mentions(user, above) == sum(one.mentions_user(user) for one in live)
    recent.forget(model.top)
    assert len(recent) == 0
    kept = [getattr(recent, name) for name in Recent.__slots__]
    assert not any(one for one in kept if isinstance(one, dict | list | array)), "of what was forgotten"


def step(rng: random.Random, model: Model, recent: Recent) -> None:
    """One event, or a look further back, or none further back than that."""
    offset = rng.randint(1, model.top)
    match rng.choice(["add"] * 6 + ["edit"] * 3 + ["delete"] * 3 + ["purge", "prepend", "prepend", "forget"]):
        case "add":
            made = model.message()
            recent.add(made.offset, made.author, counts=made.counts, mentions=made.mentions)
        case "edit" if offset in model.live:
            found = model.live[offset]
            found.mentions = model.mentions()
            recent.edit(offset, found.author, found.mentions)
        case "delete":
            model.live.pop(offset, None)
            recent.delete(offset)
        case "purge":
            user = rng.choice(USERS)
            for one in [one for one in model.live.values() if one.author == user and one.offset <= offset]:
                del model.live[one.offset]
            recent.purge(user, offset)
        case "prepend" if recent.low:
            low = rng.randint(max(0, recent.low - 10), recent.low - 1)
            between = [one for one in model.live.values() if low < one.offset <= recent.low]
            rng.shuffle(between)
            recent.prepend(low, [Found(one.offset, one.author, one.counts, one.mentions) for one in between])
        case "forget" if rng.random() < 0.3:
            recent.forget(rng.randint(0, model.top))
