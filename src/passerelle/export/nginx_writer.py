"""What both exports to nginx write: blocks of directives, the main block, the listener."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from passerelle.config.models.addresses import Address
from passerelle.export.deployment import Deployment
from passerelle.export.listener_certificate import listener_pair
from passerelle.export.nginx_text import duration, size, word

CACHE_FOLDER = "/var/cache/passerelle-nginx"
"""Where nginx stores responses."""

_OTHER_FILES = 1024  # stored responses, logs, listeners


class Writer:
    """Text of directives and blocks, indented by four spaces."""

    def __init__(self, depth: int = 0) -> None:
        self._lines: list[str] = []
        self._depth = depth

    def add(self, *words: str) -> None:
        """Write a directive. Words are written as they are: quote values before."""
        self._lines.append("    " * self._depth + " ".join(words) + ";")

    def comment(self, text: str) -> None:
        """Write a comment."""
        self._lines.append("    " * self._depth + f"# {text}")

    def gap(self) -> None:
        """Write an empty line."""
        self._lines.append("")

    def append(self, other: Writer) -> None:
        """Append what another writer has written."""
        self._lines += other._lines

    @contextmanager
    def block(self, *words: str) -> Iterator[None]:
        """Write a block; what is written in the context is inside it."""
        self._lines.append("    " * self._depth + " ".join(words) + " {")
        self._depth += 1
        yield
        self._depth -= 1
        self._lines.append("    " * self._depth + "}")

    @property
    def text(self) -> str:
        """The whole text."""
        return "\n".join(self._lines) + "\n"


def write_main(out: Writer, deployment: Deployment, workers: str) -> None:
    """Write the part of the file outside `http`."""
    out.comment(deployment.header)
    # nginx counts connections to instances as well.
    connections = 2 * deployment.config.limits.connections
    if deployment.config.user is not None:
        out.add("user", deployment.config.user, *filter(None, (deployment.config.group,)))
    out.add("worker_processes", workers)
    out.add("worker_rlimit_nofile", str(connections + _OTHER_FILES))
    out.gap()
    with out.block("events"):
        out.add("worker_connections", str(connections))
    out.gap()


def write_limits(out: Writer, deployment: Deployment) -> None:
    """Write the limits on the connections of clients."""
    limits = deployment.config.limits
    out.add("server_tokens", "off")
    out.add("client_header_timeout", duration(limits.head_timeout))
    out.add("client_body_timeout", duration(limits.body_timeout))
    out.add("send_timeout", duration(limits.write_timeout))
    out.add("keepalive_timeout", duration(limits.idle_timeout))
    # One line has a quarter of the head at most.
    out.add("large_client_header_buffers", "4", size(max(-(-limits.head // 4096), 1) * 1024))


def write_upgrade(out: Writer) -> None:
    """Write the map for connections that become tunnels (WebSocket); others are kept open for the next request."""
    with out.block("map", "$http_upgrade", "$connection_upgrade"):
        out.add("default", "upgrade")
        out.add('""', '""')


def write_listener(out: Writer, deployment: Deployment, scheme: str, address: Address, *options: str) -> None:
    """Write the directives of the listener for clients that use ``scheme``."""
    tls = deployment.config.tls if scheme == "https" else None
    out.add("listen", str(address), *(["ssl"] if tls is not None else []), *options)
    if tls is None:
        return
    certificate, key = listener_pair(deployment.config)
    out.add("ssl_certificate", word(deployment.path(certificate)))
    out.add("ssl_certificate_key", word(deployment.path(key)))
    out.add("ssl_protocols", *(["TLSv1.2"] if tls.minimum == "1.2" else []), "TLSv1.3")
    if tls.ciphers:
        out.add("ssl_ciphers", ":".join(tls.ciphers))
        out.add("ssl_prefer_server_ciphers", "on")
    if tls.curve is not None:
        out.add("ssl_ecdh_curve", tls.curve)
