"""What a profile may say, and how a change of it is applied."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

from services.auth.domain.refusals import Invalid
from services.auth.domain.user_ports import Profile
from services.shared.json_text import InvalidJson, checked_json
from services.shared.text_rules import AVATAR_URL, AVATAR_URL_BYTES

MAX_NAME = 64  # characters of a display name
MAX_STATUS = 140  # characters
MAX_CUSTOM_BYTES = 2_048
# Control and format characters and line ends: nobody sees them, or they turn the direction of what follows. The
# joiners stay: emoji and some scripts need them.
_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs"})
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileChange:
    """New values of a profile; None: as before. `custom` is a JSON text, empty: none."""

    display_name: str | None = None
    avatar_url: str | None = None
    status: str | None = None
    custom: bytes | None = None
    hidden: bool | None = None


def changed(profile: Profile, change: ProfileChange) -> Profile:
    """Return the profile with a change, and the next version.

    If nothing differs, it is the same object.

    Raises:
        Invalid: a value is not allowed; the text names it.
    """
    new = replace(
        profile,
        display_name=profile.display_name
        if change.display_name is None
        else _line(change.display_name, MAX_NAME, "display_name"),
        avatar_url=profile.avatar_url if change.avatar_url is None else _https(change.avatar_url),
        status=profile.status if change.status is None else _line(change.status, MAX_STATUS, "status"),
        custom=profile.custom if change.custom is None else _custom(change.custom),
        hidden=profile.hidden if change.hidden is None else change.hidden,
    )
    return profile if new == profile else replace(new, version=profile.version + 1)


def _line(text: str, most: int, name: str) -> str:
    """Return one line of text without blanks around it."""
    text = text.strip()
    if len(text) > most:
        raise Invalid(f"{name}: at most {most} characters")
    if any(unicodedata.category(character) in _UNSEEN and character not in _JOINERS for character in text):
        raise Invalid(f"{name}: no control characters, no line ends, none that are invisible or change the direction")
    return text


def _https(url: str) -> str:
    """Return an address that a page may show as an image, or an empty text."""
    if len(url) > AVATAR_URL_BYTES or not AVATAR_URL.allows(url):
        raise Invalid(f"avatar_url: {AVATAR_URL.words}")
    return url


def _custom(text: bytes) -> bytes:
    """Return a JSON text that all clients can read; `null` is none."""
    if not text:
        return b""
    if len(text) > MAX_CUSTOM_BYTES:
        raise Invalid(f"custom: at most {MAX_CUSTOM_BYTES:,} bytes")
    try:
        text = checked_json(text)
    except InvalidJson as error:
        raise Invalid(f"custom: {error}") from error
    return b"" if text == b"null" else text.replace(b"\n", b" ")
