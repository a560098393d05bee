"""Generation of Redis in the token of an incarnation."""

from __future__ import annotations


def generation_of(incarnation: str) -> int:
    """Return the generation that a token names; 0 if it names none.

    A token is `<run id>.<generation>`.
    """
    generation = incarnation.rpartition(".")[2]
    return int(generation) if generation.isdigit() else 0
