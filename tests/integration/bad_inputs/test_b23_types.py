"""B23: members of a wrong type or out of range."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.integration.bad_inputs.site import (
    Site,
    command,
    is_closed,
    is_refused,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

# B23: types and ranges. Everything else in each request would be served.

STRING = ["1", "true", "[]", "{}"]
BOOLEAN = ["1", "0", '"true"', "[]"]
OBJECT = ["1", '"x"', "true", "[]"]
INTEGER = ['"1"', "true", "1.5", "1.0", "1e2", "[]", "{}", "1e999", "9" * 5_000]
U64 = [*INTEGER, "-1", str(2**64)]
I32 = [*INTEGER, str(2**31), str(-(2**31) - 1)]
I64 = [*INTEGER, str(2**63), str(-(2**63) - 1)]
BODIES: dict[str, dict[str, str]] = {
    "subscribe": {"channel": '"chat:elsewhere"'},
    "unsubscribe": {"channel": '"chat:bad"'},
    "publish": {"channel": '"chat:bad"', "data": '"heard"'},
    "presence": {"channel": '"chat:bad"'},
    "presence_stats": {"channel": '"chat:bad"'},
    "history": {"channel": '"chat:bad"', "limit": "1"},
    "rpc": {"method": '"x"'},
    "sub_refresh": {"channel": '"chat:bad"', "token": '"x"'},
    "refresh": {"token": '"TOKEN"'},
    "connect": {"token": '"TOKEN"'},
}
MEMBERS: dict[str, tuple[str, str, list[str]]] = {
    **{f"{name}-channel": (name, "channel", STRING) for name, body in BODIES.items() if "channel" in body},
    **{f"{name}-token": (name, "token", STRING) for name in ("connect", "subscribe", "refresh", "sub_refresh")},
    **{f"subscribe-{member}": ("subscribe", member, STRING) for member in ("epoch", "delta", "cursor")},
    **{
        f"subscribe-{member}": ("subscribe", member, BOOLEAN)
        for member in ("recover", "positioned", "recoverable", "join_leave", "asc")
    },
    "subscribe-offset": ("subscribe", "offset", U64),
    "subscribe-flag": ("subscribe", "flag", I64),
    "subscribe-type": ("subscribe", "type", I32),
    "subscribe-tf": ("subscribe", "tf", OBJECT),
    "publish-idempotency-key": ("publish", "idempotency_key", STRING),
    "publish-exclude-self": ("publish", "exclude_self", BOOLEAN),
    "publish-type": ("publish", "type", I32),
    "history-limit": ("history", "limit", I32),
    "history-reverse": ("history", "reverse", BOOLEAN),
    "history-since": ("history", "since", OBJECT),
    "history-since-offset": ("history", "since", [f'{{"offset":{value}}}' for value in U64]),
    "history-since-epoch": ("history", "since", [f'{{"epoch":{value}}}' for value in STRING]),
    "rpc-method": ("rpc", "method", STRING),
    **{f"connect-{member}": ("connect", member, STRING) for member in ("name", "version")},
    "connect-subs": ("connect", "subs", OBJECT),
    "connect-subs-position": ("connect", "subs", [f'{{"chat:bad":{{"offset":{value}}}}}' for value in U64]),
    "connect-headers": ("connect", "headers", [*OBJECT, '{"a":1}']),
    "connect-flag": ("connect", "flag", I64),
}


@pytest.mark.parametrize(("name", "member", "values"), MEMBERS.values(), ids=[f"B23-{name}" for name in MEMBERS])
async def test_a_member_of_a_wrong_type_or_out_of_range_closes_3501(
    site: Site, name: str, member: str, values: list[str]
) -> None:
    for number, value in enumerate(values):
        body = ",".join(f'"{key}":{text}' for key, text in (BODIES[name] | {member: value}).items())
        frame = command(name, "{" + body.replace("TOKEN", site.stack.token("mallory")) + "}")
        await is_closed(site, frame, connect=name != "connect", edge=number % 2)


@pytest.mark.parametrize("name", [*BODIES, "send"], ids=lambda name: f"B23-{name}")
async def test_a_request_that_is_no_object_closes_3501(site: Site, name: str) -> None:
    for number, value in enumerate(OBJECT):
        await is_closed(site, command(name, value), connect=name != "connect", edge=number % 2)


async def test_B23_values_at_the_end_of_their_range_are_taken(site: Site) -> None:
    async with site.client(0, "mallory", "chat:bad") as client:
        for body in (
            {"offset": 2**64 - 1, "flag": 2**63 - 1, "recover": True, "epoch": "another"},
            {"offset": 0, "flag": -(2**63), "recover": True, "epoch": "another"},
        ):
            reply = await client.reply(await client.post(subscribe={"channel": "chat:ends", **body}))
            assert reply.get("error", {"code": 112})["code"] == 112
        for limit in (2**31 - 1, -(2**31)):
            assert (await client.call(history={"channel": "chat:bad", "limit": limit}))["publications"]
        assert (await client.error(publish={"channel": "chat:bad", "data": 1, "type": 2**31 - 1}))["code"] == 108


# In JSON 1.0 is an integer; the HTTP API takes it as one.
HTTP_INTEGER = [value for value in INTEGER if value not in ("1.0", "1e2")]
HTTP_U64 = [*HTTP_INTEGER, "-1", "-1.0", str(2**64)]
NULLABLE = {"tags": ["1", "[]", '{"a":1}', '{"a":null}'], "idempotency_key": STRING}
HTTP_MEMBERS: dict[str, tuple[str, dict[str, str], dict[str, list[str]]]] = {
    "publish": ("publish", {"channel": '"chat:bad"', "data": "1"}, {"channel": STRING, **NULLABLE}),
    "broadcast": (
        "broadcast",
        {"channels": '["chat:bad"]', "data": "1"},
        {"channels": ["1", '"x"', "[1]"], **NULLABLE},
    ),
    "subscribe": (
        "subscribe",
        {"user": '"bystander"', "channel": '"chat:elsewhere"'},
        {
            "user": STRING,
            "channel": STRING,
            "client": STRING,
            "expire_at": ['"1"', "true", "[]", "1e999", "-1e999", "9" * 5_000],
            "recover_since": [*OBJECT, *(f'{{"offset":{value}}}' for value in HTTP_U64), '{"epoch":1}'],
            "override": [*OBJECT, '{"presence":true}', '{"presence":{"value":1}}', '{"nope":{"value":true}}'],
        },
    ),
    "unsubscribe": (
        "unsubscribe",
        {"user": '"bystander"', "channel": '"chat:bad"'},
        {"user": STRING, "client": STRING},
    ),
    "disconnect": (
        "disconnect",
        {"user": '"bystander"'},
        {
            "user": STRING,
            "whitelist": ["1", '"x"', "[1]"],
            "disconnect": [*OBJECT, *(f'{{"code":{value}}}' for value in (*HTTP_INTEGER, "-1", str(2**64)))],
        },
    ),
    "refresh": (
        "refresh",
        {"user": '"bystander"'},
        {"expired": BOOLEAN, "expire_at": ['"1"', "true", "[]", "1e999", "-1e999", "9" * 5_000]},
    ),
    "history": (
        "history",
        {"channel": '"chat:bad"', "limit": "1"},
        {
            "limit": HTTP_INTEGER,
            "reverse": BOOLEAN,
            "since": [*OBJECT, *(f'{{"offset":{value}}}' for value in HTTP_U64)],
        },
    ),
    "presence": ("presence", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "presence-stats": ("presence_stats", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "history-remove": ("history_remove", {"channel": '"chat:bad"'}, {"channel": STRING}),
    "channels": ("channels", {}, {"pattern": STRING}),
    "batch": ("batch", {"commands": "[]"}, {"commands": ["1", '"x"', "{}", "[1]"], "parallel": BOOLEAN}),
}


@pytest.mark.parametrize(
    ("method", "sound", "wrong"), HTTP_MEMBERS.values(), ids=[f"B23-http-{name}" for name in HTTP_MEMBERS]
)
async def test_a_member_of_a_wrong_type_or_out_of_range_is_refused(
    site: Site, method: str, sound: dict[str, str], wrong: Mapping[str, list[str]]
) -> None:
    for member, values in wrong.items():
        for number, value in enumerate(values):
            body = "{" + ",".join(f'"{key}":{text}' for key, text in (sound | {member: value}).items()) + "}"
            is_refused(await site.apis[number % 2].raw(method, body))
