"""Each service's user of Redis may use the commands that the service calls.

All of them, and no others. The code is read, not run: so also the ways through it that no test takes. What a service
runs is what is reached from its entry point (`tests/support/reached.py`). A command is called by a script as
`redis.call('HGET', …`, and by Python code as the first of several words, `("HGET", …)`, `[…]` or `run("HGET", …)`, or
as a method of a client of redis-py.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import pytest
import redis

from cli.secrets.files import REDIS_USERS
from services.shared.hotlog.scripts import Script
from tests.deploy.tools import ROOT
from tests.support.reached import Definition, code, reached
from tests.support.redis import RedisServer

TEMPLATE = (ROOT / "deploy" / "redis" / "users.acl.template").read_text()
LETTERS = ("services.persistence.webhooks.letters", "known_endpoints")  # `thalamus webhooks`, `thalamus push`
ENTRIES = {
    "edge": [("services.edge.__main__", "main")],
    "auth": [("services.auth.__main__", "main")],
    "presence": [("services.presence.__main__", "main")],
    "persistence": [("services.persistence.__main__", "main")],
    "webhooks": [("services.persistence.webhooks.process", "run"), LETTERS],
    "notifier": [("services.persistence.notifier.process", "run"), LETTERS],
    "feed": [("services.shared.feed.reader", "FeedReader")],
}
# What only services of the version before call: the users are changed first, while these still run.
OF_BEFORE: Mapping[str, set[str]] = {"edge": {"persist"}, "presence": {"ping"}}
# Commands that consist of two words. A user may have `+xinfo`, or `+xinfo|stream` alone.
OF_TWO_WORDS = frozenset(
    {"acl", "client", "config", "function", "memory", "object", "pubsub", "script", "xgroup", "xinfo"}
)
CLIENT = re.compile(r"(client|redis|pipeline|pubsub)$")  # what variables are called that hold a client of redis-py
CALL = re.compile(rb"redis\.p?call\(\s*'(\w+)'(?:\s*,\s*'(\w+)')?")
# Words that look like commands, by module.
NO_COMMANDS = {
    ("services.shared.redis.pipeline", "readonly"): "an error of Redis",
    ("services.shared.redis.pipeline", "select"): "sent where the database is not 0: no stack's",
    ("services.shared.redis.address", "auth"): "everybody may log in",
    ("services.shared.process.internal_http", "get"): "a method of HTTP",
    ("services.shared.process.logs", "debug"): "a level of logs",
    ("services.edge.domain.session.node", "sync"): "a method of a clock of Redis",
}


@pytest.fixture(scope="module")
def commands(redis_server: RedisServer) -> frozenset[str]:
    """Names of all commands of Redis, in small letters."""
    with redis.Redis(port=redis_server.port) as client:
        names: Sequence[bytes] = client.command_list()
    return frozenset(name.decode().lower() for name in names)


@cache
def code_of(service: str) -> Mapping[Definition, Sequence[ast.AST]]:
    return reached(*ENTRIES[service])


def granted(service: str) -> set[str]:
    (line,) = re.findall(rf"^user {service} .*$", TEMPLATE, re.MULTILINE)
    return {word[1:] for word in line.split() if word.startswith("+")}


def of_scripts(service: str) -> Iterator[tuple[str, str]]:
    """The commands that the service's scripts call, each with the script's definition."""
    for module, name in code_of(service):
        script = getattr(importlib.import_module(module), name, None) if name else None
        if isinstance(script, Script):
            for words in CALL.findall(script.text):
                yield command(*(word.decode() for word in words)), f"{module}.{name}"


def of_code(service: str, commands: frozenset[str]) -> Iterator[tuple[str, str]]:
    """The commands that the service's Python code sends, each with the module."""
    for (module, _), nodes in code_of(service).items():
        for part in (part for node in nodes for part in code(node)):
            found = set(_said(part))
            if isinstance(part, ast.Call):
                found |= set(_method(part))
            yield from ((one, module) for one in found if one.partition("|")[0] in commands)


def _said(node: ast.AST) -> Iterator[str]:
    """The command of which this may be the words."""
    words = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
    for first in _texts(words[0]) if words else ():
        if first.isupper():
            yield command(first, next(_texts(words[1]), "") if len(words) > 1 else "")


def _texts(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may be: one, or either of two."""
    for one in [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _method(call: ast.Call) -> Iterator[str]:
    """The command that this call of a client's method sends."""
    if isinstance(call.func, ast.Attribute):
        at = call.func.value
        holder = at.id if isinstance(at, ast.Name) else at.attr if isinstance(at, ast.Attribute) else ""
        if CLIENT.search(holder):
            yield command(*call.func.attr.split("_", 1))


def command(first: str, second: str = "") -> str:
    """As users of Redis are granted it: `get`, `xinfo|stream`."""
    name = first.lower()
    return f"{name}|{second.lower()}" if name in OF_TWO_WORDS else name


def needed(service: str, commands: frozenset[str]) -> dict[str, set[str]]:
    """The commands that the service calls, each with where."""
    by_scripts = list(of_scripts(service))
    found: dict[str, set[str]] = {}
    for name, where in (*by_scripts, *of_code(service, commands)):
        if (where, name) not in NO_COMMANDS and (by_scripts or where != "services.shared.hotlog.scripts"):
            found.setdefault(name, set()).add(where)
    return found


def allows(rights: set[str], name: str) -> bool:
    return name in rights or name.partition("|")[0] in rights


@pytest.mark.parametrize("service", REDIS_USERS)
def test_a_service_may_use_every_command_that_it_calls(service: str, commands: frozenset[str]) -> None:
    wanted = needed(service, commands)
    assert wanted
    assert {name: where for name, where in wanted.items() if not allows(granted(service), name)} == {}


@pytest.mark.parametrize("service", REDIS_USERS)
def test_a_service_may_use_no_more(service: str, commands: frozenset[str]) -> None:
    """And the code is read well: what is overlooked in it would be left here."""
    wanted = needed(service, commands)
    unused = {right for right in granted(service) if not any(allows({right}, name) for name in wanted)}
    assert unused == OF_BEFORE.get(service, set())


def test_every_script_is_somebody_s(commands: frozenset[str]) -> None:
    """No file of Lua is overlooked."""
    texts = [
        script.text
        for service in REDIS_USERS
        for module, name in code_of(service)
        if name and isinstance(script := getattr(importlib.import_module(module), name, None), Script)
    ]
    files = sorted((ROOT / "services").rglob("*.lua"))
    assert len(files) > 50
    assert [str(file.relative_to(ROOT)) for file in files if not any(file.read_bytes() in text for text in texts)] == []


def test_what_only_looks_like_a_command_is_still_there(commands: frozenset[str]) -> None:
    found = {(module, name) for service in REDIS_USERS for name, module in of_code(service, commands)}
    assert found >= NO_COMMANDS.keys()
