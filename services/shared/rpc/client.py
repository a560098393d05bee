"""Calls to other services: `Replicas` for single calls, `BatchStream` for many."""

from services.shared.rpc.batch_stream import BatchStream
from services.shared.rpc.replicas import Replicas

__all__ = ["BatchStream", "Replicas"]
