"""Names in Redis: as ever by default, apart from others' with a prefix."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.shared.hotlog import keys
from services.shared.process.config import ConfigError

# What stands in the Redis of every deployment: edges of before and after an update share it.
DEFAULT = {
    "control": "t:control",
    "control_log": "t:orders",
    "incarnation": "t:life",
    "heartbeat": "t:beacon",
    "store": "t:store",
    "dirty": "t:dirty",
}


def test_by_default_names_are_those_that_stand_in_redis_already() -> None:
    assert {name: getattr(keys, name)() for name in DEFAULT} == DEFAULT
    assert keys.log("chat:1") == "t:{chat:1}:log"
    assert keys.meta("chat:1") == "t:{chat:1}:meta"
    assert keys.pub("chat:1") == "t:{chat:1}:pub"
    assert keys.key("chat:1", "ann", "k") == "t:{chat:1}:key:3:ann:k"
    assert keys.name("presence:due") == "t:presence:due"
    assert keys.channel_of(b"t:{chat:1}:pub") == "chat:1"


def test_with_a_prefix_every_name_begins_with_it() -> None:
    program = (
        "from services.shared.hotlog import keys\n"
        "keys.use_prefix('staging.2')\n"
        f"names = [getattr(keys, name)() for name in {sorted(DEFAULT)!r}]\n"
        "names += [keys.log('c'), keys.meta('c'), keys.pub('c'), keys.key('c', 'u', 'k'), keys.name('x')]\n"
        "assert all(name.startswith('staging.2:') for name in names), names\n"
        "assert keys.channel_of(keys.pub('chat:é').encode()) == 'chat:é'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("prefix", ["", "a:b", "t:", "a*", "a{b", "a b", "é", "a" * 33, "a\n"])
def test_what_could_be_taken_for_something_else_is_refused_by_name(prefix: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_PREFIX"):
        keys.use_prefix(prefix)
    assert keys.control() == "t:control"
