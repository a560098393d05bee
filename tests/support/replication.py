"""A Redis and its replica, behind an address that leads to the master."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import redis
import redis.asyncio

from tests.support.redis import RedisServer
from tests.support.tcp_proxy import BackgroundProxy

_LINK_S = 15.0


class Pair:
    """A master and its replica; `fail_over` swaps their roles.

    Connections to the demoted master stay open. Async context manager.
    """

    def __init__(self) -> None:
        self.master = RedisServer("--repl-diskless-sync-delay", "0")
        self.replica = RedisServer("--repl-diskless-sync-delay", "0")
        self._proxy = BackgroundProxy("127.0.0.1", self.master.port)

    async def __aenter__(self) -> Self:
        try:
            self.master.start()
            self.replica.start(whole=False)
            self._proxy.__enter__()
            async with redis.asyncio.Redis(port=self.replica.port) as client:
                await client.replicaof("127.0.0.1", self.master.port)
                async with asyncio.timeout(_LINK_S):
                    while (await client.info("replication"))["master_link_status"] != "up":
                        await asyncio.sleep(0.02)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._proxy.__exit__(None, None, None)
        self._close()

    def _close(self) -> None:
        self.master.close()
        self.replica.close()

    @property
    def url(self) -> str:
        """Where the master is: new connections follow it."""
        return f"redis://127.0.0.1:{self._proxy.port}/0"

    @property
    def replica_url(self) -> str:
        return self.replica.url

    async def fail_over(self) -> None:
        """As a careful operator does it: what is not replicated yet is waited for."""
        async with (
            redis.asyncio.Redis(port=self.replica.port) as new,
            redis.asyncio.Redis(port=self.master.port) as old,
        ):
            await old.client_pause(int(_LINK_S * 1_000), all=False)  # writes wait
            written = (await old.info("replication"))["master_repl_offset"]
            async with asyncio.timeout(_LINK_S):
                while (await new.info("replication"))["slave_repl_offset"] < written:
                    await asyncio.sleep(0.01)
            await new.replicaof("NO", "ONE")
            self._proxy.do(lambda proxy: proxy.lead_to("127.0.0.1", self.replica.port))
            await old.replicaof("127.0.0.1", self.replica.port)
            await old.client_unpause()

    async def clients_of_the_old(self) -> int:
        """Count clients of the demoted master, except for its replication and this one."""
        async with redis.asyncio.Redis(port=self.master.port) as old:
            me = await old.client_id()
            clients = await old.client_list()
        return sum(int(one["id"]) != me and "M" not in one["flags"] for one in clients)
