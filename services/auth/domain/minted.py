"""Ids that auth makes at random, such as those of users and of signing keys."""

from __future__ import annotations

import secrets


def new_id(random_bytes: int) -> str:
    """Return a random id of base64url characters that begins with no hyphen.

    People type ids as arguments of commands, which take what begins with a hyphen for an option.
    """
    while (made := secrets.token_urlsafe(random_bytes)).startswith("-"):
        pass
    return made
