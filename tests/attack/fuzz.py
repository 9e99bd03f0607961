"""Mutation fuzzer for the whole listener: ``python -m tests.attack.fuzz --requests 100000 --seed 1``.

A gateway in a separate process, with a plain, a composed, a rewritten and a cached route, in front of a server that
responds to everything. The requests are those of the smuggling table and ordinary ones, mutated at random by a seeded
generator, and sent at once, in pieces, or several on one connection. Faults are: a 5xx response except the documented
501 and 505, a malformed response, a request without a response or close, memory growth of the process, and its exit.
Prints one line of figures; exit 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.payloads import PAYLOADS
from tests.conformance.test_mutations import ODD, REQUESTS, mutated

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = frozenset({501, 505})
WAIT = 30.0
"""Seconds that the gateway may take to respond or to close: it should do so at once, or after ``head_timeout``."""
GROWTH = 16 << 20
"""Bytes by which the process may grow after the first part of a run has filled the bounded caches."""
PATHS = [b"/plain", b"/c/1", b"/c/%2e%2e", b"/r/x", b"/r/a%0d%0ab", b"/cached/1", b"/cached/2?a=b", b"/nowhere"]
LEGAL = [*REQUESTS, *(payload.raw for payload in PAYLOADS.values() if not payload.statuses)]
ALL = [payload.raw for payload in PAYLOADS.values()]
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e]*\r\n")


class Answering:
    """Server that responds to each head with a small 200 at minimal cost; it is not under test."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            held = b""
            try:
                while data := connection.recv(1 << 16):
                    held += data
                    while (message := whole(held)) is not None:
                        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
                        connection.sendall(answer if held.startswith(b"HEAD ") else answer + b"{}")
                        held = held[message:]
            except OSError:
                return

    def close(self) -> None:
        """Stop accepting."""
        self._listener.close()


def whole(held: bytes) -> int | None:
    """Return the length of the first message, or None if it is incomplete. The gateway frames messages strictly."""
    end = held.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = held[:end].lower()
    if b"\r\ntransfer-encoding: chunked" in head:
        last = end + 4 if held.startswith(b"0\r\n\r\n", end + 4) else held.find(b"\r\n0\r\n\r\n", end + 2)
        return None if last < 0 else held.find(b"0\r\n\r\n", last) + 5
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head)
    size = end + 4 + (int(length[1]) if length else 0)
    return size if len(held) >= size else None


@dataclass
class Found:
    """Result of a run. ``wrong`` lists faults, with the bytes that caused them."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    wrong: list[str] = field(default_factory=list)
    first_bytes: int = 0
    last_bytes: int = 0

    @property
    def growth(self) -> int:
        """Return the growth of the resident memory in bytes since a fifth of the run was over."""
        return self.last_bytes - self.first_bytes


class Gateway:
    """Process of the gateway."""

    def __init__(self, upstream: int) -> None:
        part = {"service": "u", "path": "/part/{id}"}
        settings = {
            "listen": "127.0.0.1:0",
            "admin": "off",
            "access_log": "off",
            "limits": {"head_timeout": "1s", "body_timeout": "1s", "idle_timeout": "5s"},
            "services": {"u": {"targets": [f"http://127.0.0.1:{upstream}"]}},
            "routes": [
                {"path": "/c/{id}", "compose": {"a": part, "b": part}},
                {"path": "/r/{id}", "service": "u", "rewrite": "/inner/{id}/x"},
                {"path": "/cached/{id}", "service": "u", "cache": {"ttl": "1s"}},
                {"path": "/plain/{rest*}", "service": "u"},
                {"path": "/", "service": "u"},
                *({"path": path, "service": "u"} for path in ("/a", "/p", "/e", "/x", "/first", "/plain")),
            ],
        }
        command = [sys.executable, "-m", "tests.support.serve"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._ask(json.dumps(settings)))

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def resident(self) -> int:
        """Return its resident memory in bytes."""
        return int(json.loads(self._ask(""))["resident_bytes"])

    def end(self) -> None:
        """Stop the process."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def gateway() -> Iterator[Gateway]:
    """Run a gateway in a separate process, in front of a server that responds to everything."""
    upstream = Answering()
    running = Gateway(upstream.port)
    try:
        yield running
    finally:
        running.end()
        upstream.close()


def malformed(rng: random.Random) -> bytes:
    """Return one randomly mutated request, sometimes with far too long parts, or only noise."""
    raw = rng.choice(rng.choice([LEGAL, LEGAL, ALL]))
    if rng.random() < 0.5:
        raw = re.sub(rb" /[a-z]* ", lambda _: b" " + rng.choice(PATHS) + b" ", raw, count=1)
    kind = rng.random()
    if kind < 0.03:
        return rng.randbytes(rng.randint(1, 300)) + rng.choice([b"", b"\r\n\r\n"])
    if kind < 0.05:
        at = rng.randrange(len(raw))
        return raw[:at] + rng.choice(ODD) * rng.choice([500, 5_000, 40_000]) + raw[at:]
    if kind < 0.15:
        return mutated(rng, raw + rng.choice(ALL))
    return mutated(rng, raw)


def statuses(received: bytes) -> list[int] | None:
    """Return the final statuses in the received bytes, or None if they are not a sequence of well-formed responses."""
    found = []
    position = 0
    while position < len(received):
        match = _STATUS.match(received, position)
        end = received.find(b"\r\n\r\n", position)
        if match is None or end < 0:
            return None
        head = received[position:end]
        position = end + 4
        if int(match[1]) < 200:
            continue
        found.append(int(match[1]))
        length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
        # A response to HEAD has a length and no body: another response or nothing follows.
        if length and position < len(received) and not _STATUS.match(received, position):
            position += int(length[1])
            if position > len(received):
                return None
    return found


def attempt(port: int, rng: random.Random, raw: bytes) -> bytes:
    """Send ``raw`` at once or in pieces, half-close, and return everything received."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as client:
        received = b""
        try:
            if rng.random() < 0.1 and len(raw) > 2:
                cut = rng.randrange(1, len(raw))
                client.sendall(raw[:cut])
                client.sendall(raw[cut:])
            else:
                client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(1 << 16):
                received += data
        except (ConnectionResetError, BrokenPipeError):
            pass  # the gateway may close while we send
        return received


def run(requests: int, seed: int, running: Gateway) -> Found:
    """Send ``requests`` requests and check all responses."""
    rng = random.Random(seed)
    found = Found()
    for number in range(requests):
        if number == requests // 5:
            found.first_bytes = running.resident()
        raw = malformed(rng)
        try:
            received = attempt(running.port, rng, raw)
        except TimeoutError:
            found.wrong.append(f"neither answered nor closed: {raw[:300]!r}")
            continue
        except ConnectionRefusedError:
            found.wrong.append(f"gone after {raw[:300]!r}")
            break
        found.requests += 1
        answers = statuses(received)
        if answers is None:
            found.wrong.append(f"malformed answer {received[:300]!r} to {raw[:300]!r}")
            continue
        if not answers:
            found.closed += 1
        found.statuses.update(answers)
        if wrong := [status for status in answers if status >= 500 and status not in DOCUMENTED]:
            found.wrong.append(f"{wrong} to {raw[:300]!r}")
    if running.process.poll() is not None:
        found.wrong.append(f"the process ended with {running.process.returncode}")
    else:
        found.last_bytes = running.resident()
        if found.growth > GROWTH:
            found.wrong.append(f"{found.growth} bytes more in the end")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fuzzer and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack.fuzz", description="Fuzz the whole listener.")
    parser.add_argument("--requests", type=int, default=100_000, metavar="N", help="how many (default 100000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the same requests again (default 1)")
    chosen = parser.parse_args(argv)
    begin = time.monotonic()
    with gateway() as running:
        found = run(chosen.requests, chosen.seed, running)
    for line in found.wrong[:20]:
        print(line, file=sys.stderr)
    figures = {
        "requests": found.requests,
        "seed": chosen.seed,
        "seconds": round(time.monotonic() - begin, 1),
        "answers": {str(status): count for status, count in sorted(found.statuses.items())},
        "closed_without_answer": found.closed,
        "resident_mib": round(found.last_bytes / 2**20, 1),
        "growth_mib": round(found.growth / 2**20, 2),
        "wrong": len(found.wrong),
    }
    print(json.dumps(figures))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
