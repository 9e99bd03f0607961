"""One active health check: a question to an instance. What is made of the answers is in ``balancing.health``."""

from __future__ import annotations

import asyncio
import contextlib

from passerelle.http1.tls_contexts import UpstreamTls, reason
from passerelle.system.ports import join

INTERVAL = 3.0  # seconds between two probes of an instance that has answered before
TIMEOUT = 1.0  # seconds for one probe, unless the configuration says otherwise

_ANSWER_LIMIT = 64 * 1024  # bytes of an answer that are read at most


async def probe(host: str, port: int, path: str | None, within: float, tls: UpstreamTls | None = None) -> str:
    """Ask an instance once, for at most ``within`` seconds: GET ``path``, or only a connection when it is None; over
    TLS with ``tls``.

    Gives an empty string when it is healthy (any 2xx), else what was wrong.
    """
    try:
        async with asyncio.timeout(within):
            options = tls.options(host) if tls is not None else {}
            reader, writer = await asyncio.open_connection(host, port, limit=_ANSWER_LIMIT, **options)
            try:
                return "" if path is None else await _get(reader, writer, join(host, port), path)
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer within {within:g} s"
    except ConnectionRefusedError:
        return "refuses connections"
    except OSError as error:
        return reason(error)


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> str:
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: passerelle-health\r\nConnection: close\r\n\r\n".encode()
    )
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return f"closes without an answer to GET {path}"
    except asyncio.LimitOverrunError:
        return f"answers GET {path} with no status line"
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        return f"answers GET {path} with no status line"
    # Taken to its end where that is near, so that the instance does not log a client that ran away.
    with contextlib.suppress(OSError):
        left = _ANSWER_LIMIT
        while left > 0 and (data := await reader.read(left)):
            left -= len(data)
    return "" if status.startswith(b"2") else f"answers GET {path} with {int(status)}"
