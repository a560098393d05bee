"""`REDIS_URL`, read in one way; what would be half understood is refused by name."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from services.shared.process.config import ConfigError
from services.shared.redis.address import RedisAddress, Tls, parse_redis_url

CERT = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", RedisAddress()),
        ("redis://r:7/3", RedisAddress(host="r", port=7, db=3)),
        ("redis://r/?db=3", RedisAddress(host="r", db=3)),
        ("redis://[::1]:7", RedisAddress(host="::1", port=7)),
        ("redis://ann:p%40ss@r", RedisAddress(host="r", username="ann", password="p@ss")),
        ("redis://:secret@r", RedisAddress(host="r", password="secret")),
        ("redis://ann@r?password=p%25", RedisAddress(host="r", username="ann", password="p%")),
        ("unix:///run/redis%20x.sock?db=2", RedisAddress(path="/run/redis x.sock", db=2)),
        ("rediss://r", RedisAddress(host="r", tls=Tls())),
        ("rediss://r?ssl_cert_reqs=none", RedisAddress(host="r", tls=Tls(cert_reqs="none", check_hostname=False))),
        ("rediss://r?ssl_check_hostname=False", RedisAddress(host="r", tls=Tls(check_hostname=False))),
        (
            "rediss://r?ssl_cert_reqs=OPTIONAL&ssl_check_hostname=true",
            RedisAddress(host="r", tls=Tls(cert_reqs="optional")),
        ),
    ],
)
def test_what_is_understood(url: str, address: RedisAddress) -> None:
    assert parse_redis_url(url) == address


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://r", "must begin with redis://"),
        ("r:6379", "must begin with redis://"),
        ("redis://r:port", "[Pp]ort"),
        ("redis://r:70000", "[Pp]ort"),
        ("redis://r/zero", "the database must be a number, not 'zero'"),
        ("redis://r/-1", "the database must be a number"),
        ("redis://r/1?db=1", "given twice"),
        ("redis://r?db=1&db=2", "db is given twice"),
        ("redis://r?socket_timeout=5", "unknown parameter 'socket_timeout'; known are db, username"),
        ("rediss://r?ssl_ca_cert=x", "unknown parameter 'ssl_ca_cert'"),
        ("rediss://r?ssl_ciphers=x", "unknown parameter 'ssl_ciphers'"),
        ("redis://r?ssl_cert_reqs=none", "ssl_cert_reqs needs rediss://"),
        ("rediss://r?ssl_cert_reqs=maybe", "ssl_cert_reqs must be required, optional or none"),
        ("rediss://r?ssl_check_hostname=perhaps", "ssl_check_hostname must be true or false"),
        ("rediss://r?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname has no effect"),
        ("rediss://r?ssl_keyfile=/dev/null", "ssl_keyfile needs ssl_certfile"),
        ("rediss://r?ssl_ca_certs=/nowhere/ca.pem", "ssl_ca_certs: can't read /nowhere/ca.pem"),
        ("rediss://r?ssl_certfile=/dev/null", "its certificates can't be used"),
        ("redis://r/0#", None),
        ("redis://:pass#word@r/0", "%23|[Pp]ort"),
        ("unix://", "needs the path"),
        ("unix://run/redis.sock", "from the root on"),
        ("redis://:12/pass@r", "%2F"),
        ("redis://u:12/pass@r:6379/0", "%2F"),
        ("redis://:12?pass@r", "%3F"),
        ("redis://:12?pass=1@r", "%3F"),
        ("redis://:12?pass&x@r", "%3F"),
        ("redis://:12#pass@r", "%23"),
    ],
)
def test_what_is_not_is_refused_by_name(url: str, complaint: str | None) -> None:
    if complaint is None:
        assert parse_redis_url(url) == RedisAddress(host="r")
        return
    with pytest.raises(ConfigError, match=complaint) as refused:
        parse_redis_url(url)
    assert str(refused.value).startswith("REDIS_URL")
    assert "pass@" not in str(refused.value), "a part of the password"
    assert "'pass'" not in str(refused.value), "a part of the password"


def test_a_context_is_made_anew_where_a_file_was_replaced(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_bytes(CERT.read_bytes())
    tls = Tls(ca_certs=str(authorities))
    first = tls.get()
    assert tls.get() is first
    authorities.unlink()
    with pytest.raises(OSError, match=r"ca\.pem"):
        tls.get()
    authorities.write_text("no certificate")
    with pytest.raises(OSError):  # noqa: PT011  # OpenSSL's words differ
        tls.get()
