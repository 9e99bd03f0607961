"""The active health check: one probe of one instance. ``balancing.health`` evaluates the results."""

from __future__ import annotations

import asyncio
import contextlib

from passerelle.http1.tls_contexts import UpstreamTls, reason
from passerelle.system.ports import join

INTERVAL = 3.0  # seconds between two probes of an instance that was up before
TIMEOUT = 1.0  # seconds for one probe, unless the configuration says otherwise

_RESPONSE_LIMIT = 64 * 1024  # bytes of a response that are read at most


async def probe(host: str, port: int, path: str | None, within: float, tls: UpstreamTls | None = None) -> str:
    """Probe an instance once, for at most ``within`` seconds, over TLS if ``tls`` is given.

    The probe is GET ``path``, or only a connection if ``path`` is None. Returns an empty string if the instance is
    healthy (any 2xx status), otherwise the problem.
    """
    try:
        async with asyncio.timeout(within):
            options = tls.options(host) if tls is not None else {}
            reader, writer = await asyncio.open_connection(host, port, limit=_RESPONSE_LIMIT, **options)
            try:
                return "" if path is None else await _get(reader, writer, join(host, port), path)
            finally:
                writer.close()
    except TimeoutError:
        return f"no response within {within:g} s"
    except ConnectionRefusedError:
        return "connection refused"
    except OSError as error:
        return reason(error)


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> str:
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: passerelle-health\r\nConnection: close\r\n\r\n".encode()
    )
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError:
        return f"connection closed without a response to GET {path}"
    except asyncio.LimitOverrunError:
        return f"response to GET {path} has no status line"
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        return f"response to GET {path} has no status line"
    # Read to the end if it is short, so that the instance does not log a client that disconnected.
    with contextlib.suppress(OSError):
        left = _RESPONSE_LIMIT
        while left > 0 and (data := await reader.read(left)):
            left -= len(data)
    return "" if status.startswith(b"2") else f"status {int(status)} for GET {path}"
