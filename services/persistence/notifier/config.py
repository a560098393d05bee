"""Settings of the notifier, read from NOTIFIER_* variables at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.persistence.chat.devices.device import WEB_PUSH_HOSTS
from services.shared.process.config import field_env
from services.shared.startup.config import ServiceConfig, ServiceTls


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifierConfig(ServiceConfig):
    """Settings; `docs/configuration.md` explains each."""

    file: Path = field_env("PUSH_FILE", Path("config/push.toml"))
    web_push_hosts: tuple[str, ...] = field_env("WEB_PUSH_HOSTS", WEB_PUSH_HOSTS)
    presence_addr: str = "127.0.0.1:9002"
    persistence_addr: str = "127.0.0.1:9003"
    presence_tls_addr: str = "127.0.0.1:9012"
    persistence_tls_addr: str = "127.0.0.1:9013"

    @property
    def calls_over_tls(self) -> bool:
        """Whether it calls over mTLS."""
        return self.tls in (ServiceTls.USE, ServiceTls.REQUIRE)

    def addresses(self) -> dict[str, str]:
        """Return the address of each service that it calls."""
        if self.calls_over_tls:
            return {"presence": self.presence_tls_addr, "persistence": self.persistence_tls_addr}
        return {"presence": self.presence_addr, "persistence": self.persistence_addr}
