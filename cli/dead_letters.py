"""What `thalamus webhooks` and `thalamus push` do with letters that were given up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from cli.errors import Refused, WrongUsage
from cli.output import remark, say, say_json
from cli.redis_work import with_redis
from services.persistence.webhooks.letters import Letter, Letters
from services.shared.redis.pipeline import RedisPipeline


async def dead_of(redis: RedisPipeline, names: Iterable[str], family: str) -> list[tuple[str, Letter, int]]:
    """Return (name, dead letter, Unix ms of its last try), by name."""
    return [(name, *found) for name in names for found in await Letters(redis, name, family).dead_ones()]


def change_dead(
    kind: str,
    name: str,
    family: str,
    ids: tuple[str, ...],
    every: bool,
    data: Path,
    as_json: bool,
    done: str,
    change: Callable[[Letters, Letter], Awaitable[bool]],
) -> None:
    """Change the dead letters with these ids, or all, and tell each.

    `kind` says in JSON what `name` is, `family` where its letters are.

    Raises:
        WrongUsage: neither ids nor --all are given, or both.
        Refused: some ids are of no dead letter; the others are done.
    """
    if bool(ids) == every:
        raise WrongUsage("give ids of dead letters, or --all")

    async def run(redis: RedisPipeline) -> list[str]:
        letters = Letters(redis, name, family)
        chosen = [letter for letter, _ in await letters.dead_ones() if every or letter.id in ids]
        return [letter.id for letter in chosen if await change(letters, letter)]

    changed = with_redis(data, run)
    for one in changed:
        say_json({kind: name, "id": one, "done": done}) if as_json else say(f"{done}: {one}")
    if missing := [one for one in ids if one not in changed]:
        raise Refused(f"no dead letter of {name}: {', '.join(missing)}")
    if every:
        remark(f"{len(changed)} {done}")


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
