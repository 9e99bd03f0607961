"""Service with a known capacity: ``python paced.py SECONDS PLACES PORT...``.

Each port processes ``PLACES`` requests at a time, each for ``SECONDS``; further requests wait in order of arrival.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def main(seconds: float, places: int, ports: list[int]) -> None:
    servers = [await _serve(port, seconds, asyncio.Semaphore(places)) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _serve(port: int, seconds: float, places: asyncio.Semaphore) -> asyncio.Server:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                async with places:
                    await asyncio.sleep(seconds)
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(client, "127.0.0.1", port, backlog=1024)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]), int(sys.argv[2]), [int(port) for port in sys.argv[3:]]))
