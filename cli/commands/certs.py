"""`thalamus certs`: a certificate for development, and those of services."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.commands.secrets import DEFAULT_HOSTS
from cli.errors import WrongUsage
from cli.output import remark
from cli.secrets.certificate import make_certificate
from cli.secrets.services import DAYS, SERVICES, ServiceCertificates

_OUT = Path("secrets/tls")


@click.command("certs")
@click.option(
    "--host", "hosts", multiple=True, help=f"Name or address; repeatable. [default: {', '.join(DEFAULT_HOSTS)}]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File of the certificate; with --services the folder. [default: secrets/tls; secrets]",
)
@click.option("--force", is_flag=True, help="Replace what is there; not with --services.")
@click.option("--services", is_flag=True, help="Make a CA, and a certificate for each service.")
@click.option("--renew", is_flag=True, help="With --services: new certificates and keys, from the same CA.")
@click.option(
    "--days",
    type=click.IntRange(1, 3_650),
    default=DAYS,
    show_default=True,
    help="With --services: how long the certificates are valid.",
)
def command(hosts: tuple[str, ...], out: Path | None, *, force: bool, services: bool, renew: bool, days: int) -> None:
    """Make a self-signed certificate for development, or those of services.

    The certificate and its key are one file, as the balancer reads it. Browsers do not trust it by themselves.

    With --services: the certificates by which services know one another (SERVICE_TLS). What is there stays, unless
    --renew is given. Every file is readable by its owner only. No service needs service_ca_key: keep it elsewhere.
    """
    if services:
        if force:
            raise WrongUsage("--services replaces certificates with --renew, not with --force")
        _make_services(out or _OUT.parent, hosts, days, renew=renew)
        return
    if renew:
        raise WrongUsage("--renew is for --services")
    out, hosts = out or _OUT, hosts or DEFAULT_HOSTS
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


def _make_services(folder: Path, hosts: tuple[str, ...], days: int, *, renew: bool) -> None:
    certificates = ServiceCertificates(folder)
    made = certificates.make(days=days, hosts=hosts, renew=renew)
    remark(f"{folder}: made {', '.join(made)}" if made else f"{folder}: all there")
    first = min(certificates.expiry(service) for service in SERVICES)
    remark(f"the first of them expires at {first:%Y-%m-%d}; thalamus certs --services --renew")
