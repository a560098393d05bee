"""An edge with hooks on a real port, and clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import jwt
import pytest
from prometheus_client import REGISTRY

from services.shared.namespaces import Permission
from tests.edge.transport.support import PATH
from tests.support.edge import OPEN, SECRET, Cluster, replace_namespace
from tests.support.hook_backend import hooks_of
from tests.support.served_edge import ServedEdge

CHAT = replace_namespace(OPEN, publish=frozenset({Permission.AUTHENTICATED}))
Serve = Callable[..., AbstractAsyncContextManager[tuple[ServedEdge, str]]]


def token(user: str, **claims: Any) -> str:
    """A connection token that never expires, unless `claims` say so."""
    return jwt.encode({"sub": user, **claims}, SECRET, algorithm="HS256")


def calls(hook: str, outcome: str) -> float:
    """How many questions to the hook had this outcome."""
    return REGISTRY.get_sample_value("thalamus_edge_hook_calls_total", {"hook": hook, "outcome": outcome}) or 0.0


def calls_under_way(hook: str) -> float:
    """How many questions to the hook are not answered yet."""
    return REGISTRY.get_sample_value("thalamus_edge_hook_under_way", {"hook": hook}) or 0.0


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serve an edge with hooks: `async with serve(toml) as (edge, url)`.

    It has the namespaces `chat` and `plain`.
    """

    @contextlib.asynccontextmanager
    async def run(toml: str, cluster: Cluster | None = None, **settings: Any) -> AsyncIterator[tuple[ServedEdge, str]]:
        cluster = cluster or Cluster(chat=CHAT, plain=CHAT)
        hooks = hooks_of(tmp_path, cluster.namespaces, toml)
        async with ServedEdge(cluster, hooks=hooks, **settings) as edge:
            yield edge, f"ws://127.0.0.1:{edge.port}{PATH}"

    return run
