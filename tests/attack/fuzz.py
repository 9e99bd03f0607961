"""A mutation fuzzer of the whole listener: ``python -m tests.attack.fuzz --requests 100000 --seed 1``.

A gateway in a process of its own, with a plain route, a composed one, a rewritten one and a cached one, in front of a
server that answers everything. Requests are the smuggling table and ordinary ones, broken at random by a seeded
generator and sent whole, in pieces or one after the other on one connection. Looked for: an answer of 5xx other than
the documented 501 and 505, an answer that is malformed, a request that is never answered nor closed, growth of the
process, its end. Prints one line of figures; exit 1 if there is anything.
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
"""Seconds that the gateway may take to answer or to close: it should do so at once, or by ``head_timeout``."""
GROWTH = 16 << 20
"""Bytes that the process may grow by after the first part of a run has filled what is remembered and bounded."""
PATHS = [b"/plain", b"/c/1", b"/c/%2e%2e", b"/r/x", b"/r/a%0d%0ab", b"/cached/1", b"/cached/2?a=b", b"/nowhere"]
LEGAL = [*REQUESTS, *(payload.raw for payload in PAYLOADS.values() if not payload.statuses)]
ALL = [payload.raw for payload in PAYLOADS.values()]
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e]*\r\n")


class Answering:
    """A server that answers each head it is sent with a small 200, as cheaply as it can: it is not what is tested."""

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
        """Accept no more."""
        self._listener.close()


def whole(held: bytes) -> int | None:
    """The length of the first message, or None while it is not complete. The gateway frames it strictly."""
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
    """What a run saw. ``wrong`` says what must not be, with the bytes that did it."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    wrong: list[str] = field(default_factory=list)
    first_bytes: int = 0
    last_bytes: int = 0

    @property
    def growth(self) -> int:
        """Resident bytes more than when a fifth of the run was over."""
        return self.last_bytes - self.first_bytes


class Gateway:
    """The gateway's process."""

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
        """Its resident memory in bytes."""
        return int(json.loads(self._ask(""))["resident_bytes"])

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def gateway() -> Iterator[Gateway]:
    """A gateway in a process of its own, in front of an answering server."""
    upstream = Answering()
    running = Gateway(upstream.port)
    try:
        yield running
    finally:
        running.end()
        upstream.close()


def malformed(rng: random.Random) -> bytes:
    """One request, broken at random; now and then with parts far too long, or noise alone."""
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
    """The final statuses in what a client got, or None if that is not a row of well-formed answers."""
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
        # An answer to HEAD has a length and no body: then the next thing is another answer, or nothing.
        if length and position < len(received) and not _STATUS.match(received, position):
            position += int(length[1])
            if position > len(received):
                return None
    return found


def attempt(port: int, rng: random.Random, raw: bytes) -> bytes:
    """Send ``raw`` whole or in pieces, say that nothing follows, and give all that came back."""
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
            pass  # it may close while we send
        return received


def run(requests: int, seed: int, running: Gateway) -> Found:
    """Send ``requests`` of them and look at all that comes back."""
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
    """Run it and print the figures."""
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
