"""The file of endpoints: what it may say, and that every wrong entry is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.bundled import ROOT
from services.persistence.webhooks.endpoints import DEFAULT_TYPES, Endpoint, load_endpoints
from services.shared.feed.events import EventType
from services.shared.process.config import ConfigError
from services.shared.webhook_signing import Signer
from tests.support.webhooks import SECRET

GOOD = 'url = "https://there.example/hook"\nsecret_files = ["secret"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET + "\n")
    return tmp_path


def load(folder: Path, text: str) -> tuple[Endpoint, ...]:
    path = folder / "webhooks.toml"
    path.write_text(text)
    return load_endpoints(path)


def test_the_shipped_file_names_no_endpoint() -> None:
    assert load_endpoints(ROOT / "config" / "webhooks.toml") == ()


def test_the_example_of_the_shipped_file_is_taken_once_its_secrets_are_there(folder: Path) -> None:
    shipped = (ROOT / "config" / "webhooks.toml").read_text()
    example = shipped[shipped.index("# [endpoints.crm]") :].replace("# ", "").replace("/run/secrets/", "")
    for name in ("webhook_secret", "webhook_secret_also"):
        (folder / name).write_text(SECRET)
    (endpoint,) = load(folder, example)
    assert endpoint.events == {EventType.CONNECT, EventType.DISCONNECT}


def test_an_endpoint_has_defaults_and_finds_its_secrets_beside_the_file(folder: Path) -> None:
    (endpoint,) = load(folder, f"[endpoints.crm]\n{GOOD}")
    assert endpoint == Endpoint(name="crm", url="https://there.example/hook", secret_files=(folder / "secret",))
    assert endpoint.events == DEFAULT_TYPES == set(EventType) - {EventType.GAP, EventType.PUBLICATION}
    assert (endpoint.timeout_s, endpoint.tries, endpoint.concurrency) == (10.0, 10, 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[endpoint.crm]", "unknown table 'endpoint'; known: endpoints.<name>"),
        ("endpoints = 1", "[endpoints]: must be a table, not 1"),
        ("[endpoints]\ncrm = 1", "[endpoints.crm]: must be a table, not 1"),
        (f'[endpoints."C R M"]\n{GOOD}', "[endpoints.C R M]: a name is 1 to 32 of a-z 0-9 - _"),
        (f"[endpoints.crm]\n{GOOD}timeout = 1", "[endpoints.crm] timeout: unknown option; known: channels, "),
        ('[endpoints.crm]\nsecret_files = ["secret"]', "[endpoints.crm] url: must be set"),
        ('[endpoints.crm]\nurl = "https://x"', "[endpoints.crm] secret_files: must be set"),
        ('[endpoints.crm]\nurl = "http://x.example"\nsecret_files = ["secret"]', "plain_http = true allows it"),
        ('[endpoints.crm]\nurl = "ftp://x"\nsecret_files = ["secret"]', "url: must begin with https://"),
        ('[endpoints.crm]\nurl = "https://u:p@x"\nsecret_files = ["secret"]', "url: must have no user, password"),
        ("[endpoints.crm]\nurl = 1\nsecret_files = [1]", "url: must be a string, not 1"),
        ('[endpoints.crm]\nurl = "https://x"\nsecret_files = ["none"]', "secret_files: can't read"),
        (f"[endpoints.crm]\n{GOOD}timeout_s = 0", "timeout_s: must be 0.1 to 60, not 0"),
        (f"[endpoints.crm]\n{GOOD}tries = 1.5", "tries: must be a whole number, not 1.5"),
        (f"[endpoints.crm]\n{GOOD}tries = true", "tries: must be a whole number, not True"),
        (f"[endpoints.crm]\n{GOOD}max_dead = 0", "max_dead: must be 1 to 100,000, not 0"),
        (f"[endpoints.crm]\n{GOOD}plain_http = 1", "plain_http: must be true or false, not 1"),
        (f"[endpoints.crm]\n{GOOD}channels = []", 'channels: must be a list such as ["room:*"], not []'),
        (f'[endpoints.crm]\n{GOOD}events = ["gap"]', "events: must be some of connect, disconnect, join, "),
        ("x", "not TOML"),
    ],
)
def test_a_wrong_entry_is_named(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(folder, text)
    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_wrong_entries_are_named_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(folder, f"[endpoints.a]\n{GOOD}tries = 0\ntimeout_s = 99\n[endpoints.b]\nurl = 1\n[other]")
    for part in (
        "[endpoints.a] tries",
        "[endpoints.a] timeout_s",
        "[endpoints.b] url",
        "[endpoints.b] secret",
        "'other'",
    ):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_c2hvcnQ=", "c2VjcmV0" * 8, "whsec_" + "é" * 20, "whsec_%%%%", "whsec_" + "YWFh" * 30],
)
def test_a_file_without_a_secret_that_signs_is_refused_and_not_shown(folder: Path, secret: str) -> None:
    (folder / "secret").write_text(secret)
    with pytest.raises(ConfigError, match="secret_files: ") as refused:
        load(folder, f"[endpoints.crm]\n{GOOD}")
    assert len(secret) < 8 or secret not in str(refused.value)


def test_a_secret_that_is_given_twice_signs_once() -> None:
    assert Signer([SECRET, SECRET]).headers("m", 1, "{}")["webhook-signature"].count("v1,") == 1
