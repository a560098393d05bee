"""The life of a Redis: which run of the server it is, and which generation its `hot` logs are of.

Persistence compares a counter in Redis with the same counter in the store every second (`beat.lua`) and says here what
it found. Nobody uses a connection to a server whose run it has not spoken of: see `services/shared/redis_life.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from services.shared.hotlog import keys
from services.shared.hotlog.scripts import BEAT, RENEW, Call, refuse

PAUSE_MS = 500  # after a restart that lost nothing the store knows of: edges that saw more say so within it


class Life(NamedTuple):
    """What `t:life` says. `open_at_ms` by the clock of Redis."""

    run_id: str
    generation: int
    open_at_ms: int

    @property
    def token(self) -> str:
        """Names this life; `stored` channels are compared with the store once in each."""
        return f"{self.run_id}.{self.generation}"


def parse(found: bytes | None) -> Life | None:
    """The value of the key; None where there is none, or another thing."""
    words = (found or b"").decode("ascii", "replace").split(" ")
    if len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Life(words[0], int(words[1]), int(words[2]))


class Beat(NamedTuple):
    """`began`: a life of Redis began with this beat. `life`: what is said of it now; None where that can't be read."""

    counter: int
    generation: int
    began: bool
    life: Life | None


class Foreign(NamedTuple):
    """Redis names another store, and nothing was done; `counter` goes on while that one is in use."""

    store: str
    counter: int


def beat_call(
    run_id: str,
    kept_count: int,
    kept_generation: int,
    store: str = "",
    pause_ms: int = PAUSE_MS,
    *,
    replaces: str = "",
) -> Call:
    """Compare with what the store keeps, and say so; `store` names it, "" leaves open which it is.

    `replaces`: name of another store, whose place it takes.
    """
    names = [keys.beacon(), keys.life(), keys.store()]
    return Call(BEAT, names, [run_id, kept_count, kept_generation, pause_ms, store, replaces])


def beat(result: Any) -> Beat | Foreign:
    """What that call answered."""
    found = refuse(result)
    if len(found) == 2:
        return Foreign(found[0].decode(), int(found[1]))
    count, generation, began, said = found
    return Beat(int(count), int(generation), bool(began), parse(said))


def renew_call(run_id: str, generation: int, *, only_other_run: bool) -> Call:
    """Begin a generation above this one, unless somebody did."""
    return Call(RENEW, [keys.life()], [run_id, generation, int(only_other_run)])
