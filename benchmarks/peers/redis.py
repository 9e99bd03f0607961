"""Redis, which gateways share. It uses one CPU, and writes nothing to disk here."""

from __future__ import annotations

import socket

from benchmarks.peers.base import first_line, lacks_program, program
from benchmarks.rig.core import Rig
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server


class Redis:
    """The peer of scenarios that measure what gateways cost it."""

    name = "redis"

    def missing(self) -> str | None:
        return lacks_program("redis-server", "redis-server")

    def version(self) -> str:
        return first_line("redis-server", "--version")

    def start(self, rig: Rig, *, under_test: bool) -> Server:
        """Start it, on the CPU of servers ``under_test`` or on that of the load."""
        port, folder = rig.port(), rig.subfolder(self.name)
        words = [program("redis-server"), "--bind", LOOPBACK, "--port", str(port), "--save", "", "--dir", str(folder)]
        return rig.start_accepting(self.name, words, port, folder, under_test=under_test)


def keyspace_hits(server: Server) -> int:
    """Return how many keys were read and existed since the start."""
    return int(_info(server, b"stats")[b"keyspace_hits"])


def keys_of(server: Server, database: int) -> int:
    """Return the number of keys in a database."""
    found = _info(server, b"keyspace").get(b"db%d" % database, b"keys=0")
    return int(found.partition(b",")[0].removeprefix(b"keys="))


def _info(server: Server, section: bytes) -> dict[bytes, bytes]:
    with socket.create_connection((LOOPBACK, server.port), timeout=10) as connection, connection.makefile("rb") as file:
        connection.sendall(b"INFO %b\r\n" % section)
        size = int(file.readline().removeprefix(b"$"))
        lines = file.read(size).splitlines()
    return {name: value for name, separator, value in (line.partition(b":") for line in lines) if separator}
