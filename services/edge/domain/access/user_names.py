"""User ids as parts of channel names: `#alice`, and `#a%20b` for the user `a b`.

Each id has exactly one encoded form, and each encoded form belongs to exactly one id. Characters that channel names do
not allow, or that have a meaning in them, are percent-encoded (each byte of their UTF-8). All others stand for
themselves. Wire protocol, 10.
"""

from __future__ import annotations

import re

# Characters that are not encoded: all that channel names allow, except `,` and `#`, which would end the user id.
_PLAIN = r"!\"$'()+\-.0-9;<=>?@A-Z\[\\\]^_`a-z|~"
# A `%` is encoded only if two hex digits follow, because it would be read as an escape.
_ESCAPED = re.compile(f"(?:[^{_PLAIN}:%]|%(?=[0-9A-Fa-f]{{2}}))")
_ESCAPED_WITH_COLONS = re.compile(f"(?:[^{_PLAIN}%]|%(?=[0-9A-Fa-f]{{2}}))")


def in_channel_name(user: str, *, namespaced: bool) -> str:
    """Return the user id encoded for its place behind the `#` of a channel name.

    Args:
        namespaced: Whether the channel has a namespace. If not, a `:` in the id would look like the end of a
        namespace's
            name, so it is encoded.
    """
    return (_ESCAPED if namespaced else _ESCAPED_WITH_COLONS).sub(_escape, user)


def personal_channel(user: str, namespace: str) -> str:
    """Return the name of the user's personal channel; `namespace` may be empty."""
    prefix = f"{namespace}:" if namespace else ""
    return f"{prefix}#{in_channel_name(user, namespaced=bool(namespace))}"


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())
