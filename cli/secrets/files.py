"""A directory of secret files, one per secret, without a trailing newline."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cli.errors import WrongUsage
from cli.secrets.certificate import make_certificate
from services.shared.hotlog.keys import DEFAULT_PREFIX, checked_prefix

REDIS_USERS = ("edge", "auth", "presence", "persistence", "webhooks", "notifier", "feed")  # feed: `thalamus events`
AWS_USERS = ("auth", "persistence")  # each has rights to its own table only
PLAIN = ("service_token", "token_secret", "webhook_secret")
_ALSO = "_also"  # suffix of a second value that is accepted too: the next one or the last one
_ACL = "redis_acl"
_SALT = ".salt"
_MADE = ".made-by-make-secrets.env"  # the stack files read it, so that a deployment without secrets fails at once
# The local DynamoDB needs some credentials, and keeps data of different key ids apart. On AWS there are real ones, or
# an empty profile and a role.
_AWS = "[default]\naws_access_key_id = local\naws_secret_access_key = {user}\n"


class SecretFiles:
    """The directory, and the template of Redis' ACL file."""

    def __init__(self, folder: Path, acl_template: Path, redis_prefix: str = DEFAULT_PREFIX) -> None:
        """Take the paths; reads and writes nothing yet.

        `redis_prefix` is the `REDIS_PREFIX` of the services.

        Raises:
            ConfigError: the prefix is not allowed.
        """
        self._folder, self._acl_template, self._redis_prefix = folder, acl_template, checked_prefix(redis_prefix)

    def init(self, hosts: list[str]) -> list[str]:
        """Make the missing files and leave the others; return the names of those made.

        Raises:
            WrongUsage: the directory can't be written, or the template can't be read.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = [name for name, make in self._all(hosts).items() if self._make(name, make)]
            if self._write_acl() and _ACL not in made:
                made.append(_ACL)
        except OSError as error:
            raise WrongUsage(f"{error.filename or self._folder}: {error.strerror}") from error
        return made

    def rotate(self, name: str, hosts: list[str]) -> tuple[list[str], bool]:
        """Take one of the two steps of a rotation.

        The first step adds a new value that servers accept beside the present one. Once that is rolled out, the second
        step makes clients use the new value; the old one is accepted until the next rotation. So both sides agree in
        whatever order they are rolled out.

        Returns the names of the changed files, and whether this was the first step.

        Raises:
            WrongUsage: there is no such secret, it was never made, or its last step was not rolled out.
        """
        if name not in rotatable():
            raise WrongUsage(f"{name!r} can't be rotated here; these can: {', '.join(rotatable())}")
        if not (self._folder / name).exists():
            raise WrongUsage(f"{self._folder / name} is not there: make the secrets first")
        try:
            if name == "tls":
                self._write(name, make_certificate(hosts))
                return [name], False
            changed = self._folder / f".{name}.changed"  # `make up` removes it
            if changed.exists():
                raise WrongUsage(f"the last step of {name} was not rolled out yet: make up")
            step = self._step(name)
            changed.touch(mode=0o600)
            return step
        except OSError as error:
            raise WrongUsage(f"{error.filename or self._folder}: {error.strerror}") from error

    def _step(self, name: str) -> tuple[list[str], bool]:
        also, begun = name + _ALSO, self._folder / f".{name}.begun"
        if begun.exists():
            present, new = self._read(name), self._read(also)
            self._write(name, new)
            self._write(also, present)
            begun.unlink()
            return ([name, also] if name in PLAIN else [name]), False
        self._write(also, _maker(name)())
        begun.touch(mode=0o600)
        if name in PLAIN:
            return [also], True
        self._write_acl()
        return [_ACL], True

    def _all(self, hosts: list[str]) -> dict[str, Callable[[], bytes]]:
        """Return how each file is made. A second value is at first the same as the first."""
        plain: dict[str, Callable[[], bytes]] = {name: _maker(name) for name in PLAIN}
        also: dict[str, Callable[[], bytes]] = {
            name + _ALSO: lambda name=name: self._read(name)  # type: ignore[misc]
            for name in PLAIN
        }
        users: dict[str, Callable[[], bytes]] = {f"redis_{user}": _random for user in REDIS_USERS}
        others: dict[str, Callable[[], bytes]] = {
            _SALT: _random,
            _MADE: lambda: b"# There are secrets beside this file: a deployment may begin.\n",
            "grafana_admin": _random,
            **{f"aws_credentials_{user}": _AWS.format(user=user).encode for user in AWS_USERS},
            "tls": lambda: make_certificate(hosts),
            "vapid_key": _key,
            # Those of Google and Apple come from there: these only let a stack start without.
            "fcm_account": lambda: b"{}",
            "apns_key": lambda: b"none",
        }
        return {**plain, **also, **users, **others}

    def _make(self, name: str, make: Callable[[], bytes]) -> bool:
        if (self._folder / name).exists():
            return False
        self._write(name, make())
        return True

    def _write_acl(self) -> bool:
        """Write the ACL file with the digests of all accepted passwords.

        Returns whether it changed.
        """
        text = self._acl_template.read_text().replace("${PREFIX}", self._redis_prefix)
        for user in REDIS_USERS:
            name = f"redis_{user}"
            known = [one for one in (name, name + _ALSO) if (self._folder / one).exists()]
            digests = sorted(hashlib.sha256(self._read(one)).hexdigest() for one in known)
            text = text.replace(f"${{{user.upper()}_PASSWORDS}}", " ".join(f"#{digest}" for digest in digests))
        if "${" in text:
            raise WrongUsage(f"{self._acl_template} names a user that has no password here")
        path = self._folder / _ACL
        if path.exists() and path.read_bytes() == text.encode():
            return False
        self._write(_ACL, text.encode())
        return True

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        """Write a file as a whole or not at all, readable by its owner only."""
        temporary = self._folder / f".{name}.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(self._folder / name)


def rotatable() -> tuple[str, ...]:
    """Return the names that `rotate` accepts."""
    return (*PLAIN, *(f"redis_{user}" for user in REDIS_USERS), "tls")


def _maker(name: str) -> Callable[[], bytes]:
    """Return what makes a value of this secret."""
    return _webhook_secret if name == "webhook_secret" else _random


def _key() -> bytes:
    """Return a private key of P-256, as Web Push has it."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _webhook_secret() -> bytes:
    """Return a secret as Standard Webhooks writes them."""
    return b"whsec_" + base64.b64encode(secrets.token_bytes(32))


def _random() -> bytes:
    return secrets.token_urlsafe(32).encode()
