"""Two gateways with one Redis under ten times a shared limit: ``python -m benchmarks.shared_limits [SECONDS]``.

Measured twice: with Redis all the time, and with Redis killed halfway. Prints the admitted and the allowed requests.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RATE = 200
CONNECTIONS = 20
PACE = 2 * CONNECTIONS / (10 * RATE)  # seconds between two requests of a connection
GATEWAY = "from passerelle.cli.main import main; main()"


def spawn(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        writer.close()


async def client(port: int, start: float, seconds: float, statuses: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    due = start
    while due < start + seconds:
        await asyncio.sleep(due - time.monotonic())
        writer.write(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        statuses[int(head[9:12])] += 1
        due += PACE
    writer.close()


def config(folder: Path, number: int, listen: int, target: int, redis: int) -> Path:
    path = folder / f"gateway-{number}.yaml"
    path.write_text(
        f"listen: 127.0.0.1:{listen}\nadmin: off\naccess_log: off\nredis: redis://127.0.0.1:{redis}/0\n"
        f"services: {{u: {{targets: ['http://127.0.0.1:{target}']}}}}\n"
        f"routes: [{{path: '/{{rest*}}', service: u, rate_limit: {{rate: {RATE}/s}}}}]\n"
    )
    return path


async def connectable(port: int) -> None:
    for _ in range(400):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"nothing listens at port {port}")


async def run(seconds: float, kill: bool) -> None:
    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    redis_port, ports = free_port(), [free_port(), free_port()]
    with tempfile.TemporaryDirectory() as name:
        arguments = ["--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", name]
        processes = [spawn("redis-server", *arguments)]
        try:
            await connectable(redis_port)
            for number, port in enumerate(ports):
                path = config(Path(name), number, port, target, redis_port)
                processes.append(spawn(sys.executable, "-c", GATEWAY, "gateway", str(path)))
            for port in ports:
                await connectable(port)
            await asyncio.sleep(2)  # the gateways have seen each other's presence
            statuses: Counter[int] = Counter()
            start = time.monotonic()
            clients = [client(port, start, seconds, statuses) for port in ports for _ in range(CONNECTIONS)]
            running = asyncio.gather(*clients)
            if kill:
                await asyncio.sleep(seconds / 2)
                processes[0].kill()
            await running
            elapsed = time.monotonic() - start
        finally:
            for process in processes:
                process.kill()
                process.wait()
    server.close()
    allowed = RATE + RATE * min(elapsed, seconds)
    failed = sum(count for status, count in statuses.items() if status >= 500)
    print(
        f"Redis {'killed halfway' if kill else 'there':14} {elapsed:5.1f} s  asked {statuses.total():6}"
        f"  admitted {statuses[200]:5}  allowed {allowed:6.0f}  ratio {statuses[200] / allowed:.3f}  5xx {failed}"
    )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    for kill in (False, True):
        asyncio.run(run(seconds, kill))


if __name__ == "__main__":
    main()
