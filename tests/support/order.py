"""Files of tests that take long run first, so that none runs alone at the end.

pytest-xdist gives each process one file after the other (`--dist loadfile`), by itself those of the most tests first.
But the files that take longest start whole stacks and have few tests. `LONGEST` names them, the longest first. They are
followed by the other tests of processes, which wait more than they compute, then by all others, which are short.
"""

from __future__ import annotations

import pytest

LONGEST = (  # about 30 s and more
    "tests/integration/chat/test_removal.py",
    "tests/integration/chat/test_state_machine.py",
    "tests/persistence/test_dynamodb_store.py",
    "tests/cli/test_dev.py",
    "tests/contract/test_log_store.py",
    "tests/verify/test_smoke.py",
    "tests/persistence/test_dynamodb_processes.py",
    "tests/integration/sdk/test_sdk.py",
    "tests/edge/transport/test_autobahn.py",
    "tests/integration/test_went_back.py",
    "tests/bench/test_end_to_end.py",
    "tests/web/test_console.py",
    "tests/integration/test_presence_under_faults.py",
    "tests/integration/test_orderly_stops.py",
    "tests/integration/test_workers.py",
    "tests/integration/test_update.py",
    "tests/integration/chat/test_mixed_versions.py",
    "tests/persistence/test_store_gone.py",
    "tests/deploy/test_alerts_of_updates.py",
    "tests/integration/test_webhooks_of_edges_that_die.py",
    "tests/edge/wire/test_11_streams.py",
    "tests/shared/test_service_tls.py",
    "tests/deploy/test_wheel.py",
    "tests/integration/test_secrets.py",
    "tests/integration/test_frozen_services.py",
    "tests/properties/test_stored_log.py",
    "tests/integration/test_openapi.py",
    "tests/properties/test_join_and_recovery.py",
    "tests/integration/bad_inputs/test_b29_b30_b32_streams_and_floods.py",
    "tests/integration/test_unusable.py",
    "tests/persistence/test_dynamodb_log.py",
    "tests/integration/test_key_rotation.py",
    "tests/integration/test_faults.py",
    "tests/integration/test_ways_in.py",
    "tests/auth/test_dynamodb_accounts.py",
    "tests/edge/transport/test_frame_reader.py",
    "tests/deploy/test_prometheus_rules.py",
    "tests/bench/test_churn.py",
    "tests/cli/test_commands.py",
    "tests/integration/sdk/test_official_suite.py",
    "tests/integration/test_failures_told.py",
    "tests/deploy/test_up.py",
    "tests/integration/test_two_platforms.py",
    "tests/auth/test_dynamodb_service.py",
    "tests/auth/test_dynamodb_refresh.py",
    "tests/cli/test_store.py",
    "tests/bench/test_curves.py",
)
_PROCESSES = tuple(f"tests/{folder}/" for folder in ("integration", "verify", "bench", "cli", "web", "deploy"))


def rank_of(path: str) -> int:
    """Return when a file's turn is; files of one rank keep their order."""
    if path in LONGEST:
        return LONGEST.index(path)
    return len(LONGEST) + (not path.startswith(_PROCESSES))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put whole files into their order, in the processes of pytest-xdist alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank_of(item.nodeid.partition("::")[0]))
