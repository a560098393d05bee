"""gRPC client of auth for the command line: users' tokens, API and signing keys."""

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
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub

_DEADLINE_S = 5.0
_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
Result = TypeVar("Result")


class AuthRpc:
    """A connection to auth, used as a context manager. Every call blocks 5 s at most.

    All calls raise Unreachable if auth does not answer, and Refused if it refuses.
    """

    def __init__(self, address: str, service_token_file: Path | None, tls: TlsFiles | None = None) -> None:
        """Read the service token, or take the certificates of auth, which may call itself."""
        self._address = address
        self._tls = tls
        self._token_file = service_token_file
        self._metadata: list[tuple[str, str]] = []
        if service_token_file is not None and tls is None:
            token = read_secret_file(service_token_file, "SERVICE_TOKEN_FILE").decode("latin-1")
            self._metadata.append(("authorization", f"Bearer {token}"))
        options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", "auth")]
        self._channel = (
            grpc.insecure_channel(address, options=options[:1])
            if tls is None
            else grpc.secure_channel(address, channel_credentials(ServiceIdentity(tls).current()), options=options)
        )
        self._stub = AuthServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def mint(self, user: str, *, channel: str = "", ttl_s: int, info: bytes = b"") -> str:
        """Return a connection token, or with `channel` a subscription token.

        `ttl_s` 0: it never expires.
        """
        request = pb.MintTokenRequest(user=user, channel=channel, ttl_s=ttl_s, info=info)
        return self._call(self._stub.MintToken, request).token

    def create_key(self, name: str) -> pb.CreateApiKeyResponse:
        """Create an API key; its text can't be shown again later."""
        return self._call(self._stub.CreateApiKey, pb.CreateApiKeyRequest(name=name))

    def list_keys(self) -> list[pb.ApiKey]:
        """Return the valid API keys."""
        return list(self._call(self._stub.ListApiKeys, pb.ListApiKeysRequest()).keys)

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key."""
        self._call(self._stub.RevokeApiKey, pb.RevokeApiKeyRequest(id=key_id))

    def rotate_signing_key(self) -> pb.SigningKey:
        """Make a signing key and return it."""
        return self._call(self._stub.RotateSigningKey, pb.RotateSigningKeyRequest())

    def list_signing_keys(self) -> list[pb.SigningKey]:
        """Return all signing keys, oldest first."""
        return list(self._call(self._stub.ListSigningKeys, pb.ListSigningKeysRequest()).keys)

    def retire_signing_key(self, kid: str, *, force: bool) -> None:
        """Remove a signing key; `force`: also the one that signs at present."""
        self._call(self._stub.RetireSigningKey, pb.RetireSigningKeyRequest(kid=kid, force=force))

    def _call(self, method: Callable[..., Result], request: Any) -> Result:
        try:
            return method(request, timeout=_DEADLINE_S, metadata=self._metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code in _UNANSWERED:
                raise Unreachable(f"auth at {self._address} does not answer; is `thalamus dev` running?") from error
            if code is grpc.StatusCode.UNAUTHENTICATED:
                if self._tls is not None:
                    raise Refused(f"auth at {self._address} takes no calls with {self._tls.chain}") from error
                which = self._token_file or "none was given; see --service-token-file"
                raise Refused(f"auth at {self._address} does not accept the service token ({which})") from error
            raise Refused(f"auth says: {details or code.name.lower().replace('_', ' ')}") from error
