"""What an edge asks a hook, what a hook answers, and how asking can fail."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from services.edge.domain.access.claims import Override, ServerSub
from services.shared.errors import ErrorCode, ThalamusError


class Event(enum.StrEnum):
    """What a hook is asked about."""

    CONNECT = "connect"
    REFRESH = "refresh"
    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    RPC = "rpc"
    PING = "ping"  # whether the backend answers at all, after it did not; any answer will do


class HookRequest(msgspec.Struct, kw_only=True, frozen=True):
    """One question to a hook. What does not belong to its event is empty.

    `info` and `data` are payloads: JSON texts, but for `data` of rpc and of binary namespaces, which may be any bytes.
    """

    event: Event
    id: str  # unique; a backend that gets one twice can tell that it is a repeat
    edge: str = ""  # name of the edge
    time_ms: int = 0  # Unix time in milliseconds
    client: str = ""
    user: str = ""  # "": anonymous
    info: bytes = b""  # of the connection
    peer: str = ""  # address of the client; connect
    name: str = ""  # that the client gives itself; connect
    headers: dict[str, str] = {}  # of the connect command
    has_token: bool = False  # connect, subscribe: a token was shown, and it is good
    expires_at: float | None = None  # of the connection, Unix seconds; refresh
    channel: str = ""
    method: str = ""  # rpc
    data: bytes = b""  # of the command
    idempotency_key: str = ""  # publish


class Refusal(msgspec.Struct, frozen=True):
    """Refuses a command: the client gets this error."""

    code: int
    message: str
    temporary: bool = False


class HookPublication(msgspec.Struct, kw_only=True, frozen=True):
    """A publication that the answer to an rpc asks for."""

    channel: str
    data: bytes
    tags: dict[str, str] = {}
    idempotency_key: str = ""


class Answer(msgspec.Struct, kw_only=True, frozen=True):
    """What a hook answers. A member that it left out changes nothing."""

    refuse: Refusal | None = None
    data: bytes | None = None  # connect, subscribe, rpc: `data` of the reply; publish: instead of what the client sent
    skip: bool = False  # publish: acknowledge, and publish nothing
    tags: dict[str, str] = {}  # publish
    user: str | None = None  # connect
    info: bytes | None = None  # connect, refresh: of the connection; subscribe: of the client in the channel
    expires_at: float | None = None  # connect, refresh: Unix seconds
    channels: dict[str, ServerSub] = {}  # connect: server-side subscriptions
    override: Override = Override()  # subscribe
    publish: tuple[HookPublication, ...] = ()  # rpc


NOTHING = Answer()  # changes nothing
FAILED_OPEN = Answer()  # stands for the answer of a hook that failed and fails open; it changes nothing either


class Failure(enum.StrEnum):
    """Why a hook gave no answer that can be used."""

    UNREACHABLE = "unreachable"  # no connection, or it broke
    TIMEOUT = "timeout"
    SILENT = "silent"  # it did not answer of late: it is not asked until it answers a ping
    OVERLOAD = "overload"  # too many questions to it wait already
    STATUS = "status"  # HTTP: not 200 or 204; gRPC: not OK
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    BAD_ANSWER = "bad_answer"  # not what an answer to this event may be
    ERROR = "error"  # an extension raised an exception


# A repeat may go better. The others are faults of the backend, which a repeat does not mend.
_PASSING = frozenset({Failure.UNREACHABLE, Failure.TIMEOUT, Failure.SILENT, Failure.OVERLOAD})
_CODES = {code.value: code for code in ErrorCode if code < 400}  # from 400 on hooks have codes of their own


class HookFailed(Exception):
    """A hook gave no answer that can be used. The text is for the log."""

    def __init__(self, failure: Failure, detail: str = "") -> None:
        self.failure = failure
        super().__init__(detail or failure.value)

    def error(self) -> ThalamusError:
        """Return the error that the client gets where the hook is `fail = "closed"`."""
        if self.failure is Failure.OVERLOAD:
            return CommandRefused(Refusal(ErrorCode.TOO_MANY_REQUESTS, "hook: overload", True), retry_after_s=1.0)
        code = ErrorCode.HOOK_UNAVAILABLE if self.failure in _PASSING else ErrorCode.HOOK_FAILED
        return CommandRefused(Refusal(code, f"hook: {self.failure.value}", code.temporary))


class CommandRefused(ThalamusError):
    """The command is answered with an error that a hook chose, or the failure of one."""

    def __init__(self, refusal: Refusal, *, retry_after_s: float = 0.0) -> None:
        self.refusal = refusal
        code = _CODES.get(refusal.code, ErrorCode.PERMISSION_DENIED)  # codes of a backend's own are counted as that
        super().__init__(refusal.message, code, retry_after_s=retry_after_s)


class Backend(Protocol):
    """Carries questions to what decides, and its answers back."""

    async def ask(self, request: HookRequest) -> Answer:
        """Return the answer. The caller sees to the deadline.

        Raises:
            HookFailed: there is none that can be used.
        """

    async def probe(self) -> bool:
        """Return whether the backend answers a ping, whatever it says. Ends by itself."""

    async def close(self) -> None:
        """Close the connections."""
