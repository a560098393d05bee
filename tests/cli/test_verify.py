"""`thalamus verify`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.stack import Stack, clean_environment
from tests.support.terminal import run_on_terminal


def verify(stack: Stack | None, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | ({"THALAMUS_DATA": str(stack.data)} if stack else {"THALAMUS_DATA": "/nowhere"})
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "verify", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == code, done
    return done


def test_a_healthy_stack_passes_and_the_page_says_so(stack: Stack, tmp_path: Path) -> None:
    assert stack.api_key
    kept = tmp_path / "history.jsonl"
    secret = tmp_path / "secret"
    secret.write_text(stack.secret)
    options = ["--seconds", "4", "--clients", "8", "--drop-every", "0", "--seed", "3", "--history", str(kept)]
    done = verify(stack, *options)
    assert done.stdout.startswith("# Delivery check: PASSED")
    assert "| lost | 0 |" in done.stdout
    assert "seed 3" in done.stderr
    stages = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert [stage for stage in dict.fromkeys(stages) if not stage.startswith("seed")] == [
        "connecting",
        "publishing",
        "waiting until everyone has everything",
    ]
    again = verify(stack, "--judge", str(kept), "--json")
    said = json.loads(again.stdout)
    assert said["passed"] is True
    assert said["acked"] > 20
    assert said["seed"] == 3
    assert said["subscribers"] == 8
    assert said["publications"] >= said["acked"]
    assert said["delivered"] > said["acked"]
    assert set(said["counts"].values()) == {0}
    assert said["findings"] == {}
    assert 0 < said["times"]["ack"]["p50_s"] <= said["times"]["ack"]["p99_s"] <= said["times"]["ack"]["most_s"]
    assert said["times"]["delivery"]["count"] == said["delivered"]
    assert said["times"]["back"] == {"count": 0, "p50_s": None, "p99_s": None, "most_s": None}
    # Tokens of one's own, addresses given.
    url = stack.http_urls
    given = ["--url", url[0], "--edge", url[1], "--secret-file", str(secret), "--api-key", stack.api_key]
    verify(None, "--seconds", "2", "--clients", "4", "--drop-every", "0", "--stored", "1", "--hot", "0", *given)


def test_a_history_with_a_hole_does_not_pass(stack: Stack, tmp_path: Path) -> None:
    assert stack.api_key
    kept = tmp_path / "history.jsonl"
    verify(stack, "--seconds", "2", "--clients", "4", "--drop-every", "0", "--history", str(kept))
    lines = kept.read_text().splitlines()
    victim = next(index for index, line in enumerate(lines) if '"delivered"' in line)
    kept.write_text("\n".join(lines[:victim] + lines[victim + 1 :]) + "\n")
    done = verify(None, "--judge", str(kept), code=1)
    assert done.stdout.startswith("# Delivery check: FAILED")
    assert "| lost | 1 |" in done.stdout
    assert "1 findings" in done.stderr
    said = json.loads(verify(None, "--judge", str(kept), "--json", code=1).stdout)
    assert said["passed"] is False
    assert said["counts"]["lost"] == 1
    assert len(said["findings"]["lost"]) == 1


def test_what_is_no_history_or_no_stack_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("no\n")
    done = verify(None, "--judge", str(broken), code=1)
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    done = verify(None, "--stored", "0", "--hot", "0", code=2)
    assert "--stored and --hot" in done.stderr
    done = verify(None, "--url", "http://127.0.0.1:9", "--api-key", "x", code=3)
    assert done.stderr.count("\n") == 1


def test_progress_on_a_terminal_leaves_stdout_to_the_result(stack: Stack) -> None:
    command = [sys.executable, "-m", "cli.main", "verify", "--seconds", "2", "--clients", "4", "--json"]
    environment = clean_environment() | {"THALAMUS_DATA": str(stack.data)}
    done = run_on_terminal(command, environment=environment, ends_within_s=150)
    assert done.code == 0, done
    assert json.loads(done.stdout)["passed"] is True
    assert "publishing: " in done.stderr
    assert "\x1b[2K" in done.stderr
