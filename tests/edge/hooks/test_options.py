"""The file of hooks: what is wrong in it stops the start, and is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.edge.adapters.hooks.load import make_hooks
from services.edge.domain.hooks.options import Fail, HookOptions, Scope, is_open_to_others, load_hooks
from services.shared.process.config import ConfigError
from tests.edge.hooks.conftest import CHAT
from tests.support.edge import Cluster
from tests.support.hook_backend import SECRET, hooks_of

ROOT = Path(__file__).parents[3]
NAMESPACES = Cluster(chat=CHAT, plain=CHAT).namespaces
URL = 'url = "https://a.example/x"\nsecret_files = ["s"]\n'
PUBLISH = f'events = ["publish"]\nnamespaces = ["chat"]\n{URL}'


def load(folder: Path, text: str) -> list[HookOptions]:
    path = folder / "hooks.toml"
    path.write_text(text)
    return load_hooks(path, NAMESPACES)


def test_the_shipped_file_has_no_hooks_and_explains_every_option() -> None:
    shipped = ROOT / "config" / "hooks.toml"
    assert load_hooks(shipped, NAMESPACES) == []
    text, page = shipped.read_text(), (ROOT / "docs" / "hooks.md").read_text()
    for option in set(HookOptions.__slots__) - {"name"}:
        assert f"# {option} = " in text, option
        assert f"`{option}`" in page, option


def test_a_whole_hook_is_read(tmp_path: Path) -> None:
    (found,) = load(
        tmp_path,
        f"""[hooks.game]
        events = ["rpc"]
        methods = ["game.*", "chess"]
        scope = "cluster"
        channels = ["game:*"]
        fail = "open"
        timeout_s = 0.5
        {URL}""",
    )
    assert (found.name, found.scope, found.fail, found.timeout_s) == ("game", Scope.CLUSTER, Fail.OPEN, 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "unknown table 'x'"),
        ("[hooks.a b]", "not TOML"),
        ("[hooks.'a b']\n" + PUBLISH, "[hooks.a b]: a name"),
        ("[hooks.a]\n" + PUBLISH + "retries = 3", "[hooks.a] retries: unknown option"),
        ("[hooks.a]\n" + URL, "[hooks.a] events: must list"),
        ("[hooks.a]\nevents = ['ping']\n" + URL, "[hooks.a] events: must be of connect"),
        ("[hooks.a]\nevents = 'publish'\n" + URL, "[hooks.a] events: must be a list"),
        ("[hooks.a]\nevents = ['publish']\n" + URL, "[hooks.a] namespaces: must list"),
        ("[hooks.a]\nevents = ['publish']\nnamespaces = ['chta']\n" + URL, "no namespace 'chta'"),
        ("[hooks.a]\nevents = ['rpc']\n" + URL, "[hooks.a] methods: must list"),
        ("[hooks.a]\nevents = ['rpc']\nmethods = ['a*b']\n" + URL, "[hooks.a] methods: `*` stands"),
        ("[hooks.a]\nevents = ['rpc']\nmethods = ['presence.x']\n" + URL, "are the server's own"),
        ("[hooks.a]\nevents = ['rpc']\nmethods = ['a']\nscope = 'node'\n" + URL, "[hooks.a] channels: goes with"),
        ("[hooks.a]\nevents = ['rpc']\nmethods = ['a']\nchannels = ['a']\n" + URL, "[hooks.a] channels: goes with"),
        ("[hooks.a]\nevents = ['rpc']\nmethods = ['a']\nscope = 'all'\n" + URL, "[hooks.a] scope: must be one of"),
        ("[hooks.a]\nevents = ['connect']\nnamespaces = ['chat']\n" + URL, "namespaces: has no effect without"),
        ("[hooks.a]\nevents = ['publish']\nnamespaces = ['chat']", "must have one of url, grpc, extension"),
        ("[hooks.a]\n" + PUBLISH + "grpc = 'a:1'", "must have one of url, grpc, extension"),
        ("[hooks.a]\n" + PUBLISH + "tls = true", "[hooks.a] tls: has no effect without grpc"),
        ("[hooks.a]\n" + PUBLISH + "timeout_s = 9", "[hooks.a] timeout_s: must be 0.05 to 4"),
        ("[hooks.a]\n" + PUBLISH + "concurrency = 1.5", "[hooks.a] concurrency: must be a whole number"),
        ("[hooks.a]\n" + PUBLISH + "fail = 'maybe'", "[hooks.a] fail: must be one of open, closed"),
        ("[hooks.a]\n" + PUBLISH + "sign_in = true", "[hooks.a] sign_in: has no effect without the event connect"),
        (
            "[hooks.a]\nevents = ['connect']\nsign_in = true\nfail = 'open'\n" + URL,
            "[hooks.a] fail: a hook with sign_in",
        ),
        (
            "[hooks.a]\nevents = ['subscribe']\nnamespaces = ['chat']\ngrants = true\nfail = 'open'\n" + URL,
            "[hooks.a] fail: a hook with grants",
        ),
        (
            "[hooks.a]\nevents = ['connect']\ngrpc = 'a:1'\nsecret_files = ['s', 't']",
            "[hooks.a] secret_files: must name one file with grpc",
        ),
        (
            "[hooks.a]\nevents = ['connect']\nurl = 'ftp://a'\nsecret_files = ['s']",
            "[hooks.a] url: must begin with https://",
        ),
        ("[hooks.a]\nevents = ['connect']\nurl = 'https://u:p@a'\nsecret_files = ['s']", "must have no user"),
        ("[hooks.a]\nevents = ['connect']\nurl = 'https://a'", "[hooks.a] secret_files: must name"),
        ("[hooks.a]\nevents = ['connect']\ngrpc = 'a'", "[hooks.a] grpc: must be host:port"),
        ("[hooks.a]\n" + PUBLISH + "[hooks.b]\n" + PUBLISH, "publish 'chat' belongs to [hooks.a] already"),
        (f"[hooks.a]\nevents=['connect']\n{URL}[hooks.b]\nevents=['connect']\n{URL}", "connect belongs to [hooks.a]"),
    ],
)
def test_what_is_wrong_is_named_with_its_table_and_option(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "hooks.toml"))
    assert said in str(error.value)


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path: Path) -> None:
    hook = '[hooks.a]\nevents = ["connect"]\nurl = "https://a.example/x"\n'
    (found,) = load(tmp_path, hook + 'secret_files = ["x/s", "/x/s"]\nca_file = "x/ca"')
    assert found.secret_files == (str(tmp_path / "x" / "s"), "/x/s")
    assert found.ca_file == str(tmp_path / "x" / "ca")


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("whsec_?", "in base64"), ("whsec_YWJj", "24 to 64 bytes"), (None, "can't read")],
)
def test_a_secret_that_can_not_sign_stops_the_start(tmp_path: Path, content: str | None, said: str) -> None:
    secret = tmp_path / "s"
    if content is not None:
        secret.write_text(content)
    toml = PUBLISH.replace('"s"', f'"{secret}"')
    with pytest.raises(ConfigError, match=said) as error:
        hooks_of(tmp_path, NAMESPACES, "[hooks.a]\n" + toml)
    assert f"{tmp_path / 'hooks.toml'}: [hooks.a] secret_files" in str(error.value)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("way", "is_open"),
    [
        ('url = "http://127.0.0.1:1/"', False),
        ('url = "http://backend:1/"', True),
        ('url = "https://backend:1/"', False),
        ('grpc = "backend:1"', True),
        ('grpc = "[::1]:1"', False),
        ('grpc = "backend:1"\ntls = true', False),
    ],
)
def test_a_hook_without_tls_to_another_machine_is_open_to_others(tmp_path: Path, way: str, is_open: bool) -> None:
    (found,) = load(tmp_path, f'[hooks.a]\nevents = ["connect"]\nsecret_files = ["s"]\n{way}')
    assert is_open_to_others(found) is is_open


def test_an_edge_does_not_start_with_a_wrong_file(tmp_path: Path) -> None:
    path = tmp_path / "hooks.toml"
    path.write_text("[hooks.a]\nevents = ['publish']\n")
    done = subprocess.run(
        [sys.executable, "-m", "services.edge"],
        cwd=ROOT,
        env={"HOOKS_FILE": str(path), "PYTHONPATH": f"{ROOT}:{ROOT}/proto/gen", "EDGE_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"{path}: [hooks.a] namespaces: must list" in done.stderr + done.stdout


def test_where_no_file_is_named_it_is_the_one_of_the_folder_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_hooks(None, NAMESPACES).connect is None
    Path("config").mkdir()
    Path("config/hooks.toml").write_text("[hooks.a]\nevents = ['later']\n")
    with pytest.raises(ConfigError, match=r"config/hooks.toml: \[hooks.a\] events"):
        make_hooks(None, NAMESPACES)


@pytest.mark.parametrize("path", ["config/hooks.toml", "elsewhere.toml"])
def test_a_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Else messages would pass unseen by a hook that somebody counts on."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="HOOKS_FILE: can't read"):
        make_hooks(Path(path), NAMESPACES)
