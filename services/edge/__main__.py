"""Entry point: runs one edge, or with EDGE_WORKERS the parent of several."""

from __future__ import annotations

import argparse
import asyncio

from services.edge.config import EdgeConfig
from services.edge.workers import run_workers
from services.shared.startup.service import run_service


async def main(config: EdgeConfig, stopping: asyncio.Event) -> None:
    """Run one edge, as a worker or alone, or the parent of several."""
    if worker is None and config.worker_count() > 1:
        await run_workers(config, stopping)
        return
    from services.edge.edge import serve  # imported here because it is slow, and the parent does not need it

    await serve(config, stopping, shares_port=worker is not None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m services.edge")
    parser.add_argument("--worker", type=int, help="for EDGE_WORKERS alone: which of them this process is")
    worker: int | None = parser.parse_args().worker
    fields = {} if worker is None else {"worker": worker}
    run_service("edge", EdgeConfig, main, has_parent=worker is not None, log_fields=fields)
