"""Claims of verified tokens: what a connection or a subscription token says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from services.edge.domain.access.grants import NO_GRANTS, Grants


@dataclass(frozen=True, slots=True)
class Override:
    """Options of a namespace that a token overrides for one subscription.

    None: the option of the namespace holds.
    """

    presence: bool | None = None
    join_leave: bool | None = None
    force_push_join_leave: bool | None = None
    force_recovery: bool | None = None
    force_positioning: bool | None = None

    def under(self, other: Override) -> Override:
        """Return these options; where `other` has one, that of `other`."""
        if other == Override():
            return self
        chosen = {name: value for name, value in asdict(other).items() if value is not None}
        return replace(self, **chosen)


@dataclass(frozen=True, slots=True)
class ServerSub:
    """A server-side subscription that a connection token asks for.

    `info` and `data` are JSON texts; empty means that there is none.
    """

    info: bytes = b""
    data: bytes = b""
    override: Override = field(default_factory=Override)


class _Expiring:
    """Base of the claims of both kinds of tokens."""

    __slots__ = ()
    expires_at: float | None

    def has_expired(self, now: float) -> bool:
        """Return whether its time is over at `now`, in Unix seconds."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class ConnectionClaims(_Expiring):
    """Claims of a connection token.

    `expires_at` is when the connection expires, in Unix seconds; None: never. `session` is the claim `sid`, the id of
    the sign-in, and `token` the claim `jti`; empty if there is none. `issued_at` and `token_expires_at`, the claims
    `iat` and `exp`, are in Unix seconds. `caps` are the grants that the token brings. `is_late`: the token has expired,
    so it is good for nothing but to resume.
    """

    user: str
    info: bytes = b""
    expires_at: float | None = None
    channels: dict[str, ServerSub] = field(default_factory=dict)
    meta: bytes = b""
    session: str = ""
    token: str = ""
    issued_at: float | None = None
    caps: Grants = NO_GRANTS
    token_expires_at: float | None = None
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class SubscriptionClaims(_Expiring):
    """Claims of a subscription token.

    `client` is empty unless the token is for one connection only. `expires_at` is when the subscription expires, in
    Unix seconds; None: never.
    """

    user: str
    channel: str
    client: str = ""
    info: bytes = b""
    data: bytes = b""
    expires_at: float | None = None
    override: Override = field(default_factory=Override)
