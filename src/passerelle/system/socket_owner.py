"""The user whose process has the other end of a connection on this machine."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG: sock_diag(7)
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY, of requests and of replies
_REQUEST = 1  # NLM_F_REQUEST
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_NO_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # interface 0 and INET_DIAG_NOCOOKIE
_UID = _HEADER.size + 4 + 48 + 12  # of idiag_uid: after four octets, the addresses, and three numbers
_LIMIT = 1.0  # seconds for the reply of the kernel


def of_peer(sock: Any) -> int | None:
    """Return the user id of the process at the other end of ``sock``; None if it cannot be found out.

    ``sock`` is a connected socket over a Unix socket or over TCP on loopback.
    """
    with contextlib.suppress(OSError, struct.error, ValueError):
        if sock.family == socket.AF_UNIX:
            _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(uid)
        ends = sock.family, sock.getpeername(), sock.getsockname()
        try:
            return by_netlink(*ends)
        except OSError:  # services and containers may not have this family of sockets
            return by_table(*ends)
    return None


def by_table(family: int, source: Any, destination: Any) -> int | None:
    """Return the owner of the TCP socket at ``source`` that is connected to ``destination``, from the table in /proc.

    The kernel writes a line for each connection of the machine.
    """
    wanted = [_in_table(family, source), _in_table(family, destination)]
    with open("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp", encoding="ascii") as table:
        for line in table:
            words = line.split()
            if words[1:3] == wanted:
                return int(words[7])
    return None


def _in_table(family: int, end: Any) -> str:
    address = socket.inet_pton(family, end[0])
    words = struct.unpack(f"={len(address) // 4}I", address)
    return "".join(f"{word:08X}" for word in words) + f":{end[1]:04X}"


def by_netlink(family: int, source: Any, destination: Any) -> int | None:
    """Return the owner of the TCP socket at ``source`` that is connected to ``destination``.

    The kernel looks the socket up in its hash table, so the number of other connections does not matter.
    """
    ports = struct.pack("!HH", source[1], destination[1])
    addresses = b"".join(socket.inet_pton(family, end[0]).ljust(16, b"\0") for end in (source, destination))
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + ports + addresses + _NO_COOKIE
    message = _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST, 0, 0) + request
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
        kernel.settimeout(_LIMIT)
        kernel.send(message)
        reply = kernel.recv(4096)
    if _HEADER.unpack_from(reply)[1] != _BY_FAMILY:
        return None  # an error: there is no such socket any more
    return int(struct.unpack_from("=I", reply, _UID)[0])
