"""Whether a connection comes from the gateway, whose header fields about the client are believed.

The owner of the socket at the other end decides: a process of another user on this machine may connect, but what it
states about the client is ignored. From other machines, the addresses in ``FORWARDED_ALLOW_IPS`` are believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from typing import Any

from passerelle.system import socket_owner

# The addresses and networks of gateways on other machines; `*` states that only gateways can connect.
GATEWAYS = frozenset(filter(None, os.environ.get("FORWARDED_ALLOW_IPS", "").replace(" ", "").split(",")))


def is_gateway(transport: asyncio.BaseTransport) -> bool:
    """Return whether the client of ``transport`` may state who its own client is."""
    sock: Any = transport.get_extra_info("socket")
    if "*" in GATEWAYS or sock is None:
        return "*" in GATEWAYS
    if sock.family != socket.AF_UNIX:
        peer = transport.get_extra_info("peername")
        host = peer[0] if peer else ""
        if _is_stated(host):
            return True
        if not host.startswith("127.") and host != "::1":
            return False
    return socket_owner.of_peer(sock) in (0, os.geteuid())


def _is_stated(host: str) -> bool:
    """Whether ``host`` is one of :data:`GATEWAYS`, or in a network that is one of them."""
    if host in GATEWAYS:
        return True
    for each in GATEWAYS:
        if "/" in each:
            with contextlib.suppress(ValueError):  # no network, or no address
                if ipaddress.ip_address(host) in ipaddress.ip_network(each, strict=False):
                    return True
    return False
