"""Which new passwords are allowed.

A password that exists already is not judged: whoever has one may sign in with it. The rules are those of NIST SP
800-63B: a least length, and none of the passwords that are tried first. There are no rules about kinds of characters,
which make passwords weaker.

The list has 11,611 common passwords of 8 or more characters (`services/auth/data`). Passwords are compared without case
and in one Unicode form, so `PassWord1` is as common as `password1`.
"""

from __future__ import annotations

import functools
import gzip
import unicodedata
from pathlib import Path

from services.auth.domain.refusals import Invalid

MAX_PASSWORD_BYTES = 1_024
LEAST_LENGTH = 8  # characters; shorter ones are not in the list
_LIST = Path(__file__).parents[1] / "data" / "common-passwords.txt.gz"


def check_password_bytes(password: str) -> None:
    """Check the length of a password that somebody shows.

    Raises:
        Invalid: it is too long to be hashed.
    """
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        raise Invalid(f"password: at most {MAX_PASSWORD_BYTES} bytes")


def check_new_password(password: str, username: str, min_length: int) -> None:
    """Check a password that somebody wants; `min_length` is in characters.

    Raises:
        Invalid: it is too short or too long, the user's own name, or one of the most common.
    """
    check_password_bytes(password)
    if len(password) < min_length:
        raise Invalid(f"password: at least {min_length} characters")
    plain = _folded(password)
    if plain == _folded(username):
        raise Invalid("password: it must not be the username")
    if plain in common_passwords():
        raise Invalid("password: it is one of the most common ones, which are tried first")


@functools.cache
def common_passwords() -> frozenset[str]:
    """Return the common passwords, in the form in which they are compared."""
    return frozenset(map(_folded, gzip.decompress(_LIST.read_bytes()).decode().split()))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
