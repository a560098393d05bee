"""Makes the hooks of an edge from the file of their options."""

from __future__ import annotations

import logging
from pathlib import Path

from services.edge.domain.hooks.hook import Hook
from services.edge.domain.hooks.hooks import Hooks
from services.edge.domain.hooks.model import Backend
from services.edge.domain.hooks.options import HookOptions, decides_alone, is_open_to_others, load_hooks
from services.shared.namespaces import Namespaces
from services.shared.process.config import ConfigError

logger = logging.getLogger(__name__)

_UNNAMED = Path("config/hooks.toml")  # below the working directory, as the files of channels and webhooks


def make_hooks(path: Path | None, namespaces: Namespaces) -> Hooks:
    """Return the hooks; no connection is made yet.

    `path`: None if no file is named. Then it is config/hooks.toml, and if that is not there, there are no hooks.

    Raises:
        ConfigError: the file, a secret, an authority or an extension can't be used. The message names the file.
    """
    if path is None:
        if not _UNNAMED.is_file():
            return Hooks()
        path = _UNNAMED
    found = []
    for options in load_hooks(path, namespaces):
        if is_open_to_others(options):
            logger.log(
                logging.WARNING if decides_alone(options) else logging.INFO,
                "a hook is called without TLS: who is on the way can read questions and forge answers",
                extra={"hook": options.name},
            )
        try:
            backend = _backend(options)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        found.append(Hook(options, backend))
    if found:
        logger.info("hooks in use", extra={"hooks": [hook.options.name for hook in found]})
    return Hooks(found)


def _backend(options: HookOptions) -> Backend:
    # Imported when needed: the HTTP client takes time and memory.
    if options.url:
        from services.edge.adapters.hooks.http import HttpBackend

        return HttpBackend(options)
    if options.grpc:
        from services.edge.adapters.hooks.grpc_backend import GrpcBackend

        return GrpcBackend(options)
    from services.edge.adapters.hooks.extension import ExtensionBackend

    return ExtensionBackend(options)
