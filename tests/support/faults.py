"""Faults that tests switch on, and that are undone at the end.

Those of the network and of disks need a network and a mount namespace of one's own (`in_namespaces`).
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import redis

from cli.bundled import ROOT
from cli.stack import ports

_INSIDE = "THALAMUS_IN_NAMESPACES"
_LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime", "/usr/lib/faketime")
_ATTEMPTS = 200  # random ports to try
_rng = random.SystemRandom()


def in_namespaces() -> bool:
    """Whether this process has a network and mounts of its own."""
    return os.environ.get(_INSIDE) == "1"


def enter_namespaces() -> None:
    """Start this process again in namespaces of its own, if the system allows it.

    Loopback is up there. If it is not allowed, go on.

    Linux; as root, or where users may make namespaces.
    """
    if in_namespaces() or shutil.which("unshare") is None or shutil.which("ip") is None:
        return
    options = ["--net", "--mount"] if os.geteuid() == 0 else ["--map-root-user", "--net", "--mount"]
    command = ["unshare", *options, "--"]
    if subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode != 0:
        return
    again = [sys.executable, "-m", *_module()]
    script = 'ip link set lo up && exec "$@"'
    os.execvpe("unshare", [*command, "sh", "-c", script, "sh", *again], {**os.environ, _INSIDE: "1"})


def _module() -> list[str]:
    main = sys.modules["__main__"]
    assert main.__spec__ is not None, "run with -m"
    return [main.__spec__.name.removesuffix(".__main__"), *sys.argv[1:]]


def kill_pubsub(port: int) -> int:
    """Redis ends every pub/sub connection; how many."""
    with redis.Redis(port=port) as client:
        return int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


@contextlib.contextmanager
def packet_loss(ports: list[int], share: float) -> Iterator[None]:
    """So many of the packets to and from these TCP ports are dropped."""
    assert in_namespaces(), "rules are only made in a network of one's own"
    chosen = ["-m", "statistic", "--mode", "random", "--probability", str(share), "-j", "DROP"]
    rules = [
        ["INPUT", "-p", "tcp", direction, str(port), *chosen] for port in ports for direction in ("--dport", "--sport")
    ]
    made: list[list[str]] = []
    try:
        for rule in rules:
            subprocess.run(["iptables", "-A", *rule], check=True, capture_output=True)
            made.append(rule)
        yield
    finally:
        for rule in made:
            subprocess.run(["iptables", "-D", *rule], check=True, capture_output=True)


@contextlib.contextmanager
def small_disk(path: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a small file system; it goes with the namespace at the latest."""
    assert in_namespaces(), "mounts are only made in a namespace of one's own"
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Fill a (small!) file system to its last byte."""
    ballast = path / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4_096))
        yield
    finally:
        ballast.unlink(missing_ok=True)


def few_files(folder: Path, most: int) -> dict[str, str]:
    """Return the environment of a Python process that may open only so many files.

    `folder` gets a file that the process reads at its start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))\n"
    )
    return {"PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT, ROOT / "proto" / "gen")))}


def open_files(pid: int) -> int:
    """How many a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def shifted_clock(seconds: int) -> dict[str, str] | None:
    """Return the environment of a process whose wall clock is off by `seconds`.

    None if libfaketime is not installed.
    """
    for folder in _LIBRARIES:
        library = Path(folder) / "libfaketimeMT.so.1"
        if library.exists():
            return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return None


_given: set[int] = set()  # ports that this process has got


def free_port() -> int:
    """A port that nobody has, and that stays so until it is listened on.

    The system would give any, and give it to the next connection of any process, too. This one is of those from which
    stacks choose: below the ports of outgoing connections, and of this pytest-xdist process alone.
    """
    for _ in range(_ATTEMPTS):
        port = _rng.randrange(*ports.FREE_RANGE)
        if port not in _given and not ports.why_not("127.0.0.1", port):
            _given.add(port)
            return port
    raise AssertionError(f"no free port of {ports.FREE_RANGE}")
