"""User ids in channel names: `#alice`, and `#a%20b` for the user `a b`. Wire protocol, 10.

Any id has one name, and a name belongs to one id. What channel names can't hold, or read as something else, is percent-
encoded byte by byte in UTF-8; ids of other characters are their own names.
"""

from __future__ import annotations

import re

# Characters that stand for themselves: those of channel names, but for what would end the name (`,` and `#`).
_PLAIN = r"!\"$'()+\-.0-9;<=>?@A-Z\[\\\]^_`a-z|~"
# A `%` that would be read as the beginning of an escape is one itself; any other one stands for itself.
_ESCAPED = re.compile(f"(?:[^{_PLAIN}:%]|%(?=[0-9A-Fa-f]{{2}}))")
_ESCAPED_WITH_COLONS = re.compile(f"(?:[^{_PLAIN}%]|%(?=[0-9A-Fa-f]{{2}}))")


def in_channel_name(user: str, *, namespaced: bool) -> str:
    """The id as it stands behind the `#` of a channel's name.

    Args:
        namespaced: The channel has a namespace. Where it has none, a `:` would make one, so it is encoded.
    """
    return (_ESCAPED if namespaced else _ESCAPED_WITH_COLONS).sub(_escape, user)


def personal_channel(user: str, namespace: str) -> str:
    """Name of the channel that is for this user alone; `namespace` may be empty."""
    prefix = f"{namespace}:" if namespace else ""
    return f"{prefix}#{in_channel_name(user, namespaced=bool(namespace))}"


def _escape(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode())
