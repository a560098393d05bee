"""Entry point: runs one edge, or with EDGE_WORKERS the parent of several."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os

from services.edge.config import EdgeConfig
from services.edge.workers import run_workers
from services.shared.process.lifecycle import run
from services.shared.process.variables import read_checked_env


async def main(stopping: asyncio.Event, *, worker: int | None) -> None:
    config = read_checked_env(EdgeConfig, os.environ, "EDGE_")
    if worker is None and config.worker_count() > 1:
        await run_workers(config, stopping)
        return
    from services.edge.edge import serve  # imported here because it is slow, and the parent does not need it

    await serve(config, stopping, worker=worker)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m services.edge")
    parser.add_argument("--worker", type=int, help="for EDGE_WORKERS alone: which of them this process is")
    number: int | None = parser.parse_args().worker
    run(functools.partial(main, worker=number), "edge", has_parent=number is not None)
