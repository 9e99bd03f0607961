"""A server for tests on asyncio's streams that leaves no connection open."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def stream_server(
    handler: Handler,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    path: Path | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve each connection with ``handler``, and yield the port; with ``path``, on a Unix socket instead.

    ``asyncio.start_server`` alone leaves connections open whose handler had not begun when the loop ended, or that
    could not send everything. A test that runs later in the same process then fails, when they are collected.

    :raises Exception: what a handler raised, except that its client was gone.
    """
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    if path is not None:
        server = await asyncio.start_unix_server(connected, path, ssl=tls)
    else:
        server = await asyncio.start_server(connected, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1] if path is None else 0
    finally:
        server.close()
        for _ in range(3):  # connections that the kernel has accepted become streams
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)  # the sockets are closed in the next round of the loop
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, OSError | EOFError):
            raise end
