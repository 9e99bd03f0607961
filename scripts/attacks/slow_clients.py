"""Attack a gateway with slow clients of every kind, and measure what another client notices.

Everything runs on loopback, and ends: services, a gateway without TLS and one with TLS, ``--clients`` slow clients of
one address, and one client of another address that sends requests all the time, each in processes of their own. The
services have a circuit breaker, ejection after two failures, an adaptive limit, or default limits only; each slow
client uses one of them. The latency during an attack is measured from the moment when all slow clients have connected
and sent what they send first: their number costs CPU time, their slowness must not.

The exit code is 1 if, during an attack, a request of the other client fails, an instance is ejected, a breaker is not
closed, or (without ``--no-timing``) the client's p99 is over 1.5 times the one before plus 20 ms of noise. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

RATIO, NOISE = 1.5, 0.02  # p99 may be RATIO times as long as before, and NOISE seconds more
ATTACKER, OTHER = "127.0.0.1", "127.0.0.9"
BIG = 4 << 20
BUFFER = 16_384  # for the responses to one slow client, in bytes: what is sent waits in the gateway
PER_SECOND = 100  # slow clients that connect
SERVICES: dict[str, dict[str, object]] = {
    "plain": {},
    "ejecting": {"eject": {"failures": 2}},
    "breaking": {"breaker": {"minimum": 5}, "eject": "off"},
    "adaptive": {"concurrency": "adaptive"},
}


# ---- the services


async def serve_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Respond at once, except where the last segment of the path names something slow."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            what = head.split(b" ", 2)[1].rpartition(b"/")[2]
            found = re.search(rb"(?i)content-length: (\d+)", head)
            size = int(found[1]) if found else 0
            if what == b"ws":
                writer.write(b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                await reader.read()
                break
            if what == b"events":
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                await reader.read()
                break
            if what == b"refuse":
                writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
            while size > 0 and (piece := await reader.read(min(size, 65536))):
                size -= len(piece)
            if what == b"big":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
                for _ in range(BIG >> 18):
                    writer.write(bytes(1 << 18))
                    await writer.drain()
            elif what != b"refuse":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
    writer.close()


async def serve(ports: list[int]) -> None:
    """Serve on ``ports``."""
    servers = [await asyncio.start_server(serve_requests, "127.0.0.1", port, backlog=1024) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


# ---- the slow clients: each gets a connection, and keeps it as long as the attack lasts

Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


def make_head(method: str, path: str, *fields: str) -> bytes:
    """Return the head of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: gw", *fields, "", ""]).encode()


async def slow_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Send one header field a second."""
    writer.write(make_head("GET", f"/{service}/x")[:-2])
    while True:
        await asyncio.sleep(1)
        writer.write(b"X: y\r\n")


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Send 300 bytes of a body a second."""
    writer.write(make_head("POST", f"/{service}/x", "Content-Length: 100000"))
    while True:
        writer.write(bytes(300))
        await asyncio.sleep(1)


async def stalled_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Send one byte of a body."""
    writer.write(make_head("PUT", f"/{service}/x", "Content-Length: 100000") + b"x")


async def refused_upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Send one byte of a body that is refused early."""
    writer.write(make_head("POST", f"/{service}/refuse", "Content-Length: 100000") + b"x")


async def closing_upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Announce a body that is refused early, with Connection: close, and send none of it."""
    writer.write(make_head("POST", f"/{service}/refuse", "Content-Length: 75", "Connection: close"))


async def slow_reader(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Ask for a large response and read nothing of it."""
    writer.write(make_head("GET", f"/{service}/big"))


async def idle_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Open a WebSocket and stay silent."""
    writer.write(make_head("GET", f"/{service}/ws", "Connection: Upgrade", "Upgrade: websocket"))


async def events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Open a stream of events."""
    writer.write(make_head("GET", f"/{service}/events"))


async def ended_events(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Open a stream of events, and close the sending side."""
    writer.write(make_head("GET", f"/{service}/events"))
    await writer.drain()
    writer.write_eof()


async def half_open_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, service: str) -> None:
    """Send the beginning of a TLS handshake."""
    writer.write(b"\x16\x03\x01")


ATTACKS: tuple[Attack, ...] = (
    slow_head,
    slow_body,
    stalled_body,
    refused_upload,
    closing_upload,
    slow_reader,
    idle_websocket,
    events,
    ended_events,
    half_open_tls,
)


async def hold(attack: Attack, port: int, service: str, delay: float) -> None:
    """Run one slow client, ``delay`` seconds from now, until its connection ends."""
    await asyncio.sleep(delay)
    with contextlib.suppress(OSError):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setblocking(False)
        sock.bind((ATTACKER, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        try:
            cast(asyncio.Transport, writer.transport).pause_reading()
            await attack(reader, writer, service)
            await asyncio.Event().wait()
        finally:
            writer.transport.abort()


# ---- the other client


class Client(threading.Thread):
    """Sends requests to all services in turn until :meth:`stop`; ``seconds`` has their durations."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._tls = tls
        self._stopped = threading.Event()
        self.seconds: list[float] = []
        self.measured_from = 0.0
        self.errors: list[str] = []

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self._port, timeout=10, source_address=(OTHER, 0))
        return http.client.HTTPSConnection(
            "localhost", self._port, timeout=10, source_address=(OTHER, 0), context=self._tls
        )

    def run(self) -> None:
        """Send requests."""
        connection = self._connect()
        while not self._stopped.is_set():
            for service in SERVICES:
                start = time.perf_counter()
                try:
                    connection.request("GET", f"/{service}/x")
                    response = connection.getresponse()
                    response.read()
                    if response.status != 200:
                        self.errors.append(f"{service}: {response.status}")
                except OSError as error:
                    self.errors.append(f"{service}: {error!r}")
                    connection.close()
                if start >= self.measured_from:
                    self.seconds.append(time.perf_counter() - start)
            if self._tls is not None:
                connection.close()  # each round needs a handshake
            self._stopped.wait(0.005)
        connection.close()

    def stop(self) -> float:
        """Stop, and return the 99th percentile in seconds."""
        self._stopped.set()
        self.join(30)
        if not self.seconds:
            self.errors.append("no request has ended")
            return 0.0
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


def state_problems(admin: int) -> list[str]:
    """Return what the gateway reports as wrong with the services."""
    connection = http.client.HTTPConnection("127.0.0.1", admin, timeout=10)
    connection.request("GET", "/status")
    found = json.loads(connection.getresponse().read())["services"]
    connection.close()
    problems = []
    for name, service in found.items():
        problems += [f"{name}: an instance is {i['state']}" for i in service["instances"] if i["state"] != "up"]
        if service["breaker"] and set(service["breaker"]) != {"closed"}:
            problems.append(f"{name}: the breaker is {service['breaker']}")
    return problems


# ---- the whole


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_certificate(key: str, certificate: str) -> None:
    """Write a certificate for localhost, and its key."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "90", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)


def wait_for(port: int) -> None:
    """Wait until something listens on ``port``."""
    end = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if time.monotonic() > end:
            raise SystemExit(f"nothing listens on port {port}")
        time.sleep(0.05)


@contextlib.contextmanager
def running(*commands: list[str]) -> Iterator[None]:
    """Run ``commands`` meanwhile."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def write_config(
    folder: Path, name: str, listen: int, admin: int, targets: list[int], places: int, **top: object
) -> str:
    """Write the configuration of a gateway as JSON, which is YAML as well; return its path."""
    urls = [f"http://127.0.0.1:{port}" for port in targets]
    config = {
        "listen": f"127.0.0.1:{listen}",
        "admin": f"127.0.0.1:{admin}",
        "access_log": "off",
        "services": {
            service: {"targets": urls, "max_connections": places, **keys} for service, keys in SERVICES.items()
        },
        "routes": [
            {"path": f"/{service}/{{rest*}}", "service": service, "timeout": "2s", "attempts": 1}
            for service in SERVICES
        ],
        **top,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return str(path)


async def attack_with(name: str, port: int, clients: int) -> None:
    """Run ``clients`` slow clients until this process ends."""
    attack = next(each for each in ATTACKS if each.__name__ == name)
    names = list(SERVICES)
    await asyncio.gather(*(hold(attack, port, names[n % len(names)], n / PER_SECOND) for n in range(clients)))
    await asyncio.Event().wait()


def main() -> int:
    """Run the attacks; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=600, help="slow clients at the same time (600)")
    parser.add_argument("--places", type=int, default=256, help="max_connections of the services (256)")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement (5)")
    parser.add_argument("--only", choices=[attack.__name__ for attack in ATTACKS], help="one attack instead of all")
    parser.add_argument("--no-timing", action="store_true", help="do not compare the latency of the other client")
    parser.add_argument("--serve", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--attack", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        asyncio.run(attack_with(options.attack[0], int(options.attack[1]), options.clients))
        return 0
    if options.serve:
        asyncio.run(serve(options.serve))
        return 0
    failed = False
    ramp = 1.0 + options.clients / PER_SECOND  # seconds until all slow clients have connected
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
        make_certificate(key, certificate)
        plain, secure, admin, secure_admin, *targets = free_ports(6)
        limits = {"connections": 200, "connections_per_address": 50}
        tls = {"certificate": certificate, "key": key}
        files = [
            write_config(folder, "plain", plain, admin, targets, options.places),
            write_config(folder, "secure", secure, secure_admin, targets, options.places, tls=tls, limits=limits),
        ]
        gateways = [[sys.executable, "-P", "-m", "passerelle", "gateway", file] for file in files]
        with running([sys.executable, __file__, "--serve", *map(str, targets)], *gateways):
            for port in (plain, secure, admin, secure_admin, *targets):
                wait_for(port)
            for attack in ATTACKS:
                if options.only not in (None, attack.__name__):
                    continue
                over_tls = attack is half_open_tls
                port = secure if over_tls else plain
                context = ssl.create_default_context(cafile=certificate) if over_tls else None
                before = Client(port, context)
                usual = 0.0
                if not options.no_timing:
                    before.start()
                    time.sleep(options.seconds / 2)
                    usual = before.stop()
                observed = Client(port, context)
                command = [sys.executable, __file__, "--clients", str(options.clients)]
                with running([*command, "--attack", attack.__name__, str(port)]):
                    observed.measured_from = time.perf_counter() + ramp
                    observed.start()
                    time.sleep(ramp + options.seconds)
                    p99 = observed.stop()
                    problems = before.errors + observed.errors + state_problems(secure_admin if over_tls else admin)
                if not options.no_timing and p99 > RATIO * usual + NOISE:
                    problems.append(f"p99 is over {RATIO} times the one before plus {NOISE * 1000:.0f} ms")
                timing = "" if options.no_timing else f"p99 {usual * 1000:.1f} ms before, "
                summary = f"{len(problems)} problems: {', '.join(sorted(set(problems))[:5])}" if problems else "ok"
                count = len(observed.seconds)
                times = f"{timing}p99 {p99 * 1000:.1f} ms during {count} requests"
                print(f"{attack.__name__:16} {times}: {summary}", flush=True)
                failed = failed or bool(problems)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
