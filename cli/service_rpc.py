"""gRPC clients of services for the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from cli.errors import Refused, Unreachable
from services.shared.process.config import read_secret_file
from services.shared.process.secrets import TlsFiles
from services.shared.rpc.tls import ServiceIdentity, channel_credentials

_DEADLINE_S = 5.0
_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
Result = TypeVar("Result")


class ServiceRpc:
    """A connection to a service, used as a context manager.

    All calls block, and raise Unreachable if the service does not answer, and Refused if it refuses.
    """

    def __init__(self, service: str, address: str, service_token_file: Path | None, tls: TlsFiles | None) -> None:
        """Read the token, or take the service's own certificates: it may call itself."""
        self._service, self._address = service, address
        self._tls = tls
        self._token_file = service_token_file
        self._metadata: list[tuple[str, str]] = []
        if service_token_file is not None and tls is None:
            token = read_secret_file(service_token_file, "SERVICE_TOKEN_FILE").decode("latin-1")
            self._metadata.append(("authorization", f"Bearer {token}"))
        options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", service)]
        self.channel = (
            grpc.insecure_channel(address, options=options[:1])
            if tls is None
            else grpc.secure_channel(address, channel_credentials(ServiceIdentity(tls).current()), options=options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def call(self, method: Callable[..., Result], request: Any, deadline_s: float = _DEADLINE_S) -> Result:
        """Call a method of a stub of `channel`."""
        where = f"{self._service} at {self._address}"
        try:
            return method(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _UNANSWERED:
                raise Unreachable(f"{where} does not answer; is `thalamus dev` running?") from error
            if code is grpc.StatusCode.UNAUTHENTICATED:
                if self._tls is not None:
                    raise Refused(f"{where} takes no calls with {self._tls.chain}") from error
                which = self._token_file or "none was given; see --service-token-file"
                raise Refused(f"{where} does not accept the service token ({which})") from error
            raise Refused(f"{self._service} says: {details or code.name.lower().replace('_', ' ')}") from error
