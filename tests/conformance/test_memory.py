"""Large bodies pass through a worker without accumulating: measured from outside, on a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import Client, head
from tests.support.upstream import Connection, Upstream, ok

ROOT = Path(__file__).resolve().parents[2]
SIZE = 1 << 30
PIECE = bytes(1 << 20)
GROWTH = 20 << 20


@contextmanager
def worker(upstream: Upstream) -> Iterator[tuple[int, Callable[[], int]]]:
    """Start a gateway that forwards everything; yield its port and a function that returns its resident bytes."""
    settings = {
        "listen": "127.0.0.1:0",
        "admin": "off",
        "access_log": "off",
        "services": {"u": {"targets": [upstream.url]}},
        "routes": [{"path": "/{rest*}", "service": "u", "body": "unlimited"}],
    }
    command = [sys.executable, "-m", "tests.support.serve"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(settings) + "\n")
        process.stdin.flush()
        port = int(process.stdout.readline())

        def resident() -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            return int(json.loads(process.stdout.readline())["resident_bytes"])

        yield port, resident
    finally:
        process.kill()
        process.communicate()


def drain(wire: Connection | Client, size: int) -> None:
    """Read ``size`` bytes and discard them."""
    size -= len(wire.buffer)
    wire.buffer.clear()
    scratch = bytearray(1 << 20)
    wire.sock.settimeout(30)
    while size > 0:
        got = wire.sock.recv_into(scratch, min(size, len(scratch)))
        assert got, f"closed {size} bytes before the end"
        size -= got


class Highest:
    """Maximum of ``value()`` while the block runs."""

    def __init__(self, value: Callable[[], int]) -> None:
        self.value = value
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self.value())

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_down_grows_the_worker_by_less_than_20_mb(framing: str) -> None:
    def script(conn: Connection) -> None:
        while True:
            small = conn.read_request().target == b"/small"
            if small:
                conn.send(ok(b"warm"))
            elif framing == "length":
                conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                conn.stream(PIECE, SIZE // len(PIECE))
            else:
                conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                conn.stream(b"%x\r\n%b\r\n" % (len(PIECE), PIECE), SIZE // len(PIECE))
                conn.send(b"0\r\n\r\n")

    upstream = Upstream(script)
    try:
        with worker(upstream) as (port, resident), Client(port) as client:
            assert client.request("GET", "/small").body == b"warm"
            before = resident()
            with Highest(resident) as highest:
                client.send(head("GET", "/large"))
                client.until(b"\r\n\r\n")
                if framing == "length":
                    drain(client, SIZE)
                else:
                    drain(client, SIZE)  # the chunk-size lines are additional, and still to be read
                    client.until(b"\r\n0\r\n\r\n", 20)
            assert highest.most - before < GROWTH, f"{(highest.most - before) >> 20} MiB more at the highest"
        upstream.check()
    finally:
        upstream.close()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_gigabyte_up_grows_the_worker_by_less_than_20_mb(framing: str) -> None:
    def script(conn: Connection) -> None:
        while True:
            request = conn.read_head()
            if request.target == b"/large":
                drain(conn, SIZE)
                if framing == "chunked":
                    conn.until(b"\r\n0\r\n\r\n", 20)
            conn.send(ok(b"done"))

    upstream = Upstream(script)
    try:
        with worker(upstream) as (port, resident), Client(port) as client:
            assert client.request("GET", "/small").body == b"done"
            before = resident()
            with Highest(resident) as highest:
                client.sock.settimeout(30)
                if framing == "length":
                    client.sock.sendall(head("POST", "/large", length=SIZE))
                    piece = PIECE
                else:
                    client.sock.sendall(head("POST", "/large", ("Transfer-Encoding", "chunked")))
                    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
                for _ in range(SIZE // len(PIECE)):
                    client.sock.sendall(piece)
                if framing == "chunked":
                    client.sock.sendall(b"0\r\n\r\n")
                assert client.read_response("POST", 30).body == b"done"
            assert highest.most - before < GROWTH, f"{(highest.most - before) >> 20} MiB more at the highest"
        upstream.check()
    finally:
        upstream.close()
