"""`make dashboards`: writes dashboards/*.json from the modules of this folder."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.delivery import DELIVERY
from deploy.grafana.dependencies import DEPENDENCIES
from deploy.grafana.overview import OVERVIEW

BOARDS = (OVERVIEW, DELIVERY, DEPENDENCIES)
FOLDER = Path(__file__).parent / "dashboards"


def render(board: Dashboard) -> str:
    """Return the JSON that Grafana reads; the same every time."""
    return JSONEncoder(indent=1, ensure_ascii=False).encode(board) + "\n"


def main() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(render(board), encoding="utf-8")


if __name__ == "__main__":
    main()
