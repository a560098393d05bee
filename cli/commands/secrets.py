"""`thalamus secrets`: the secret files of a deployment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.bundled import present_or_bundled
from cli.output import remark
from cli.secrets.files import SecretFiles, rotatable
from services.shared.hotlog.keys import DEFAULT_PREFIX

DEFAULT_HOSTS = ("localhost", "127.0.0.1", "::1")
Command = TypeVar("Command", bound=Callable[..., Any])

_folder = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("secrets"), show_default=True, help="Where the files are."
)
_template = click.option(
    "--acl-template",
    type=click.Path(path_type=Path),
    default=lambda: present_or_bundled("deploy/redis/users.acl.template"),
    show_default="deploy/redis/users.acl.template",
    help="What Redis' ACL file is made of.",
)
_prefix = click.option(
    "--redis-prefix",
    envvar="REDIS_PREFIX",
    show_envvar=True,
    default=DEFAULT_PREFIX,
    show_default=True,
    help="What the names of keys begin with that the users of Redis may use.",
)
_host = click.option(
    "--host", "hosts", multiple=True, default=DEFAULT_HOSTS, show_default=True, help="Of the certificate; repeatable."
)


@click.group("secrets")
def command() -> None:
    """Make and rotate the secret files of a deployment.

    `make up` gives them to Swarm.
    """


@command.command("init")
@_folder
@_template
@_prefix
@_host
def init(folder: Path, acl_template: Path, redis_prefix: str, hosts: tuple[str, ...]) -> None:
    """Make the missing files; existing ones stay as they are."""
    made = SecretFiles(folder, acl_template, redis_prefix).init(list(hosts))
    remark(f"{folder}: made {', '.join(name for name in made if not name.startswith('.'))}" if made else "all there")


@command.command("rotate")
@click.argument("name", type=click.Choice(rotatable()))
@_folder
@_template
@_prefix
@_host
def rotate(name: str, folder: Path, acl_template: Path, redis_prefix: str, hosts: tuple[str, ...]) -> None:
    """Take one of the two steps of a rotation.

    The first step makes servers accept a new value beside the present one. The second step, the same command again,
    puts the new value to use. Roll out each step (`make up`) before the next one. The old value is accepted until the
    next rotation. `tls` is replaced in one step.
    """
    changed, begun = SecretFiles(folder, acl_template, redis_prefix).rotate(name, list(hosts))
    remark(f"{folder}: changed {', '.join(changed)}; `make up` rolls what reads them")
    if begun:
        remark(f"then, once everything runs again: thalamus secrets rotate {name}")
