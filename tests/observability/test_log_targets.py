"""The access log sent to syslog servers and journald: messages, servers that are down, bounds."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from passerelle.observability.log_formats import converter
from passerelle.observability.log_targets import (
    Encode,
    QueuedSink,
    SocketTarget,
    journal_message,
    syslog_message,
)
from tests.observability.test_log_formats import line
from tests.observability.test_log_sink import until

LINE = line() + b"\n"


def raw(found: bytes) -> bytes:
    """Send the line itself."""
    return found


@contextmanager
def sink_to(
    target: SocketTarget, warnings: list[str] | None = None, limit: int = 1 << 20, encode: Encode = raw
) -> Iterator[QueuedSink]:
    heard: list[str] = [] if warnings is None else warnings
    sink = QueuedSink(target, encode, limit=limit, warn=heard.append, retry=0.02)
    try:
        yield sink
    finally:
        sink.close(0.2)


def put(sink: QueuedSink, *lines: bytes) -> None:
    sink.put(list(lines), sum(map(len, lines)))


def datagrams(family: int = socket.AF_INET, address: str | tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    receiver.bind(address)
    receiver.settimeout(10)
    return receiver


def read_until(peer: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        more = peer.recv(65536)
        assert more, data
        data += more
    return data


def test_a_message_of_syslog() -> None:
    encode = syslog_message(converter("combined"), host="gate 1\n", pid=7)
    head = b"<134>1 2025-11-25T02:09:03.250Z gate1 passerelle 7 access - "
    assert encode(line()).startswith(head + b"192.0.2.7 - - [")
    assert syslog_message(None, host="", pid=7)(line(status=502)).startswith(b"<132>1 2025-11-25T02:09:03.250Z - ")
    assert syslog_message(None, host="h", pid=7)(line()).endswith(line())


@pytest.mark.parametrize("target", [b"/a\nMESSAGE=forged", b"/\xff\n<34>1 - forged"])
def test_no_client_forges_a_message(target: bytes) -> None:
    assert b"\n" not in syslog_message(None, host="h", pid=7)(line(target=target))
    entry = fields(journal_message(converter("combined"))(line(target=target)))
    assert "MESSAGE" in entry and b"\n" not in entry["MESSAGE"]
    assert entry["PASSERELLE_TARGET"].decode().encode("latin-1") == target


def fields(entry: bytes) -> dict[str, bytes]:
    """Parse journald's native protocol; a field that is there twice is an error."""
    found: dict[str, bytes] = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        assert re.fullmatch(rb"[A-Z_]+", name) and name.decode() not in found
        size = int.from_bytes(rest[:8], "little")
        found[name.decode()] = rest[8 : 8 + size]
        assert rest[8 + size : 9 + size] == b"\n"
        entry = rest[9 + size :]
    return found


def test_an_entry_of_the_journal() -> None:
    entry = fields(journal_message(None)(line(status=503, instance=None)))
    assert entry["MESSAGE"] == line(status=503, instance=None)
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == (b"4", b"passerelle")
    assert (entry["PASSERELLE_STATUS"], entry["PASSERELLE_ROUTE"]) == (b"503", b"/user/{id}")
    assert "PASSERELLE_INSTANCE" not in entry


def test_datagrams_over_udp_and_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with closing(datagrams()) as udp, closing(datagrams(socket.AF_UNIX, path)) as unix:
        port = udp.getsockname()[1]
        for target, receiver in (
            (SocketTarget("udp", "127.0.0.1", port), udp),
            (SocketTarget("unix", path, 0), unix),
            (SocketTarget("journald", path, 0), unix),
        ):
            with sink_to(target) as sink:
                put(sink, b"1\n", b"2\n")
                assert (receiver.recv(100), receiver.recv(100)) == (b"1", b"2")
            assert sink.counts() == (2, 0)


def test_a_stream_has_the_length_of_each_message(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with closing(socket.create_server(("127.0.0.1", 0))) as tcp, closing(socket.socket(socket.AF_UNIX)) as unix:
        unix.bind(path)
        unix.listen()
        for target, server in (
            (SocketTarget("tcp", *tcp.getsockname()[:2]), tcp),
            (SocketTarget("unix", path, 0), unix),
        ):
            with sink_to(target) as sink:
                put(sink, b"one\n", b"three\n")
                peer = server.accept()[0]
                with peer:
                    assert read_until(peer, b"three") == b"3 one5 three"


def listening(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    return server


def test_a_server_that_dies_gets_the_rest_when_it_is_back(tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "log"
    target = SocketTarget("unix", str(path), 0)
    with closing(listening(path)) as server:
        sink = QueuedSink(target, raw, warn=warnings.append, retry=0.02)
        put(sink, b"1\n")
        with server.accept()[0] as first:
            assert read_until(first, b"1") == b"1 1"
    path.unlink()
    put(sink, b"2\n")
    until(lambda: bool(warnings))
    assert re.fullmatch(rf"access log \(syslog\+unix:{path}\): .+; 0 lines dropped so far", warnings[0])
    with closing(listening(path)) as server:
        with server.accept()[0] as again:
            assert read_until(again, b"2") == b"1 2"
        sink.close(1)
    assert sink.counts() == (2, 0)


def test_what_waits_for_a_dead_server_is_bounded_and_counted() -> None:
    with closing(datagrams()) as probe:
        port = probe.getsockname()[1]
    with sink_to(SocketTarget("tcp", "127.0.0.1", port), limit=10 * len(LINE)) as sink:
        for _ in range(100):
            put(sink, LINE)
        assert sink.counts() == (0, 90)
    assert sink.counts() == (0, 100)
    put(sink, LINE)
    assert sink.counts() == (0, 101)


def test_a_server_that_reads_nothing_does_not_block_requests() -> None:
    senders: set[int] = set()

    def huge(found: bytes) -> bytes:
        senders.add(threading.get_ident())
        return found * 20_000

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        target = SocketTarget("tcp", *server.getsockname()[:2], timeout=0.05)
        warnings: list[str] = []
        with sink_to(target, warnings, limit=50 * len(LINE), encode=huge) as sink:
            for _ in range(60):
                put(sink, LINE)
            until(lambda: bool(warnings))  # the buffers of the connection are full, and the write has timed out
            assert sink.counts()[1] >= 10 - sink.counts()[0]
        assert sum(sink.counts()) == 60
    assert senders and threading.get_ident() not in senders


def test_a_line_that_cannot_be_converted_is_dropped_and_the_next_is_sent() -> None:
    warnings: list[str] = []
    encode = syslog_message(None, host="gw", pid=7)
    with (
        closing(datagrams()) as receiver,
        sink_to(SocketTarget("udp", *receiver.getsockname()), warnings, encode=encode) as sink,
    ):
        put(sink, b'{"time": "\xed\xa0\xbd"}\n', LINE)
        assert receiver.recv(65536).endswith(LINE.rstrip(b"\n"))
        until(lambda: sink.counts() == (1, 1))
    assert len(warnings) == 1 and "a line cannot be converted" in warnings[0]


def test_a_name_that_no_server_can_have_is_retried_as_one_that_is_down() -> None:
    warnings: list[str] = []
    with sink_to(SocketTarget("udp", "logs..example", 514), warnings) as sink:
        put(sink, LINE)
        until(lambda: bool(warnings))
    assert sink.counts() == (0, 1)
