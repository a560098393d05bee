"""Secret files: made once, rotated, readable by their owner alone.

The value before stays good after a rotation.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509

from cli.commands import certs, secrets
from cli.errors import WrongUsage
from cli.secrets.services import ServiceCertificates

TEMPLATE = Path("deploy/redis/users.acl.template")


def run(folder: Path, *arguments: str, template: Path = TEMPLATE, rolled_out: bool = True) -> str:
    if rolled_out:  # as deploy/up.sh does
        for marker in folder.glob(".*.changed"):
            marker.unlink()
    given = [*arguments, "--folder", str(folder), "--acl-template", str(template)]
    result = CliRunner().invoke(secrets.command, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    run(folder, "init")
    before = contents(folder)
    assert run(folder, "init").strip() == "all there"
    assert contents(folder) == before


def test_no_two_secrets_are_alike_but_a_value_and_what_is_accepted_beside_it(tmp_path: Path) -> None:
    run(tmp_path, "init")
    found = contents(tmp_path)
    for name in ("service_token", "token_secret", "webhook_secret"):
        assert found.pop(f"{name}_also") == found[name]
    assert len(set(found.values())) == len(found)
    assert all(not value.endswith(b"\n") for name, value in found.items() if name.startswith(("redis_e", "service")))


def test_only_their_owner_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    run(folder, "init")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_redis_knows_the_digest_of_every_user_and_no_password(tmp_path: Path) -> None:
    run(tmp_path, "init")
    found = contents(tmp_path)
    acl = found["redis_acl"].decode()
    for user in ("edge", "auth", "presence", "persistence", "webhooks", "notifier"):
        password = found[f"redis_{user}"]
        (line,) = [line for line in acl.splitlines() if line.startswith(f"user {user} ")]
        assert f"#{hashlib.sha256(password).hexdigest()}" in line
        assert password.decode() not in acl
    assert "${" not in acl


@pytest.mark.parametrize("name", ["service_token", "token_secret", "webhook_secret"])
def test_a_new_value_is_accepted_before_it_is_shown_and_the_old_one_afterwards(tmp_path: Path, name: str) -> None:
    run(tmp_path, "init")
    shown, also = tmp_path / name, tmp_path / f"{name}_also"
    first = shown.read_bytes()
    assert "then, once" in run(tmp_path, "rotate", name)
    assert shown.read_bytes() == first
    second = also.read_bytes()
    assert second != first
    assert "then, once" not in run(tmp_path, "rotate", name)
    assert (shown.read_bytes(), also.read_bytes()) == (second, first)
    run(tmp_path, "rotate", name)
    assert shown.read_bytes() == second
    assert also.read_bytes() not in (first, second)


def test_redis_takes_the_next_password_first_and_the_last_one_until_the_next_rotation(tmp_path: Path) -> None:
    run(tmp_path, "init")
    password, acl = tmp_path / "redis_auth", tmp_path / "redis_acl"

    def digest() -> str:
        return hashlib.sha256(password.read_bytes()).hexdigest()

    first = digest()
    run(tmp_path, "rotate", "redis_auth")
    assert digest() == first
    begun = acl.read_text()
    assert first in begun
    run(tmp_path, "rotate", "redis_auth")
    assert digest() != first
    assert digest() in begun
    assert acl.read_text() == begun, "the second step restarts nothing but the service"
    second = digest()
    run(tmp_path, "rotate", "redis_auth")
    assert [one in acl.read_text() for one in (first, second)] == [False, True]


def test_no_step_is_taken_before_the_last_one_was_rolled_out(tmp_path: Path) -> None:
    run(tmp_path, "init")
    run(tmp_path, "rotate", "service_token")
    before = contents(tmp_path)
    with pytest.raises(WrongUsage, match="make up"):
        run(tmp_path, "rotate", "service_token", rolled_out=False)
    assert contents(tmp_path) == before


def test_a_template_that_changed_reaches_the_acl_file(tmp_path: Path) -> None:
    folder, template = tmp_path / "secrets", tmp_path / "template"
    template.write_text(TEMPLATE.read_text())
    run(folder, "init", template=template)
    template.write_text(TEMPLATE.read_text().replace("+hget", "+hget +hstrlen"))
    assert "redis_acl" in run(folder, "init", template=template)
    assert "+hstrlen" in (folder / "redis_acl").read_text()


def test_what_was_never_made_is_not_rotated(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="make the secrets first"):
        run(tmp_path, "rotate", "token_secret")


def test_a_template_with_an_unknown_user_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text("user edge on ${EDGE_PASSWORDS}\nuser else on ${ELSE_PASSWORDS}\n")
    with pytest.raises(WrongUsage, match="no password"):
        run(tmp_path / "secrets", "init", template=template)


def test_a_certificate_serves_its_hosts_and_is_not_replaced_by_accident(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "tls"
    arguments = ["--out", str(out), "--host", "chat.example", "--host", "10.1.2.3"]
    assert CliRunner().invoke(certs.command, arguments).exit_code == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(out)  # certificate and key belong together
    certificate = x509.load_pem_x509_certificate(out.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["chat.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.1.2.3"]
    before = out.read_bytes()
    again = CliRunner().invoke(certs.command, arguments)
    assert isinstance(again.exception, WrongUsage)
    assert out.read_bytes() == before
    assert CliRunner().invoke(certs.command, [*arguments, "--force"]).exit_code == 0
    assert out.read_bytes() != before


SERVICES = ("edge", "auth", "presence", "persistence")


def certificates(folder: Path) -> dict[str, x509.Certificate]:
    names = ("service_ca", *(f"service_cert_{service}" for service in SERVICES))
    return {name: x509.load_pem_x509_certificate((folder / name).read_bytes()) for name in names}


def make_services(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(certs.command, ["--services", "--out", str(folder), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_certificates_of_services_have_their_names_and_a_common_ca_and_only_their_owner_reads_them(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "secrets"
    output = make_services(folder, "--host", "auth.internal", "--days", "30")
    assert "PRIVATE" not in output
    found = certificates(folder)
    ca = found.pop("service_ca")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    for name, certificate in found.items():
        service = name.rpartition("_")[2]
        certificate.verify_directly_issued_by(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = names.get_values_for_type(x509.DNSName)
        assert dns == [service, f"tasks.{service}", "localhost", "auth.internal"], "the names of no other service"
        assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= datetime.timedelta(days=31)


def test_a_second_call_changes_nothing_and_a_renewal_all_but_the_ca(tmp_path: Path) -> None:
    make_services(tmp_path)
    first = contents(tmp_path)
    assert "all there" in make_services(tmp_path)
    assert contents(tmp_path) == first
    make_services(tmp_path, "--renew")
    changed = {name for name, value in contents(tmp_path).items() if value != first[name]}
    assert changed == first.keys() - {"service_ca", "service_ca_key"}
    (tmp_path / "service_key_auth").unlink()
    assert make_services(tmp_path).splitlines()[0].endswith("made service_cert_auth, service_key_auth")


def test_certificates_do_not_outlive_their_ca_and_an_expired_ca_makes_none(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    ServiceCertificates(tmp_path, now=now - datetime.timedelta(days=3_600)).make()
    make_services(tmp_path, "--renew")
    found = certificates(tmp_path)
    ca = found.pop("service_ca")
    assert {one.not_valid_after_utc for one in found.values()} == {ca.not_valid_after_utc}
    with pytest.raises(WrongUsage, match="has expired"):
        ServiceCertificates(tmp_path, now=now + datetime.timedelta(days=60)).make(renew=True)


@pytest.mark.parametrize(
    ("remove", "arguments", "says"),
    [
        ("service_ca_key", ["--renew"], "bring it back"),
        ("", ["--force"], "not with --force"),
        ("", ["--host", "a b*é"], "a b"),
    ],
)
def test_what_cannot_be_made_is_told_and_nothing_is_replaced(
    tmp_path: Path, remove: str, arguments: list[str], says: str
) -> None:
    make_services(tmp_path)
    if remove:
        (tmp_path / remove).unlink()
    first = contents(tmp_path)
    if "--host" in arguments:
        arguments = [*arguments, "--renew"]
    with pytest.raises(WrongUsage, match=says):
        make_services(tmp_path, *arguments)
    assert contents(tmp_path) == first
