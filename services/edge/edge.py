"""One edge: wires domain, adapters, client protocols and transport.

Runs and drains it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from services.edge.adapters.auth_client import AuthClient
from services.edge.adapters.chat_calls import PersistenceChat
from services.edge.adapters.chat_client import chat_client
from services.edge.adapters.grants_client import GrantsClient
from services.edge.adapters.hooks.load import make_hooks
from services.edge.adapters.inbox_source import PersistenceInboxes
from services.edge.adapters.memberships_client import MembershipsClient
from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.adapters.presence_client import PresenceClient
from services.edge.adapters.profile_changes import ProfileChanges
from services.edge.adapters.redis.broker import RedisBroker
from services.edge.adapters.users_client import UsersClient
from services.edge.api.app import create_app
from services.edge.api.context import ApiContext
from services.edge.config import EdgeConfig
from services.edge.domain.access.algorithms import HMAC_BYTES, prepared_secret
from services.edge.domain.access.keyring import KeyRing
from services.edge.domain.access.revocations import Revocations
from services.edge.domain.access.tokens import TokenVerifier
from services.edge.domain.control.cluster import Cluster
from services.edge.domain.control.granter import Granter
from services.edge.domain.control.operations import take_disabled
from services.edge.domain.control.profile_news import ProfileNews
from services.edge.domain.control.revoker import Revoker
from services.edge.domain.conversations.hooked import HookedWrites
from services.edge.domain.conversations.methods import ChatMethods
from services.edge.domain.handshake import HandshakeAuthenticator
from services.edge.domain.inbox import watching as inbox_watching
from services.edge.domain.limits.api_calls import ApiCallLimit
from services.edge.domain.model import Publication
from services.edge.domain.session import chat_methods, presence_methods
from services.edge.domain.session.drain import drain
from services.edge.domain.session.node import Node
from services.edge.metrics import NodeCollector
from services.edge.protocols.base import Host
from services.edge.protocols.registry import served_protocols
from services.edge.transport.http.handover import HttpHandover
from services.edge.transport.origins import OriginRules
from services.edge.transport.server import EdgeServer
from services.edge.transport.websocket.frames import binary_frame, text_frame
from services.shared.errors import Unavailable
from services.shared.feed.follower import FeedFollower
from services.shared.namespaces import Namespaces, load_namespaces
from services.shared.process import collector
from services.shared.process.cancellation import end_task
from services.shared.process.config import ConfigError, read_secret_file
from services.shared.process.internal_http import start_internal_http
from services.shared.process.lifecycle import until_stopped
from services.shared.process.secrets import read_service_tokens
from services.shared.rpc.replicas import Replicas

if TYPE_CHECKING:
    from services.edge.adapters.issuer_keys import IssuerKeys

logger = logging.getLogger("services.edge")

_NOT_BEFORE_LEEWAY_S = 10.0  # seconds that `nbf` may be ahead: the clocks of token issuers differ
_HEARS_S = 3.0  # longest wait for auth before the public port opens, seconds
_FINISH_S = 2.0  # for work of the node that is still running at the end, seconds


class Edge:
    """All parts of one edge. The constructor makes them; `start` starts them."""

    def __init__(self, config: EdgeConfig, *, shares_port: bool) -> None:
        self.config = config
        self._shares_port = shares_port
        self.edge_id = str(uuid.uuid4())
        self.keyring = KeyRing(frozenset(config.token_algorithms))
        self.revocations = Revocations()
        self.keyring.awaits_auth = True
        self.has_secret = read_secrets(config, self.keyring)
        self.issuer_keys = _issuer_keys(config, self.keyring)
        namespaces = load_namespaces(config.channels_file)
        self.hooks = make_hooks(config.hooks_file, namespaces)
        called = services_called(config)
        self.auth_replicas, self.presence_replicas, self.persistence_replicas = (
            called[name] for name in ("auth", "presence", "persistence")
        )
        self.broker = RedisBroker(
            config.redis_address(),
            edge_id=self.edge_id,
            meta_ttl_s=config.history_meta_ttl_s,
            feed_max_entries=config.feed.max_entries,
            max_batch_delay_s=config.max_batch_delay_s,
            on_time=self._on_time,
            on_incarnation=self._on_incarnation,
        )
        self.auth = AuthClient(
            self.auth_replicas, self.keyring, self._on_disabled, lambda wants: self.node.newcomers.want(wants)
        )
        self.users = UsersClient(self.auth_replicas)
        grants = GrantsClient(self.auth_replicas)
        self.presence = PresenceClient(self.presence_replicas, self.edge_id)
        self.store = PersistenceClient(self.persistence_replicas, saw=self.broker.saw, has_queued=namespaces.has_queued)
        self.chat = chat_client(
            self.persistence_replicas,
            namespaces.named.values(),
            saw=self.broker.saw,
            takes_queued=lambda: self.store.takes_queued,
        )
        self.node = Node(
            edge_id=self.edge_id,
            edge_name=config.name or f"edge-{self.edge_id[:8]}",
            settings=config.domain,
            namespaces=self.hooks.mark(namespaces),
            hooks=self.hooks,
            broker=self.broker,
            store=self.store,
            chat=self.chat,
            presence=self.presence,
            verifier=TokenVerifier(
                self.keyring,
                audience=config.token_audience,
                issuer=config.token_issuer,
                leeway_s=config.token_leeway_s,
                not_before_leeway_s=_NOT_BEFORE_LEEWAY_S,
                revocations=self.revocations,
            ),
            revocations=self.revocations,
            session_table=self.broker.session_table,
            grants=grants,
            profiles=self.users,
            memberships=MembershipsClient(self.persistence_replicas),
            rates=self.broker.rates,
            counts=self.broker.counts,
        )
        presence_methods.register(self.node.rpc)
        chat_calls = PersistenceChat(self.persistence_replicas, self.chat)
        self.feed_follower = self._follow_inboxes(chat_calls, namespaces)
        self.chat_methods = ChatMethods(
            chat_calls,
            namespaces=self.node.namespaces,
            channel_max_bytes=config.domain.channel_max_bytes,
            limits=self.node.chat_limits,
            profiles=self.node.profiles,
            publisher=self.node.publisher,
            spawn=self.node.spawn,
            wall=self.node.clock.wall,
            refusal_step_s=config.domain.refusal_step_s,
            hooked=HookedWrites(
                self.node.hooks, self.node.chat, edge_name=self.node.edge_name, wall=self.node.clock.wall
            ),
        )
        chat_methods.register(self.node.rpc, self.chat_methods)
        self.cluster = Cluster(self.node, self.broker, self.broker.control_log)
        self.granter = Granter(self.node, self.cluster, self.broker.revocation_log, grants)
        self.revoker = Revoker(self.node, self.cluster, self.broker.revocation_log, granter=self.granter)
        self.broker.revocation_log.follow(self.revoker)
        self.is_open = False  # the public port
        self.draining = False
        host = Host(self.node, text_frame, binary_frame, lambda: str(uuid.uuid4()))
        self.protocols = served_protocols(host, websocket_path=config.websocket_path)
        options = config.transport
        origins = OriginRules(options.allowed_origins)
        app = create_app(
            ApiContext(
                node=self.node,
                cluster=self.cluster,
                revoker=self.revoker,
                granter=self.granter,
                accounts=self.auth,
                users=self.users,
                profile_news=ProfileNews(self.node, self.cluster.tell),
                tickets=self.broker.tickets,
                chat=self.chat_methods,
                keyring=self.keyring,
                web_dir=config.web_dir,
                websocket_path=config.websocket_path,
                origin_allowed=lambda origin: origins.allows(origin, ""),
                is_own_page=origins.names,
                call_limit=self._call_limit(),
            )
        )
        http = HttpHandover(app, options, self.protocols.serves)
        authenticator = HandshakeAuthenticator(
            self.node.verifier,
            self.broker.tickets,
            self.node.resume,
            self.node.clock.wall,
            takes_query_tokens=config.token_in_query,
            is_own_page=origins.names,
        )
        self.server = EdgeServer(options, self.protocols, http, authenticator)

    def _follow_inboxes(self, calls: PersistenceChat, namespaces: Namespaces) -> FeedFollower | None:
        """Return the follower of the feed that tells of inboxes; None: there are none."""
        if self.chat is None or inbox_watching.NAMESPACE not in namespaces.named:
            return None
        hub = self.node.hub

        def push(channel: str, data: bytes) -> None:
            hub.publication(channel, "", Publication(data))

        inboxes = inbox_watching.Inboxes(PersistenceInboxes(calls), push, self.node.spawn, self.node.clock.monotonic)
        hub.watcher = inboxes
        return FeedFollower(self.config.redis_address(), inboxes.on_hints, inboxes.on_gap)

    def _call_limit(self) -> ApiCallLimit | None:
        settings = self.config.domain
        if not settings.api_calls_per_key_per_s:
            return None
        return ApiCallLimit(
            self.broker.rates,
            rate=settings.api_calls_per_key_per_s,
            burst=settings.api_calls_per_key_burst,
            now=self.node.clock.monotonic,
            refusals=self.node.counters.limited,
        )

    def _on_incarnation(self) -> None:
        """Tell a new incarnation of Redis what it may not know."""
        self.presence.heartbeat_now()
        self.node.connection_caps.tell_again()
        self.node.resume.list_again()
        self.node.profiles.clear()
        if self.feed_follower is not None:
            self.feed_follower.restart()

    def _on_disabled(self, digests: Collection[bytes] | None, version: int) -> None:
        take_disabled(self.node, digests, version)

    def _on_time(self, unix_s: float) -> None:
        self.node.clock.sync(unix_s)

    def checks(self) -> Mapping[str, bool]:
        """Return the readiness checks.

        Redis works, tokens can be verified, the public port is open and the edge is not draining.
        """
        return {
            "redis": self.broker.is_ready,
            "keys": self.auth.is_ready or self.has_secret or self.keyring.has_issuer_keys,
            "accepting": self.is_open and not self.draining,
        }

    def reachable(self) -> Mapping[str, bool]:
        """Return which other services are reachable.

        Without one of them the edge stays ready: what needs the service fails, everything else works.
        """
        return {
            "auth": self.auth_replicas.is_ready(),
            "presence": self.presence_replicas.is_ready(),
            "persistence": self.persistence_replicas.is_ready(),
        }

    async def start(self, stopping: asyncio.Event) -> None:
        """Connect to Redis and the other services, then open the public port.

        What is not available yet is tried again in the background. But no client is let in before auth has said who is
        disabled, for 3 s at most: who comes at once, because another edge was drained, must be refused here too. The
        port stays closed if `stopping` is set meanwhile.
        """
        for replicas in (self.auth_replicas, self.presence_replicas, self.persistence_replicas):
            await replicas.start()
        await self.auth.start()
        if self.issuer_keys is not None:
            await self.issuer_keys.start()
        await self.presence.start()
        await self.store.start()
        if self.chat is not None:
            await self.chat.start()
        await self.broker.start(self.node.hub, self.cluster.on_control, self.cluster.control_log)
        hearing = asyncio.create_task(self.auth.wait_until_heard(_HEARS_S))
        await until_stopped(stopping, hearing)
        if stopping.is_set():
            await end_task(hearing)
            return
        if not hearing.result():
            logger.warning("auth does not answer: disabled users are not known until it does")
        await self.server.start(self.config.host, self.config.port, reuse_port=self._shares_port)
        self.is_open = True

    async def run_maintenance(self) -> None:
        """Run the periodic work until cancelled.

        Deadlines of sessions, garbage collection, reading control commands that pub/sub lost, and the edge's lease.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self.node.run())
            group.create_task(collector.collect())
            group.create_task(self.cluster.control_log.run())
            group.create_task(self.revoker.run())
            group.create_task(self.granter.run())
            group.create_task(self.broker.leases.run())
            group.create_task(self.node.connection_caps.run())
            group.create_task(self.node.announcer.run())
            group.create_task(ProfileChanges(self.auth_replicas, self.node.profiles.changed).run())
            group.create_task(self.node.newcomers.run(self.users.add_seen))
            if self.feed_follower is not None:
                group.create_task(self.feed_follower.run())

    async def stop(self) -> None:
        """Drain the edge, then close everything.

        The edge is not ready any more. New connections get 503, open ones are closed with 3001, spread over the grace
        period. An edge that shares its port closes its listener at once, so that the others get new connections.
        """
        self.draining = True
        self.server.stop_accepting()
        if self._shares_port:
            self.server.stop_listening()
        await drain(self.node, self.config.drain_grace_s)
        await self.server.close()
        await self.node.close(_FINISH_S)
        await self.hooks.close()
        await self.presence.close()
        await self.store.close()
        if self.chat is not None:
            await self.chat.close()
        if self.issuer_keys is not None:
            await self.issuer_keys.close()
        await self.auth.close()
        with contextlib.suppress(Unavailable):  # else it runs out
            await self.broker.leases.end()
        await self.broker.close()
        for replicas in (self.auth_replicas, self.presence_replicas, self.persistence_replicas):
            await replicas.close()


def services_called(config: EdgeConfig) -> dict[str, Replicas]:
    """Return the services that an edge calls, by name; no connection is made yet.

    Raises:
        ConfigError: the service token, the certificates or an address can't be used.
    """
    token = read_service_tokens(config.service_token_file).current
    identity = config.identity()  # read and checked also where it is not used yet
    return {
        name: Replicas(
            target,
            service_token=token,
            service="edge",
            identity=identity if config.calls_over_tls else None,
            server_name=name,
        )
        for name, target in config.addresses().items()
    }


def read_secrets(config: EdgeConfig, keyring: KeyRing) -> bool:
    """Give the key ring the secrets of the settings; return whether there are any."""
    if config.hs256_secret_file is None:
        return False
    files = {"AUTH_HS256_SECRET_FILE": config.hs256_secret_file}
    if config.hs256_previous_secret_file is not None:
        files["AUTH_HS256_PREVIOUS_SECRET_FILE"] = config.hs256_previous_secret_file
    secrets = []
    for variable, path in files.items():
        secret = read_secret_file(path, variable)
        for algorithm, least in HMAC_BYTES.items():
            if algorithm in config.token_algorithms and len(secret) < least:
                if algorithm != "HS256":
                    raise ConfigError(f"{variable}: {algorithm} (EDGE_TOKEN_ALGORITHMS) needs at least {least} bytes")
                logger.warning("%s holds a short secret: %d bytes or more can't be guessed", variable, least)
        try:
            secrets.append(prepared_secret(secret))
        except ValueError as error:
            raise ConfigError(f"{variable}: {path} is no secret: {error}") from None
    keyring.set_secrets(*secrets)
    return True


def _issuer_keys(config: EdgeConfig, keyring: KeyRing) -> IssuerKeys | None:
    """Return what fetches the keys of external issuers; None without such issuers."""
    issuers = config.issuers()
    if not issuers:
        return None
    from services.edge.adapters.issuer_keys import IssuerKeys  # the HTTP client takes time and memory

    if not config.token_audience:
        logger.warning("EDGE_TOKEN_AUDIENCE is not set: every token of the issuers in EDGE_JWKS_URLS is accepted")
    return IssuerKeys(issuers, keyring)


async def serve(config: EdgeConfig, stopping: asyncio.Event, *, shares_port: bool) -> None:
    """Run an edge until `stopping` is set; workers share the public port."""
    edge = Edge(config, shares_port=shares_port)
    if config.domain.insecure:
        logger.critical("EDGE_INSECURE is on: everyone may connect, subscribe, publish and read everything")
    REGISTRY.register(NodeCollector(edge.node, edge.protocols.close_codes))
    REGISTRY.register(edge.server.collector)
    internal = await start_internal_http(
        config.internal_host, config.internal_port, ready=edge.checks, reachable=edge.reachable
    )
    tasks = [asyncio.create_task(edge.run_maintenance())]
    try:
        await edge.start(stopping)
        collector.settle()
        if edge.is_open:
            ports = {"port": edge.server.port, "internal_port": internal.port}
            logger.info("started", extra={**ports, "edge": edge.edge_id})
        tasks.append(asyncio.create_task(edge.broker.watch()))
        await until_stopped(stopping, *tasks)
        await edge.stop()
    finally:
        for task in tasks:
            if not task.done():  # the exception of a finished one is raised above
                await end_task(task)
        await internal.close()
