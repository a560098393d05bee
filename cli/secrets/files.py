"""A folder of secret files, one a secret; each has the bytes that a service reads and no newline."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cli.errors import WrongUsage
from cli.secrets.certificate import make_certificate
from services.shared.hotlog.keys import DEFAULT_PREFIX, checked_prefix

REDIS_USERS = ("edge", "auth", "presence", "persistence")
AWS_USERS = ("auth", "persistence")  # each may do no more than its own table needs
PLAIN = ("service_token", "token_secret")
_ALSO = "_also"  # a second value that is accepted: the next one or the last one
_ACL = "redis_acl"
_SALT = ".salt"
_MADE = ".made-by-make-secrets.env"  # the stack files read it, so that a deployment without secrets ends at once
# The local DynamoDB wants some, and keeps apart what has another key id; on AWS there are real ones, or an empty
# profile and a role.
_AWS = "[default]\naws_access_key_id = local\naws_secret_access_key = {user}\n"


class SecretFiles:
    """The folder and the template of Redis' ACL file."""

    def __init__(self, folder: Path, acl_template: Path, redis_prefix: str = DEFAULT_PREFIX) -> None:
        """Nothing is read or written yet. `redis_prefix`: the `REDIS_PREFIX` of the services.

        Raises:
            ConfigError: it can't be one.
        """
        self._folder, self._acl_template, self._redis_prefix = folder, acl_template, checked_prefix(redis_prefix)

    def init(self, hosts: list[str]) -> list[str]:
        """Make what is missing, leave what is there; returns the names of what was made.

        Raises:
            WrongUsage: the folder can't be written, or the template not be read.
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
        """One of the two steps of a rotation: names of what changed, and whether it has only begun.

        First a new value is accepted beside the present one by whoever checks it; then, once that is rolled out, it is
        shown, and the old one stays good until the next rotation. So whoever is rolled first, both sides agree.

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
        self._write(also, _random())
        begun.touch(mode=0o600)
        if name in PLAIN:
            return [also], True
        self._write_acl()
        return [_ACL], True

    def _all(self, hosts: list[str]) -> dict[str, Callable[[], bytes]]:
        """How each is made; what is accepted beside it is at first the same."""
        plain: dict[str, Callable[[], bytes]] = dict.fromkeys(PLAIN, _random)
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
        }
        return {**plain, **also, **users, **others}

    def _make(self, name: str, make: Callable[[], bytes]) -> bool:
        if (self._folder / name).exists():
            return False
        self._write(name, make())
        return True

    def _write_acl(self) -> bool:
        """Digests of every user's password, and of what is accepted beside it; whether anything changed."""
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
        """Whole or not at all, and readable by its owner alone."""
        temporary = self._folder / f".{name}.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(self._folder / name)


def rotatable() -> tuple[str, ...]:
    """Names that `rotate` takes."""
    return (*PLAIN, *(f"redis_{user}" for user in REDIS_USERS), "tls")


def _random() -> bytes:
    return secrets.token_urlsafe(32).encode()
