"""Methods on devices, on both stores: which are taken, and what erasing does."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.persistence.chat.devices.device import WEB_PUSH_HOSTS, Device, sign_in, why_no_endpoint
from services.shared.errors import ErrorCode
from tests.support.chat_calls import NAMESPACE, CallRefused, Site
from thalamus.chat.v1 import chat_pb2 as pb
from thalamus.common.v1.common_pb2 import ClientInfo

_PUBLIC = ec.generate_private_key(ec.SECP256R1()).public_key()
_POINT = _PUBLIC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
KEYS = {"p256dh": base64.urlsafe_b64encode(_POINT).decode(), "auth": base64.urlsafe_b64encode(b"a" * 16).decode()}
ENDPOINT = "https://push.example.com/send/abc"


async def test_devices_are_set_listed_and_removed(site: Site) -> None:
    a, b = site.replicas
    assert await a.call("ann", "devices.set", id="phone", platform="fcm", token="t" * 20 + "wxyz") == {
        "id": "phone",
        "applied": True,
    }
    await b.call("ann", "devices.set", id="laptop", platform="webpush", endpoint=ENDPOINT, keys=KEYS)
    phone, laptop = (await a.call("ann", "devices.list"))["devices"]
    assert (phone["id"], phone["platform"], phone["address"]) == ("phone", "fcm", "…wxyz")
    assert (laptop["id"], laptop["address"]) == ("laptop", "push.example.com")
    assert (await b.call("bob", "devices.list")) == {"devices": []}
    assert await b.call("ann", "devices.remove", id="phone") == {"id": "phone", "applied": True}
    assert (await b.call("ann", "devices.remove", id="phone"))["why"] == "unchanged"
    assert [one["id"] for one in (await a.call("ann", "devices.list"))["devices"]] == ["laptop"]
    for method, params in [("devices.list", {}), ("devices.remove", {"id": "laptop"})]:
        with pytest.raises(CallRefused, match="107"):
            await a.call("", method, **params)


async def test_devices_are_exported_and_erased(site: Site) -> None:
    a, _ = site.replicas
    await a.call("ann", "devices.set", id="phone", platform="apns", token="ab" * 32)
    exported = await a.call("ann", "me.export")
    assert [one["id"] for one in exported["devices"]] == ["phone"]
    assert "ab" * 32 not in str(exported)
    await a.call("ann", "me.erase")
    assert (await a.call("ann", "devices.list")) == {"devices": []}


@pytest.mark.parametrize(
    ("method", "params"),
    [("devices.forget", b'{"user":"ann"}'), ("devices.forget_sessions", b'{"user":"ann","sessions":["s1"]}')],
)
async def test_devices_of_who_is_refused_are_removed_by_the_platform_alone(
    site: Site, method: str, params: bytes
) -> None:
    a, b = site.replicas
    for user in ("ann", "bob"):
        await a.call(user, "devices.set", id="phone", platform="apns", token=user.encode().hex() * 8, sid="s1")
    request = pb.CallRequest(method=method, params=params)
    for told in ({"info": ClientInfo(user="ann")}, {"namespace": NAMESPACE}):
        asked = pb.CallRequest(method=request.method, params=request.params, **told)
        assert (await b.methods.call(asked)).refusal.code == ErrorCode.METHOD_NOT_FOUND
    assert len((await a.call("ann", "devices.list"))["devices"]) == 1
    assert not (await b.methods.call(request)).HasField("refusal")
    assert [len((await a.call(user, "devices.list"))["devices"]) for user in ("ann", "bob")] == [0, 1]


async def test_a_sign_in_is_found_without_its_user_while_a_device_was_set_in_it(site: Site) -> None:
    a, b = site.replicas
    for user, name, sid in [("ann", "phone", "s1"), ("ann", "tablet", "s2"), ("bob", "laptop", "s3")]:
        await a.call(user, "devices.set", id=name, platform="fcm", token=f"token-of-{name}", sid=sid)

    async def left() -> list[list[str]]:
        return [
            [one["id"] for one in (await a.call(user, "devices.list"))["devices"]] for user in ("ann", "bob", "eve")
        ]

    params = b'{"user":"","sessions":["s1","s3","s9"]}'
    assert not (await b.methods.call(pb.CallRequest(method="devices.forget_sessions", params=params))).HasField(
        "refusal"
    )
    assert await left() == [["tablet"], [], []]
    await a.call("ann", "devices.remove", id="tablet")
    await a.call("eve", "devices.set", id="tablet", platform="fcm", token="token-of-tablet", sid="s2")
    await b.chat.devices.forget_sessions("", ["s1", "s3"])
    assert await left() == [[], [], ["tablet"]]
    await b.chat.devices.forget_sessions("", ["s2"])
    assert await left() == [[], [], []]


async def test_a_device_that_is_set_while_the_last_one_of_its_sign_in_goes_is_found(site: Site) -> None:
    a, b = site.replicas
    await a.chat.devices.set("ann", Device(id="old", platform="fcm", set_ms=1, token="old", session=sign_in("s1")))
    store, new = a.store.devices, Device(id="new", platform="fcm", set_ms=2, token="new", session=sign_in("s1"))
    disown = store.disown

    async def late(address: str, user: str) -> None:
        if address.startswith("session:"):
            await b.chat.devices.set("ann", new)
        await disown(address, user)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(store, "disown", late)
        await a.chat.devices.remove("ann", "old")
    await b.chat.devices.forget_sessions("", ["s1"])
    assert (await a.call("ann", "devices.list")) == {"devices": []}


async def test_only_devices_of_sign_ins_that_ended_are_forgotten(site: Site) -> None:
    a, b = site.replicas
    devices = a.chat.devices
    old = Device(id="old", platform="fcm", set_ms=1, token="of-a-version-before")
    await devices.set("ann", old)
    for name, sid in [("phone", "s1"), ("tablet", "s2"), ("laptop", "s3"), ("watch", ""), ("again", "s1")]:
        await a.call("ann", "devices.set", id=name, platform="fcm", token=f"token-of-{name}", sid=sid)
    await b.call("ann", "devices.set", id="again", platform="fcm", token="token-of-again", sid="s4")

    async def left() -> list[str]:
        return [one["id"] for one in (await b.call("ann", "devices.list"))["devices"]]

    kept = await devices.of(["ann"])
    assert "s1" not in str(kept), "what is kept of a sign-in is a digest"
    await devices.forget_sessions("bob", ["s1", "s2"])
    await devices.forget_sessions("ann", ["", "s5"])
    assert await left() == ["old", "phone", "tablet", "laptop", "watch", "again"]
    await devices.forget_sessions("ann", ["s1", "s2"])
    assert await left() == ["old", "laptop", "watch", "again"]
    (found,) = [one for one in (await devices.of(["ann"]))["ann"] if one.id == "old"]
    assert found == old


@pytest.mark.parametrize(
    "params",
    [
        {"platform": "webpush", "token": "t"},
        {"platform": "webpush", "endpoint": ENDPOINT},
        {"platform": "fcm", "endpoint": ENDPOINT, "keys": KEYS},
        {"platform": "fcm"},
        {"platform": "fcm", "token": "t", "keys": KEYS},
        {"platform": "apns", "token": "../../secrets"},
        {"platform": "apns", "token": "ab\n"},
        {"platform": "sms", "token": "t"},
        {"platform": "webpush", "endpoint": ENDPOINT, "keys": {**KEYS, "p256dh": KEYS["p256dh"][:-8] + "AAAAAAAA"}},
        {"platform": "webpush", "endpoint": ENDPOINT, "keys": {**KEYS, "p256dh": "é"}},
        {"platform": "webpush", "endpoint": ENDPOINT, "keys": {**KEYS, "auth": KEYS["auth"][4:]}},
        {"platform": "webpush", "endpoint": "http://push.example.com/x", "keys": KEYS},
        {"platform": "webpush", "endpoint": "https://169.254.169.254/latest", "keys": KEYS},
    ],
)
async def test_a_device_that_can_not_be_reached_is_refused(site: Site, params: dict[str, Any]) -> None:
    with pytest.raises(CallRefused, match="107 malformed"):
        await site.replicas[0].call("ann", "devices.set", id="d", **params)
    assert (await site.replicas[0].call("ann", "devices.list")) == {"devices": []}


ALLOWED = [
    "https://fcm.googleapis.com/fcm/send/abc",
    "https://FCM.googleapis.com:443/x",
    "https://jmt17.google.com/fcm/send/abc",
    "https://updates.push.services.mozilla.com/wpush/v2/x",
    "https://web.push.apple.com/x",
    "https://wns2-par02p.notify.windows.com/w/?token=x",
    "https://localhost:8443/x",
]
REFUSED = [
    "http://fcm.googleapis.com/x",
    "https://fcm.googleapis.com:8443/x",
    "https://fcm.googleapis.com.example.org/x",
    "https://evilfcm.googleapis.com.org/x",
    "https://notfcm-googleapis.com/x",
    "https://xnotify.windows.com/x",
    "https://user@fcm.googleapis.com/x",
    "https://fcm.googleapis.com@127.0.0.1/x",
    "https://127.0.0.1\\@fcm.googleapis.com/x",
    "https://127.0.0.1#.push.apple.com",
    "https://127.0.0.1/?.push.apple.com",
    "https://[::1]/x",
    "https://127.0.0.1/x",
    "https://169.254.169.254/latest/meta-data",
    "https://localhost/x",
    "https://localhost:8444/x",
    "https://a.localhost:8443/x",
    "https://fcm.googleapis.com:x/",
    "https:///x",
    "file:///etc/passwd",
    "//fcm.googleapis.com/x",
    "https://fcm.googleapis.com\n.example.org/x",
    "https://fcm。googleapis.com/x",
    "",
]


@pytest.mark.parametrize(("urls", "expected"), [(ALLOWED, True), (REFUSED, False)])
def test_c63_only_addresses_of_push_services_are_allowed(urls: list[str], expected: bool) -> None:
    why: Callable[[str], str] = lambda url: why_no_endpoint(url, (*WEB_PUSH_HOSTS, "localhost:8443"))  # noqa: E731
    assert {url: why(url) for url in urls if (why(url) == "") is not expected} == {}
