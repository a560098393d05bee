"""docs/chat.md: its tables are those of the code, and what it prints is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

from services.persistence.chat.domain import events
from services.persistence.chat.domain.names import direct_channel
from services.persistence.chat.domain.rights import DEFAULTS, Role
from services.persistence.chat.domain.rules import MAX_REACTION_NAMES, Why
from services.persistence.chat.domain.settings import Settings
from tests.chat.vector_files import files

PAGE = (Path(__file__).parents[2] / "docs" / "chat.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """What is in backquotes in the cells of the tables of a text."""
    lines = [line for line in text.splitlines() if line.startswith("| `") and line != "| `why` | |"]
    found = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[" ".join(re.findall(r"`([^`]+)`", cell)) for cell in row] for row in found]


def members(cell: str) -> set[str]:
    """Names in a cell, without the values in brackets."""
    return set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cell)))


def test_the_table_of_kinds_has_each_with_its_members() -> None:
    text = section("Events")
    table = dict(re.findall(r"^\| `([\w.…]+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(table) - {"x.…", *get_args(events.MemberOp), "join`, `decline`, `leave", "ban`, `unban"} == events.KINDS
    for kind in get_args(events.Known):
        tag = kind.__struct_config__.tag
        if tag == "edit":
            continue  # it names the content beside `of` and `if_rev`
        known = {name for name in kind.__struct_encode_fields__ if tag == "erased" or name not in ("erased", "next")}
        assert members(table[tag]) == known, tag


def test_every_op_of_members_is_in_the_table() -> None:
    ops = {op for row in rows(section("Events").split("| `op` of `member`")[1]) for op in row[0].split()}
    assert ops == set(get_args(events.MemberOp))


def test_the_tables_of_roles_and_settings_are_those_of_the_code() -> None:
    text = section("Roles and rights")
    roles = {
        name: set(re.findall(r"`(\w+)`", line))
        for name, line in re.findall(r"^\| `(\w+)` \| (`.*) \|$", text, re.MULTILINE)
    }
    assert {role: roles[role] for role in Role} == {
        role: {right.value for right, needed in DEFAULTS.items() if needed is role} for role in Role
    }
    table = {row[0] for row in rows(text)}
    defaults = Settings().as_json()
    assert table == {*Role, *defaults}
    printed = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE))
    for name, value in defaults.items():
        shown = printed[name].replace(",", "")
        assert shown == (value if isinstance(value, str) else json.dumps(value)), name


def test_every_reason_is_in_the_table() -> None:
    named = [why for row in rows(section("Why an event is void")) for why in row[0].split()]
    assert sorted(named) == sorted(Why)


def test_the_printed_channel_number_and_vector_are_true() -> None:
    assert f"`{direct_channel('conv', ['u1', 'u2'])}`" in section("Names")
    assert f"at most {MAX_REACTION_NAMES} different names" in section("The fold")
    (printed,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    folder = Path(__file__).parents[1] / "chat" / "vectors"
    written = [
        vector for name in files() for vector in json.loads((folder / f"{name}.json").read_text()).get("vectors", [])
    ]
    assert json.loads(printed) in written
