"""Ports: the listeners of the gateway, and free local ports for instances."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from collections.abc import Collection

from passerelle.config.models.addresses import Address

LOOPBACK = "127.0.0.1"


class PortTaken(Exception):
    """An address that cannot be listened on; the text is one line for the user."""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bound(host: str, port: int, *, share: bool = False) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        # So that connections of an earlier run in TIME_WAIT do not keep the port; on Linux this does not let two
        # sockets listen on one address.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def reserve(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """``count`` sockets bound to one address, one for each worker; not listening yet, so nobody connects too early.

    They outlive the workers: while a dead worker is replaced its connections wait in the kernel instead of being
    refused. With ``count`` above one they share the port (SO_REUSEPORT). ``port`` nought takes a free one.

    :raises PortTaken: when somebody listens there already, or the address is not this machine's or not allowed.
    """
    sockets: list[socket.socket] = []
    try:
        if port:
            # Only listening tells a stranger's port: bound alone, ours and theirs could both succeed, and with
            # SO_REUSEPORT we would quietly share the traffic of another gateway of the same user.
            with _bound(host, port) as probe:
                probe.listen(1)
        for _ in range(count):
            sockets.append(_bound(host, port, share=count > 1))
            port = int(sockets[0].getsockname()[1])
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise PortTaken(_why(host, port, error)) from error
    return sockets


def for_clients(listen: Address, count: int = 1) -> list[socket.socket]:
    """:func:`reserve` for where clients connect."""
    try:
        return reserve(listen.host, listen.port, count)
    except PortTaken as error:
        raise PortTaken(f"{error}; choose another with --listen") from error


def for_admin(admin: Address) -> socket.socket:
    """:func:`reserve` for the admin port."""
    try:
        return reserve(admin.host, admin.port)[0]
    except PortTaken as error:
        raise PortTaken(f"{error} (the admin address); choose another with --admin, or off") from error


def _why(host: str, port: int, error: OSError) -> str:
    address = join(host, port)
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        by = f" by {holder}" if holder else ""
        return f"cannot listen on {address}: port {port} is taken{by}"
    if error.errno == errno.EACCES:
        return f"cannot listen on {address}: not allowed to take port {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: {host} is not an address of this machine"
    return f"cannot listen on {address}: {error.strerror or error}"


def _holder(port: int) -> str:
    """Who listens on ``port``, as far as /proc lets us see: ``name (pid N)`` or nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                part = line.split()
                # local_address, st (0A is LISTEN) and inode: proc(5)
                if part[3] == "0A" and int(part[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{part[9]}]")
    if not inodes:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
    return ""


def _range() -> range:
    """Ports below the kernel's own choice, which no outgoing connection takes between our look and the child's bind."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low = int(file.read().split()[0])
    except (OSError, ValueError):
        low = 32768
    return range(20000, low) if low >= 21000 else range(10240, 20000)


def free(avoid: Collection[int] = (), rng: random.Random | None = None) -> int:
    """A loopback port that nobody has at this moment and that is not in ``avoid`` (ports promised to others).

    It can still be lost before the child binds it; the child then fails, and is started again on another.

    :raises PortTaken: when none is left.
    """
    ports = _range()
    start = (rng or random).randrange(len(ports))
    for step in range(len(ports)):
        port = ports[(start + step) % len(ports)]
        if port in avoid:
            continue
        try:
            with _bound(LOOPBACK, port) as sock:
                sock.listen(1)
                return port
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise PortTaken(f"no free port on {LOOPBACK} could be found: out of file descriptors") from error
    raise PortTaken(f"no free port between {ports[0]} and {ports[-1]} on {LOOPBACK}")


def join(host: str, port: int) -> str:
    """``host:port`` with brackets where the host is an IPv6 address (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """The inverse of :func:`join`; a bare ``:port`` or ``port`` is on loopback.

    :raises ValueError: when there is no port between 0 and 65535.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]") or LOOPBACK, int(port)
