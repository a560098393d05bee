"""Ways out: what arrives, and what the answers of services mean; C62, C63."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import http_ece
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from py_vapid import Vapid02

from services.persistence.chat.devices.device import Device
from services.persistence.notifier.options import load_options
from services.persistence.notifier.ports import Note
from services.persistence.notifier.ways import make
from services.persistence.notifier.ways.apns import ApnsWay
from services.persistence.notifier.ways.fcm import FcmWay
from services.persistence.notifier.ways.make import ways_of
from services.persistence.notifier.ways.webhook import WebhookWay
from services.persistence.notifier.ways.webpush import WebPushWay
from services.persistence.webhooks.http import MAX_BODY_BYTES, Outcome
from services.shared.process.config import ConfigError
from services.shared.webhook_signing import Signer
from tests.support.apns_server import ApnsReply, ApnsServer
from tests.support.google import Google
from tests.support.push_keys import Browser, account, ec_key, server_tls
from tests.support.push_server import PushServer, Reply
from tests.support.webhooks import SECRET

ID = "6f1f2b1e-9d0c-4b0f-8f0e-0d5a6a3c9b57"
NOTE = Note(
    id="n1", kind="message", user="bob", channel="conv:g.x", offset=7, title="Lunch", body="ann: hi 👋", badge=3, time=5
)
BACK = Note(id="n1", kind="dismiss", user="bob", channel="conv:g.x", offset=7)
LONG = Note(id="n1", kind="message", user="bob", channel="conv:g.x", offset=7, title="t", body="ä" * 9_000)
COMMON = [
    (Reply(200), Outcome.TAKEN, 0.0),
    (Reply(429, {"retry-after": "7"}), Outcome.REFUSED, 7.0),
    (Reply(503, {"retry-after": "3"}), Outcome.REFUSED, 3.0),
    (Reply(500), Outcome.REFUSED, 0.0),
    (Reply(307, {"location": "http://127.0.0.1:1/"}), Outcome.REDIRECT, 0.0),
    (Reply(hangs=True), Outcome.TIMEOUT, 0.0),
    (Reply(loses=True), Outcome.FAILED, 0.0),
]


def time_for(reply: Reply) -> float:
    """Seconds that a request may take: enough on a busy machine, unless it hangs."""
    return 0.5 if reply.hangs else 20.0


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[PushServer]:
    context, _ = server_tls(tmp_path)
    async with PushServer(tls=context) as server:
        yield server


def web_push(
    tmp_path: Path, server: PushServer, *hosts: str, **options: Any
) -> tuple[WebPushWay, ec.EllipticCurvePrivateKey]:
    key = ec_key(tmp_path / "vapid.pem")
    allowed = hosts or (f"localhost:{server.port}",)
    options = {"timeout_s": 20.0, "ca_file": tmp_path / "server.pem", **options}
    return WebPushWay(tmp_path / "vapid.pem", "mailto:ops@example.com", allowed, **options), key


async def test_web_push_is_encrypted_for_the_browser_and_signed(tmp_path: Path, tls_server: PushServer) -> None:
    way, key = web_push(tmp_path, tls_server)
    browser = Browser(f"{tls_server.url}/send/1")
    for note in (NOTE, NOTE, BACK, LONG):
        assert (await way.send(ID, note, browser.device())).outcome is Outcome.TAKEN
    first, again, back, long = tls_server.asked
    assert browser.read(first.body) == json.loads(msgspec.json.encode(NOTE))
    assert (browser.read(back.body)["kind"], back.headers["urgency"]) == ("dismiss", "normal")
    assert 0 < len(browser.read(long.body)["body"]) < len(LONG.body)
    assert max(len(one.body) for one in tls_server.asked) <= 4_096
    assert first.body != again.body
    assert first.headers["topic"] == back.headers["topic"]
    assert len(first.headers["topic"]) == 32
    assert (first.headers["ttl"], first.headers["content-encoding"]) == ("86400", "aes128gcm")
    assert (first.path, first.headers["host"]) == ("/send/1", f"localhost:{tls_server.port}")
    assert Vapid02.verify(first.headers["authorization"])
    token = first.headers["authorization"].removeprefix("vapid t=").partition(",")[0]
    claims = jwt.decode(token, key.public_key(), algorithms=["ES256"], audience=tls_server.url)
    assert claims["sub"] == "mailto:ops@example.com"
    assert time.time() < claims["exp"] < time.time() + 86_400
    other = Browser(browser.endpoint)
    with pytest.raises(http_ece.ECEException):
        other.read(first.body)
    await way.close()


@pytest.mark.parametrize(
    ("reply", "outcome", "retry_after_s"),
    [
        *COMMON,
        (Reply(404), Outcome.GONE, 0.0),
        (Reply(410), Outcome.GONE, 0.0),
        (Reply(400), Outcome.INVALID, 0.0),
        (Reply(403), Outcome.INVALID, 0.0),
        (Reply(413), Outcome.INVALID, 0.0),
    ],
)
async def test_what_answers_of_push_services_mean(
    tmp_path: Path, tls_server: PushServer, reply: Reply, outcome: Outcome, retry_after_s: float
) -> None:
    way, _ = web_push(tmp_path, tls_server, timeout_s=time_for(reply))
    tls_server.answer = lambda _: reply
    answer = await way.send(ID, NOTE, Browser(f"{tls_server.url}/send/1").device())
    assert (answer.outcome, answer.retry_after_s) == (outcome, retry_after_s)
    assert len(tls_server.asked) == 1, "nothing is repeated, and no redirect is followed"
    await way.close()


async def test_c63_a_private_address_is_not_called_whatever_its_name(
    tmp_path: Path, tls_server: PushServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, _ = web_push(tmp_path, tls_server, "localhost")  # the name is allowed, but no server with its port
    for endpoint in (f"https://localhost:{tls_server.port}/x", "https://localhost/x", "http://localhost/x"):
        answer = await way.send(ID, NOTE, Browser(endpoint).device())
        assert answer.outcome in (Outcome.GONE, Outcome.FAILED), endpoint
    assert "not public" in (await way.send(ID, NOTE, Browser("https://localhost/x").device())).error
    for address in ("169.254.169.254", "10.0.0.1", "127.0.0.1", "::1", "fd00::1", "100.64.0.1", "0.0.0.0"):
        named, _ = web_push(tmp_path, tls_server, "push.example.com")

        async def resolved(*_: Any, address: str = address, **__: Any) -> Any:
            return [(2, 1, 6, "", (address, 443))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved, raising=False)
        answer = await named.send(ID, NOTE, Browser("https://push.example.com/x").device())
        assert "not public" in answer.error, address
        monkeypatch.undo()
        await named.close()
    assert tls_server.asked == []
    await way.close()


async def test_c63_an_answer_without_an_end_is_cut(tmp_path: Path, tls_server: PushServer) -> None:
    way, _ = web_push(tmp_path, tls_server, timeout_s=10.0)
    tls_server.answer = lambda _: Reply(201, endless=True)
    answer = await way.send(ID, NOTE, Browser(f"{tls_server.url}/x").device())
    assert answer.outcome is Outcome.TAKEN
    assert tls_server.sent < 64 * MAX_BODY_BYTES + (16 << 20)
    await way.close()


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path, tls_server: PushServer) -> None:
    way, _ = web_push(tmp_path, tls_server, f"localhost.localdomain:{tls_server.port}", f"127.0.0.1:{tls_server.port}")
    ok = await way.send(ID, NOTE, Browser(f"https://127.0.0.1:{tls_server.port}/x").device())
    assert ok.outcome is Outcome.TAKEN
    strict = WebPushWay(tmp_path / "vapid.pem", "mailto:a@b.c", (f"localhost:{tls_server.port}",), timeout_s=1.0)
    refused = await strict.send(ID, NOTE, Browser(f"{tls_server.url}/x").device())
    assert refused.outcome is Outcome.FAILED, "the authority is not known"
    for one in (way, strict):
        await one.close()


@pytest.fixture
async def google() -> AsyncIterator[Google]:
    async with PushServer() as server:
        yield Google(server)


UNREGISTERED = b'{"error":{"status":"NOT_FOUND","details":[{"errorCode":"UNREGISTERED"}]}}'
PHONE = Device(id="phone", platform="fcm", set_ms=1, token="the:token")
IPHONE = Device(id="phone", platform="apns", set_ms=1, token="ab" * 32)


async def test_fcm_gets_a_message_with_the_token_of_the_account(tmp_path: Path, google: Google) -> None:
    key = account(tmp_path / "account.json", f"{google.server.url}/token")
    way = FcmWay(tmp_path / "account.json", url=google.server.url, timeout_s=20.0)
    for note in (NOTE, BACK):
        assert (await way.send(ID, note, PHONE)).outcome is Outcome.TAKEN
    (assertion,) = google.assertions
    claims = jwt.decode(assertion, key.public_key(), algorithms=["RS256"], options={"verify_aud": False})
    assert claims["iss"] == "notifier@the-project.example.com"
    shown, back = google.sent
    assert shown.path == "/v1/projects/the-project/messages:send"
    assert shown.headers["authorization"] == back.headers["authorization"] == "Bearer token-0"
    message = json.loads(shown.body)["message"]
    assert message["token"] == "the:token"
    assert message["notification"] == {"title": "Lunch", "body": "ann: hi 👋"}
    assert message["android"]["notification"] == {"tag": "conv:g.x", "notification_count": 3}
    assert (message["android"]["collapse_key"], message["data"]["offset"]) == ("conv:g.x", "7")
    silent = json.loads(back.body)["message"]
    assert ("notification" in silent, silent["data"]["kind"]) == (False, "dismiss")
    await way.close()


@pytest.mark.parametrize(
    ("reply", "outcome", "retry_after_s"),
    [
        *COMMON,
        (
            Reply(404, body=b'{"error":{"status":"NOT_FOUND","details":[{"errorCode":"UNREGISTERED"}]}}'),
            Outcome.GONE,
            0,
        ),
        (Reply(404, body=b'{"error":{"status":"NOT_FOUND"}}'), Outcome.INVALID, 0),
        (Reply(404, body=b"<html>"), Outcome.INVALID, 0),
        (Reply(400, body=b'{"error":{"status":"INVALID_ARGUMENT"}}'), Outcome.INVALID, 0),
        (Reply(403, body=b'{"error":{"status":"PERMISSION_DENIED"}}'), Outcome.INVALID, 0),
        (Reply(401), Outcome.REFUSED, 0),
    ],
)
async def test_what_answers_of_fcm_mean(
    tmp_path: Path, google: Google, reply: Reply, outcome: Outcome, retry_after_s: float
) -> None:
    account(tmp_path / "account.json", f"{google.server.url}/token")
    way = FcmWay(tmp_path / "account.json", url=google.server.url, timeout_s=20.0)
    google.reply = reply
    await way._token.get()  # noqa: SLF001
    way._timeout_s = time_for(reply)  # noqa: SLF001
    answer = await way.send(ID, NOTE, PHONE)
    way._timeout_s = 20.0  # noqa: SLF001
    assert (answer.outcome, answer.retry_after_s) == (outcome, retry_after_s)
    google.reply = Reply(200)
    assert (await way.send(ID, NOTE, PHONE)).outcome is Outcome.TAKEN
    assert len(google.tokens) == (2 if reply.status == 401 else 1)
    await way.close()


async def test_without_an_access_token_fcm_is_tried_again(tmp_path: Path) -> None:
    account(tmp_path / "account.json", "http://127.0.0.1:1/token")
    way = FcmWay(tmp_path / "account.json", url="http://127.0.0.1:1", timeout_s=0.5)
    assert (await way.send(ID, NOTE, PHONE)).outcome is Outcome.REFUSED
    await way.close()


@pytest.fixture
async def apple(tmp_path: Path) -> AsyncIterator[ApnsServer]:
    context, _ = server_tls(tmp_path, http2=True)
    async with ApnsServer(context) as server:
        yield server


def apns(tmp_path: Path, server: ApnsServer) -> tuple[ApnsWay, ec.EllipticCurvePrivateKey]:
    key = ec_key(tmp_path / "key.p8")
    context = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
    context.set_alpn_protocols(["h2"])
    way = ApnsWay(
        tmp_path / "key.p8",
        "KEY1",
        "TEAM1",
        "com.example.app",
        server=("localhost", server.port),
        context=context,
        timeout_s=20.0,
    )
    return way, key


async def test_apns_gets_an_alert_and_a_silent_one_to_take_it_back(tmp_path: Path, apple: ApnsServer) -> None:
    way, key = apns(tmp_path, apple)
    for note in (NOTE, BACK, LONG):
        assert (await way.send(ID, note, IPHONE)).outcome is Outcome.TAKEN
    shown, back, long = apple.asked
    assert shown.path == f"/3/device/{'ab' * 32}"
    assert (shown.headers["apns-id"], shown.headers["apns-collapse-id"]) == (ID, "conv:g.x")
    assert (shown.headers["apns-topic"], shown.headers["apns-push-type"]) == ("com.example.app", "alert")
    token = shown.headers["authorization"].removeprefix("bearer ")
    assert jwt.decode(token, key.public_key(), algorithms=["ES256"])["iss"] == "TEAM1"
    assert jwt.get_unverified_header(token)["kid"] == "KEY1"
    assert shown.body["aps"]["alert"] == {"title": "Lunch", "body": "ann: hi 👋"}
    assert (shown.body["aps"]["badge"], shown.body["aps"]["thread-id"]) == (3, "conv:g.x")
    assert (back.headers["apns-push-type"], back.headers["apns-priority"]) == ("background", "5")
    assert (back.body["aps"], back.body["thalamus"]["kind"]) == ({"content-available": 1}, "dismiss")
    assert len(json.dumps(long.body, ensure_ascii=False).encode()) <= 4_096
    await way.close()


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (ApnsReply(410, "Unregistered"), Outcome.GONE),
        (ApnsReply(400, "BadDeviceToken"), Outcome.GONE),
        (ApnsReply(400, "DeviceTokenNotForTopic"), Outcome.INVALID),
        (ApnsReply(400, "BadTopic"), Outcome.INVALID),
        (ApnsReply(403, "ExpiredProviderToken"), Outcome.REFUSED),
        (ApnsReply(429, "TooManyRequests"), Outcome.REFUSED),
        (ApnsReply(503, "ServiceUnavailable"), Outcome.REFUSED),
        (ApnsReply(500, "InternalServerError", mute=True), Outcome.TIMEOUT),
        (ApnsReply(hangs=True), Outcome.TIMEOUT),
        (ApnsReply(drops=True), Outcome.FAILED),
    ],
)
async def test_what_answers_of_apns_mean(tmp_path: Path, apple: ApnsServer, reply: ApnsReply, outcome: Outcome) -> None:
    way, _ = apns(tmp_path, apple)
    assert (await way.send(ID, NOTE, IPHONE)).outcome is Outcome.TAKEN, "it is connected"
    apple.asked.clear()
    apple.answer = lambda _: reply
    way._timeout_s = 0.5 if reply.hangs or reply.mute else 20.0  # noqa: SLF001
    answer = await way.send(ID, NOTE, IPHONE)
    way._timeout_s = 20.0  # noqa: SLF001
    assert answer.outcome is outcome, answer
    assert len(apple.asked) == 1
    apple.answer = lambda _: ApnsReply()
    assert (await way.send(ID, NOTE, IPHONE)).outcome is Outcome.TAKEN
    await way.close()


@pytest.mark.parametrize(
    ("reply", "outcome", "retry_after_s"),
    [
        *COMMON,
        (Reply(404), Outcome.REFUSED, 0.0),
        (Reply(410), Outcome.REFUSED, 0.0),
        (Reply(400), Outcome.REFUSED, 0.0),
    ],
)
async def test_what_answers_of_a_backend_mean(reply: Reply, outcome: Outcome, retry_after_s: float) -> None:
    async with PushServer(lambda _: reply) as server:
        way = WebhookWay(server.url, Signer([SECRET]), timeout_s=time_for(reply))
        answer = await way.send(ID, NOTE, None)
        assert (answer.outcome, answer.retry_after_s) == (outcome, retry_after_s)
        assert len(server.asked) == 1
        await way.close()


FILE = """
[namespaces.conv]
notify_delay_s = 5
[webhook]
url = "https://backend.example.com/push"
secret_files = ["secret"]
[webpush]
key_file = "vapid.pem"
subject = "mailto:ops@example.com"
[fcm]
account_file = "account.json"
[apns]
key_file = "key.p8"
key_id = "K"
team_id = "T"
topic = "com.example.app"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    ec_key(tmp_path / "vapid.pem")
    ec_key(tmp_path / "key.p8")
    account(tmp_path / "account.json", "https://oauth2.example.com/token")
    (tmp_path / "push.toml").write_text(FILE)
    return tmp_path / "push.toml"


async def test_every_way_of_the_file_is_made(file: Path) -> None:
    ways = ways_of(load_options(file), ("push.example.com",))
    assert [way.platform for way in ways] == ["webhook", "webpush", "fcm", "apns"]
    for way in ways:
        await way.close()


async def test_a_way_without_its_library_is_left_out_and_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("pywebpush", "google.oauth2", "google.auth", "aioapns"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("webpush", "fcm", "apns"):
        monkeypatch.delitem(sys.modules, f"{make.__package__}.{name}", raising=False)
    (way,) = ways_of(load_options(file), ())
    assert way.platform == "webhook"
    await way.close()
    told = [record.message for record in caplog.records]
    assert len(told) == 3, told
    for name in ("webpush", "fcm", "apns"):
        assert any(name in one and "thalamus-realtime[push]" in one for one in told), told


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (("notify_delay_s = 5", "notify_delay_s = -1"), "notify_delay_s"),
        (("notify_delay_s = 5", 'notify_when = "never"'), "notify_when"),
        (("notify_delay_s = 5", 'preview = "all"'), "preview"),
        (("notify_delay_s = 5", "notify_max_members = 0"), "notify_max_members"),
        (("notify_delay_s = 5", "delay = 5"), "delay"),
        (("https://backend", "http://backend"), "url"),
        (("mailto:ops@example.com", "ops@example.com"), "subject"),
        (("[fcm]", "[gcm]"), "gcm"),
        (('"vapid.pem"', '"secret"'), "key_file"),
        (('"account.json"', '"secret"'), "account_file"),
        (('"account.json"', '"missing"'), "account_file"),
        (('"key.p8"', '"secret"'), "key_file"),
        (('key_id = "K"\n', ""), "key_id"),
    ],
)
def test_a_wrong_file_stops_the_start(file: Path, broken: tuple[str, str], named: str) -> None:
    file.write_text(FILE.replace(*broken))
    with pytest.raises(ConfigError, match=named) as error:
        ways_of(load_options(file), ())
    assert SECRET not in str(error.value)
