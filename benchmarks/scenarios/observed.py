"""Scenario ``observed``: what an open dashboard, and tracing at 1 %, add to the cost of a forwarded request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.figures import CPU_US, Figure, Target
from benchmarks.peers import upstreams
from benchmarks.rig.ports import LOOPBACK
from benchmarks.rig.server import Server
from benchmarks.rig.slices import State, compare
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench

LOAD = Load("/user/{}", varying=True)
PAIRS = 6  # slices for each of the pairs of the command line
MOST_US = 1.0
VERDICT_EVERY = 5.0  # seconds between two requests of the page for the verdict
_SETTLE = 0.2  # seconds from opening the page until a slice begins: the snapshot has been sent


class Observed:
    """Metrics and access log are on; the difference is that of one page, or of ``tracing`` with a sample of 1 %."""

    name = "observed"
    about = "cost of an open dashboard, and of tracing at 1 %"
    peers: tuple[str, ...] = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        plain, traced = bench.ours(), bench.ours()
        with _collector() as endpoint:
            tracing = {"tracing": {"endpoint": endpoint, "sample": "1%"}}
            servers: list[Server] = []
            for name, gateway, more in (("plain", plain, {}), ("traced", traced, tracing)):
                site = bench.site(name, addresses)
                command = gateway.forward(site, more=more)
                servers.append(bench.start(name, site, command, LOAD.sample(), upstreams.USER))
            plain_server, traced_server = servers
            page = Page(plain.admin_port)
            alone = State("alone", plain_server)
            for variant, other in (
                ("dashboard open", State("dashboard", plain_server, page.opened)),
                ("tracing at 1 %", State("tracing", traced_server)),
            ):
                found = compare(bench.rig, alone, other, LOAD, PAIRS * bench.pairs, bench.progress)
                yield Figure(
                    self.name,
                    variant,
                    CPU_US,
                    found.difference,
                    pairs=found.pairs,
                    errors=found.errors,
                    noisy=found.noisy,
                    target=Target(MOST_US, absolute=True),
                    more={"low": found.low, "high": found.high, "without_us": found.first, "with_us": found.second},
                )


class Page:
    """What an open dashboard requests from the admin port: the stream of the live view, and sometimes the verdict."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._verdict_at = 0.0

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Have the page open."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=10)
        connection.request("GET", "/live", headers={"Accept": "text/event-stream"})
        sock = connection.sock
        response = connection.getresponse()
        closing = threading.Event()

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):
                while not closing.is_set() and response.readline():
                    if time.monotonic() >= self._verdict_at:
                        self._verdict_at = time.monotonic() + VERDICT_EVERY
                        self._request_verdict()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        time.sleep(_SETTLE)
        try:
            yield
        finally:
            closing.set()
            sock.shutdown(socket.SHUT_RDWR)
            reader.join(10)
            response.close()
            connection.close()

    def _request_verdict(self) -> None:
        connection = HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            connection.request("GET", "/diagnose")
            connection.getresponse().read()
        finally:
            connection.close()


class _Accepting(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    """Accept spans on the load's CPU, and return the address for them."""
    server = ThreadingHTTPServer((LOOPBACK, 0), _Accepting)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
