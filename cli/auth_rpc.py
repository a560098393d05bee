"""gRPC client of auth for the command line: users' tokens, API and signing keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cli.errors import Refused
from cli.service_rpc import ServiceRpc
from services.shared.process.secrets import TlsFiles
from thalamus.auth.v1 import auth_pb2 as pb
from thalamus.auth.v1.auth_pb2_grpc import AuthServiceStub


class AuthRpc(ServiceRpc):
    """A connection to auth; see `ServiceRpc`."""

    def __init__(self, address: str, service_token_file: Path | None, tls: TlsFiles | None = None) -> None:
        """Read the service token, or take the certificates of auth, which may call itself."""
        super().__init__("auth", address, service_token_file, tls)
        self._stub = AuthServiceStub(self.channel)

    def mint(self, user: str, *, channel: str = "", ttl_s: int, info: bytes = b"", caps: bytes = b"") -> str:
        """Return a connection token, or with `channel` a subscription token.

        `ttl_s` 0: it never expires. `caps`: its grants, as JSON.
        """
        request = pb.MintTokenRequest(user=user, channel=channel, ttl_s=ttl_s, info=info, caps=caps)
        return self.call(self._stub.MintToken, request).token

    def create_key(self, name: str, scopes: Sequence[str] = (), expires_at: int = 0) -> pb.CreateApiKeyResponse:
        """Create an API key; its text can't be shown again later.

        `scopes`: what it may do; empty: everything. `expires_at`: Unix seconds; 0: never.
        """
        request = pb.CreateApiKeyRequest(name=name, scopes=scopes, expires_at=expires_at)
        made = self.call(self._stub.CreateApiKey, request)
        if set(made.scopes) != set(scopes) or made.expires_at != expires_at:
            self.revoke_key(made.id)
            raise Refused("auth is of a version without scopes and expiry of API keys; no key was made")
        return made

    def list_keys(self) -> list[pb.ApiKey]:
        """Return the valid API keys."""
        return list(self.call(self._stub.ListApiKeys, pb.ListApiKeysRequest()).keys)

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key."""
        self.call(self._stub.RevokeApiKey, pb.RevokeApiKeyRequest(id=key_id))

    def rotate_signing_key(self) -> pb.SigningKey:
        """Make a signing key and return it."""
        return self.call(self._stub.RotateSigningKey, pb.RotateSigningKeyRequest())

    def list_signing_keys(self) -> list[pb.SigningKey]:
        """Return all signing keys, oldest first."""
        return list(self.call(self._stub.ListSigningKeys, pb.ListSigningKeysRequest()).keys)

    def retire_signing_key(self, kid: str, *, force: bool) -> None:
        """Remove a signing key; `force`: also the one that signs at present."""
        self.call(self._stub.RetireSigningKey, pb.RetireSigningKeyRequest(kid=kid, force=force))
