"""The parts of a checked URL of the configuration: one Redis, or the Sentinels that know which Redis is the master."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

_SENTINEL: Final = "+sentinel"


@dataclass(frozen=True, slots=True)
class RedisLocation:
    """``nodes`` are Sentinels if ``master``, the name under which they watch the Redis, is not empty."""

    nodes: tuple[tuple[str, int], ...]
    database: int
    secure: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    master: str = ""

    @property
    def label(self) -> str:
        """The addresses, for logs: without the password."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)

    @property
    def tls(self) -> dict[str, Any]:
        """Options of the package ``redis`` for TLS, which also hold for Sentinels."""
        return {"ssl": True, "ssl_check_hostname": True} if self.secure else {}

    @property
    def options(self) -> dict[str, Any]:
        """Options of the package ``redis``, without the address."""
        return {**self.tls, "db": self.database, "username": self.username, "password": self.password}


def locate(url: str) -> RedisLocation:
    """Split ``redis[s][+sentinel]://[user:password@]host:port[,host:port…][/name][/database]``."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    credentials, _, nodes = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    *master, database = path.split("/") if path else ["0"]
    return RedisLocation(
        tuple(_node(node) for node in nodes.split(",")),
        int(database or 0),
        scheme.startswith("rediss"),
        unquote(username) or None,
        unquote(password) or None,
        master[0] if scheme.endswith(_SENTINEL) else "",
    )


def _node(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, "6379"
    return host.strip("[]"), int(port)
