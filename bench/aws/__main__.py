"""`python -m bench.aws`: counts what a million messages cost in AWS.

Writes messages with the store of persistence to an emulator of DynamoDB, counts units, and multiplies them by the
prices of `bench/aws/prices.toml`, or of another file of that kind.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from bench.aws.measure import measure, rest
from bench.aws.table import Prices, table
from bench.report.marked import with_part
from services.shared.dynamodb.settings import DynamoDbSettings
from tests.support.dynamodb import CREDENTIALS, dynamodb_server

PRICES = Path(__file__).parent / "prices.toml"
COMMAND = "python -m bench.aws"


@click.command()
@click.option("--prices", type=click.Path(path_type=Path, exists=True), default=PRICES, help="A file of prices.")
@click.option("--size", type=click.IntRange(1, 300_000), default=300, show_default=True, help="Bytes of a message.")
@click.option("--out", type=click.Path(path_type=Path), help="A page whose marked part is written anew.")
def main(prices: Path, size: int, out: Path | None) -> None:
    """Print the table, or write it to a page."""
    os.environ.update(CREDENTIALS)
    with dynamodb_server() as address:
        lines = asyncio.run(cost(address, Prices.read(prices), size))
    if out is None:
        click.echo("\n".join(lines))
    else:
        out.write_text(with_part(out.read_text(encoding="utf-8"), "cost", lines, COMMAND), encoding="utf-8")


async def cost(address: str, prices: Prices, size: int) -> list[str]:
    """Measure at a DynamoDB, and return the lines of the table."""
    settings = DynamoDbSettings(endpoint=address, table_prefix="cost-")
    quiet = await measure(settings, 1, size, knows_top=False)
    busy = [await measure(settings, at_once, size) for at_once in (1, 10, 100)]
    return table(quiet, busy, await rest(settings), prices, size)


if __name__ == "__main__":
    main()
