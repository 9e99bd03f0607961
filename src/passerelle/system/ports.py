"""TCP ports: the gateway's listening sockets, and free local ports for instances."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import random
import socket
import stat
from collections.abc import Collection

LOOPBACK = "127.0.0.1"


class PortTaken(Exception):
    """An address that cannot be listened on; the text is one line for the user."""


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(host: str, port: int, *, share: bool = False, only_ipv6: bool = False) -> socket.socket:
    sock = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        # Connections of an earlier run in TIME_WAIT do not block the port. On Linux this does not let two sockets
        # listen on one address.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            # `[::]` is every interface, for IPv6 and IPv4, whatever the default of the machine.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6 or host != "::")
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def reserve(host: str, port: int, count: int = 1, *, only_ipv6: bool = False) -> list[socket.socket]:
    """Return ``count`` sockets bound to one address, one per worker.

    They do not listen yet, so no client connects too early. They outlive the workers: while a dead worker is replaced,
    its connections wait in the kernel instead of being refused. If ``count`` is above one, the sockets share the port
    (SO_REUSEPORT). ``port`` 0 selects a free one. With ``only_ipv6``, ``::`` leaves IPv4 to another socket.

    :raises PortTaken: if the port is in use, or the address is not local or not permitted.
    """
    sockets: list[socket.socket] = []
    try:
        if port:
            # Only listen() detects that a port is in use: two sockets could both bind, and with SO_REUSEPORT this
            # gateway would silently share the traffic of another gateway of the same user.
            with _bind(host, port, only_ipv6=only_ipv6) as probe:
                probe.listen(1)
        for _ in range(count):
            sockets.append(_bind(host, port, share=count > 1, only_ipv6=only_ipv6))
            port = int(sockets[0].getsockname()[1])
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise PortTaken(_error_text(host, port, error)) from error
    return sockets


def for_clients(host: str, port: int, count: int = 1, *, only_ipv6: bool = False) -> list[socket.socket]:
    """Reserve the address of the listener, with an error text that names its option."""
    try:
        return reserve(host, port, count, only_ipv6=only_ipv6)
    except PortTaken as error:
        raise PortTaken(f"{error}; choose another with --listen") from error


def for_local_clients(path: str, mode: int) -> socket.socket:
    """Bind a Unix socket with the permissions ``mode``. One that a process has left behind is replaced.

    :raises PortTaken: if a process listens there, if another kind of file is there, or if the folder cannot be used.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)  # nothing can connect before listen()
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "a process listens there, or another kind of file is there"
        raise PortTaken(f"cannot listen on unix:{path}: {reason[:1].lower()}{reason[1:]}") from error
    return sock


def _remove_stale(path: str) -> None:
    """Remove a Unix socket on which no process listens."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
                except BlockingIOError:
                    pass  # its backlog is full


def name_of(sock: socket.socket) -> tuple[str, int]:
    """Return the host and port of a bound socket; for a Unix socket its path, and 0."""
    name = sock.getsockname()
    if isinstance(name, tuple):
        return name[0], name[1]
    return os.fsdecode(name), 0


def for_admin(host: str, port: int) -> socket.socket:
    """Reserve the address of the admin port, with an error text that names its option."""
    try:
        return reserve(host, port)[0]
    except PortTaken as error:
        raise PortTaken(f"{error} (the admin address); choose another with --admin, or off") from error


def _error_text(host: str, port: int, error: OSError) -> str:
    address = join(host, port)
    if error.errno == errno.EADDRINUSE:
        holder = _port_owner(port)
        by = f" by {holder}" if holder else ""
        return f"cannot listen on {address}: port {port} is taken{by}"
    if error.errno == errno.EACCES:
        return f"cannot listen on {address}: not allowed to take port {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: {host} is not an address of this machine"
    return f"cannot listen on {address}: {error.strerror or error}"


def _port_owner(port: int) -> str:
    """Return the process that listens on ``port`` as ``name (pid N)``, or an empty string if /proc does not show it."""
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


def _port_range() -> range:
    """Return ports below the ephemeral range, which no outgoing connection takes before the child binds."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low = int(file.read().split()[0])
    except (OSError, ValueError):
        low = 32768
    return range(20000, low) if low >= 21000 else range(10240, 20000)


def free(avoid: Collection[int] = (), rng: random.Random | None = None) -> int:
    """Return a loopback port that is free now and not in ``avoid`` (ports already assigned).

    Another process can still take it before the child binds it; the child then fails and is restarted on another port.

    :raises PortTaken: if no port is free.
    """
    ports = _port_range()
    start = (rng or random).randrange(len(ports))
    for step in range(len(ports)):
        port = ports[(start + step) % len(ports)]
        if port in avoid:
            continue
        try:
            # Without SO_REUSEADDR: a child that does not set it cannot use a port with connections in TIME-WAIT.
            with socket.socket() as sock:
                sock.bind((LOOPBACK, port))
                sock.listen(1)
                return port
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise PortTaken(f"no free port on {LOOPBACK} could be found: out of file descriptors") from error
    raise PortTaken(f"no free port between {ports[0]} and {ports[-1]} on {LOOPBACK}")


def join(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 address (RFC 3986 §3.2.2), or ``unix:`` and a path."""
    if host.startswith("/"):
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(host: str) -> bool:
    """Whether ``host`` is an IP address of this machine."""
    try:
        ipaddress.ip_address(host)
        with socket.socket(_family(host), socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


def split(address: str) -> tuple[str, int]:
    """Split ``host:port``, the inverse of :func:`join`; a bare ``:port`` or ``port`` is on loopback.

    :raises ValueError: if there is no port between 0 and 65535.
    """
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return host.strip("[]") or LOOPBACK, int(port)
