"""The claim `caps` of connection tokens: grants that last as long as the token.

The shape and the short names are those of Centrifugo's capabilities:

    "caps": [
        {"channels": ["private:board"], "allow": ["sub", "pub", "hst"]},
        {"channels": ["private:team-7-*"], "match": "wildcard", "allow": ["sub"]}
    ]

Without `match` a name stands for itself; regular expressions are not offered, because some take for ever. An operation
or a way to match that this version does not know grants nothing, and the log says so: the token may be meant for a
newer edge.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from services.edge.domain.access.grants import NO_GRANTS, Grant, Grants, Operation
from services.shared.checks import MAX_PATTERN_BYTES
from services.shared.process.log_limit import RateLimitedLog

_MOST = 1_000  # grants of a token: channels of each entry, times their operations
_MOST_PATTERNS = 100  # grants for patterns among them: each may be tried for a command
_SHORT = {
    "sub": Operation.SUBSCRIBE,
    "pub": Operation.PUBLISH,
    "hst": Operation.HISTORY,
    "prs": Operation.PRESENCE,
    "ent": Operation.ENTER,
    "mng": Operation.MANAGE,
}
_OPERATIONS = {**_SHORT, **{operation.value: operation for operation in Operation}}
_IS_PATTERN = {"": False, "exact": False, "wildcard": True}
_ignored = RateLimitedLog(logging.getLogger(__name__), logging.WARNING)


class Cap(msgspec.Struct):
    """One entry of the claim."""

    channels: list[str] = []
    allow: list[str] = []
    match: str = ""


def read_caps(caps: Sequence[Cap]) -> Grants:
    """Return the grants of a token.

    Raises:
        ValueError: there are too many, or a channel's name is too long.
    """
    if not caps:
        return NO_GRANTS
    grants: set[Grant] = set()
    for cap in caps:
        is_pattern = _IS_PATTERN.get(cap.match)
        operations = {_OPERATIONS[name] for name in cap.allow if name in _OPERATIONS}
        if is_pattern is None or not _OPERATIONS.keys() >= set(cap.allow):
            _ignored("`caps` of a token has a `match` or an operation that is not known; it grants nothing")
        if is_pattern is None:
            continue
        for channel in cap.channels:
            if len(channel.encode("utf-8", "surrogatepass")) > MAX_PATTERN_BYTES:
                raise ValueError("a channel is too long")
            grants.update(Grant(channel, operation, is_pattern=is_pattern) for operation in operations)
        if len(grants) > _MOST or sum(grant.is_pattern for grant in grants) > _MOST_PATTERNS:
            raise ValueError(f"more than {_MOST:,} grants, or more than {_MOST_PATTERNS} with patterns")
    return Grants(grants)
