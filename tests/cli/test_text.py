"""Arguments, standard input and output that are no UTF-8.

One line and exit code 2, never a traceback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import WrongUsage
from cli.text import json_text

ROOT = Path(__file__).resolve().parents[2]
NOT_UTF8 = b"chat:\xff\xfe"


def run(*arguments: bytes, stdin: bytes = b"", **variables: str | bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THALAMUS_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((b"publish", NOT_UTF8, b"1", b"--api-key", b"k"), 2),
        ((b"publish", b"chat:a", b'"\xff"', b"--api-key", b"k"), 3),
        ((b"history", NOT_UTF8, b"--api-key", b"k"), 2),
        ((b"presence", NOT_UTF8, b"--api-key", b"k"), 2),
        ((b"subscribe", NOT_UTF8, b"--token", b"t"), 2),
        ((b"token", b"--user", b"\xff"), 3),
        ((b"token", b"--user", b"u", b"--info", b'"\xff"'), 5),
        ((b"api-key", b"create", b"\xff"), 3),
        ((b"verify", b"--url", b"http://\xff"), 3),
        ((b"\xff",), 1),
    ],
)
def test_an_argument_that_is_not_utf8_is_named(arguments: tuple[bytes, ...], number: int) -> None:
    done = run(*arguments, LC_ALL="C")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.startswith(f"thalamus: argument {number} is not UTF-8: '".encode())
    assert done.stderr.count(b"\n") == 1


def test_a_variable_that_is_not_utf8_is_named() -> None:
    done = run(b"history", b"chat:a", THALAMUS_API_KEY=b"\xff")
    assert (done.returncode, done.stderr) == (2, b"thalamus: THALAMUS_API_KEY is not UTF-8\n")


def test_standard_input_that_is_not_utf8_is_refused_with_its_place() -> None:
    done = run(b"publish", b"chat:a", b"-", b"--api-key", b"k", stdin=b'"a\xff"')
    assert done.returncode == 2
    assert done.stderr == b"thalamus: DATA on standard input is not UTF-8: byte 3 is 0xff\n"


@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1"])
def test_text_beyond_ascii_passes_in_every_locale(locale: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    token = (b"token", b"--user", "zoë".encode(), b"--secret-file", os.fsencode(secret))
    done = run(*token, b"--info", '{"name":"Zoë"}'.encode(), LC_ALL=locale)
    assert (done.returncode, done.stdout.count(b".")) == (0, 2), done


def test_output_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    done = run(
        *(b"token", b"--user", "зоя".encode(), b"--secret-file", os.fsencode(secret)), PYTHONIOENCODING="latin-1:strict"
    )
    assert done.returncode == 0, done
    assert b"connection token of \\u0437\\u043e\\u044f" in done.stderr


@pytest.mark.parametrize(
    ("text", "half"),
    [
        (r'"\ud800"', r"\ud800"),
        (r'{"a":"x\uDFFFy"}', r"\uDFFF"),
        (r'"\ud83d\ud83d\ude00"', r"\ud83d"),
        (r'"\\\ud800"', r"\ud800"),
        (r'"\ud83d\n"', r"\ud83d"),
    ],
)
def test_half_of_a_surrogate_pair_is_called_so(text: str, half: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        json_text(text, "DATA")
    assert str(refused.value) == f"DATA is not JSON: {half} is one half of a character, without the other"


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'"\\ud800"', '"zoë"', "1"])
def test_whole_characters_pass(text: str) -> None:
    assert json_text(text, "DATA") == text.encode()


def test_a_text_that_ends_early_is_still_called_truncated() -> None:
    with pytest.raises(WrongUsage, match="truncated"):
        json_text(r'{"a":"\ud83d\ude00', "DATA")
