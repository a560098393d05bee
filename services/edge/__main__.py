"""The edge: reads its settings, wires domain, adapters, dialects and transport, runs, drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Mapping

from prometheus_client import REGISTRY

from services.edge.adapters.auth_client import AuthClient
from services.edge.adapters.persistence_client import PersistenceClient
from services.edge.adapters.presence_client import PresenceClient
from services.edge.adapters.redis_broker import RedisBroker
from services.edge.api.app import create_app
from services.edge.api.context import ApiContext
from services.edge.config import EdgeConfig
from services.edge.dialects import Dialects
from services.edge.domain.claims import TokenVerifier
from services.edge.domain.cluster import Cluster
from services.edge.domain.drain import drain
from services.edge.domain.keyring import KeyRing
from services.edge.domain.node import Node
from services.edge.domain.ports import Connection, MessageHandler
from services.edge.domain.session import Session
from services.edge.metrics import NodeCollector
from services.edge.transport.frames import text_frame
from services.edge.transport.options import HandshakeInfo, TransportOptions
from services.edge.transport.server import EdgeServer
from services.shared.config import read_env, read_secret_file
from services.shared.grpc_client import Replicas
from services.shared.internal_http import start_internal_http
from services.shared.lifecycle import run
from services.shared.logs import setup_logging
from services.shared.namespaces import load_namespaces

logger = logging.getLogger("services.edge")

_SHORT_SECRET_BYTES = 32
