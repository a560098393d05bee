"""The console page: its logic in Node, and two users in headless Chromium.

Screenshots go to build/screenshots.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack

_HERE = Path(__file__).parent
_SHOTS = _HERE.parents[1] / "build" / "screenshots"
_VENDOR = _HERE.parents[1] / "web" / "static" / "vendor"
_SDK_TESTS = _HERE.parent / "integration" / "sdk" / "package.json"


def _missing(what: str) -> None:
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what}, and REQUIRE_ALL=1")
    pytest.skip(what)


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if not found:
        _missing("node is not installed")
    return str(found)


@pytest.fixture(scope="session")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if not found:
        _missing("Chromium is not installed")
    return str(found)


@pytest.fixture(scope="session")
def playwright() -> None:
    npm = shutil.which("npm")
    if not npm:
        _missing("npm is not installed")
    if not (_HERE / "node_modules" / "playwright-core").is_dir():
        subprocess.run([str(npm), "ci", "--silent"], cwd=_HERE, check=True, timeout=300)


def test_the_sdk_of_the_page_is_as_npm_has_it_and_the_one_that_is_tested() -> None:
    lines = (_VENDOR / "SHA256SUMS").read_text().splitlines()
    sums = {name: checksum for checksum, name in (line.split() for line in lines)}
    files = {path.name: path for path in _VENDOR.iterdir() if path.name != "SHA256SUMS"}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == sums
    version = (_VENDOR / "centrifuge.version").read_text().strip()
    assert json.loads(_SDK_TESTS.read_text())["dependencies"]["centrifuge"] == version
    assert "MIT" in (_VENDOR / "centrifuge.LICENSE").read_text()


def test_the_logic_of_the_page_without_a_browser(node: str) -> None:
    tests = sorted(str(path) for path in (_HERE / "unit").glob("*.test.mjs"))
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
def test_two_tabs_chat_see_one_another_and_recover(node: str, chromium: str, stack: Stack, tmp_path: Path) -> None:
    _SHOTS.mkdir(parents=True, exist_ok=True)
    command = [node, str(_HERE / "console.mjs"), stack.http_urls[0], str(_SHOTS), str(tmp_path / "profile"), chromium]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
def test_two_phones_and_a_laptop_of_one_user_and_what_another_sees(
    node: str, chromium: str, stack: Stack, tmp_path: Path
) -> None:
    """Inbox, unread, mentions, who has read, who types, edits and deletes."""
    _SHOTS.mkdir(parents=True, exist_ok=True)
    command = [node, str(_HERE / "inbox.mjs"), stack.http_urls[0], stack.api_key, str(_SHOTS)]
    command += [str(tmp_path / "profile"), chromium]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
def test_a_reload_is_not_seen_and_a_closed_tab_has_soon_left(
    node: str, chromium: str, stack: Stack, tmp_path: Path
) -> None:
    command = [node, str(_HERE / "leaving.mjs"), stack.http_urls[0], str(tmp_path / "profile"), chromium]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
def test_the_console_at_its_limits(node: str, chromium: str, tmp_path: Path) -> None:
    """Too long a text, a refused room, a wrong token, many messages, a small screen."""
    _SHOTS.mkdir(parents=True, exist_ok=True)
    with Stack(edges=1, environment={"EDGE_MAX_MESSAGE_BYTES": "8192"}) as stack:
        command = [node, str(_HERE / "limits.mjs"), stack.http_urls[0], str(_SHOTS), str(tmp_path / "p"), chromium]
        done = subprocess.run([*command, stack.api_key], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
@pytest.mark.parametrize("who", ["invite", "closed"])
def test_the_sign_in_form_offers_what_registration_allows(node: str, chromium: str, tmp_path: Path, who: str) -> None:
    with Stack(edges=1, environment={"AUTH_REGISTRATION": who}) as stack:
        url = stack.http_urls[0]
        assert httpx.get(f"{url}/auth/registration").json() == {"result": {"registration": who}}
        made = httpx.post(f"{url}/api/invites_create", json={}, headers={"X-API-Key": stack.api_key}).json()
        code = made["result"]["code"] if who == "invite" else ""
        command = [node, str(_HERE / "registration.mjs"), url, who, code, str(tmp_path / "p"), chromium]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("playwright")
@pytest.mark.slow
@pytest.mark.parametrize("search", ["on", "off"])
def test_messages_are_searched_where_search_is_on(node: str, chromium: str, tmp_path: Path, search: str) -> None:
    _SHOTS.mkdir(parents=True, exist_ok=True)
    with Stack(edges=1, environment={"PERSISTENCE_SEARCH": search}) as stack:
        command = [node, str(_HERE / "search.mjs"), stack.http_urls[0], search, str(_SHOTS), str(tmp_path / "p")]
        done = subprocess.run([*command, chromium], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
