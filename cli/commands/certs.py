"""`thalamus certs`: a certificate for development."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.commands.secrets import DEFAULT_HOSTS
from cli.errors import WrongUsage
from cli.output import remark
from cli.secrets.certificate import make_certificate


@click.command("certs")
@click.option("--host", "hosts", multiple=True, default=DEFAULT_HOSTS, show_default=True, help="Name or address.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("secrets/tls"), show_default=True)
@click.option("--force", is_flag=True, help="Replace what is there.")
def command(hosts: tuple[str, ...], out: Path, force: bool) -> None:
    """Make a self-signed certificate for development.

    The certificate and its key are one file, as the balancer reads it. Browsers do not trust it by themselves.
    """
    try:
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with os.fdopen(os.open(out, flags, 0o600), "wb") as file:
            file.write(make_certificate(list(hosts)))
    except FileExistsError:
        raise WrongUsage(f"{out} is there; --force replaces it") from None
    except (OSError, ValueError) as error:
        raise WrongUsage(f"{out}: {error}") from error
    remark(f"{out}: for {', '.join(hosts)}, 397 days")
