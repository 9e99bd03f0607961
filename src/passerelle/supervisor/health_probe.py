"""The active health check: one probe of one instance. ``balancing.health`` evaluates the results."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

from passerelle.errors import Failure, Kind
from passerelle.http1.body import ChunkedDecoder, CloseDecoder, CountedDecoder, Decoder
from passerelle.http1.client.connection import MAX_INTERIM
from passerelle.http1.head import ResponseHead
from passerelle.http1.tls_contexts import UpstreamTls, reason
from passerelle.system.ports import join

INTERVAL = 3.0  # seconds between two probes of an instance that was up before, unless configured
TIMEOUT = 1.0  # seconds for one probe, unless the configuration says otherwise
# The problems of an instance that does not listen: at a port, and at a Unix socket.
REFUSED = "connection refused"
NO_SOCKET = "there is no socket"

_RESPONSE_LIMIT = 64 * 1024  # bytes of a head, and of a body, that are read at most


class ProbeRules(NamedTuple):
    """How a probe differs from the usual one, and what the response of a healthy instance has.

    Without ``host``, Host is the address of the instance. Without ``port``, it is that of the instance. Without
    ``statuses``, any 2xx is accepted. ``body`` is a part of the first 64 KiB of the body.
    """

    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    statuses: frozenset[int] | None = None
    method: str = "GET"
    port: int | None = None
    body: bytes = b""

    def accepts(self, status: int) -> bool:
        """Whether an instance that responds with ``status`` is healthy."""
        return 200 <= status < 300 if self.statuses is None else status in self.statuses


USUAL = ProbeRules()


async def probe(
    host: str,
    port: int,
    path: str | None,
    within: float,
    tls: UpstreamTls | None = None,
    rules: ProbeRules = USUAL,
) -> str:
    """Probe an instance once, for at most ``within`` seconds, over TLS if ``tls`` is given.

    The probe is a request for ``path``, or only a connection if ``path`` is None. Returns an empty string if the
    instance is healthy, otherwise the problem.
    """
    try:
        async with asyncio.timeout(within):
            options = tls.options(host) if tls is not None else {}
            if host.startswith("/"):
                reader, writer = await asyncio.open_unix_connection(host, limit=_RESPONSE_LIMIT)
            else:
                at = rules.port or port
                reader, writer = await asyncio.open_connection(host, at, limit=_RESPONSE_LIMIT, **options)
            try:
                if path is None:
                    return ""
                address = "localhost" if host.startswith("/") else join(host, port)
                writer.write(_request(path, rules.host or address, rules))
                status, body = await _response(reader, f"{rules.method} {path}", bodied=rules.method != "HEAD")
            finally:
                writer.close()
    except TimeoutError:
        return f"no response within {within:g} s"
    except ConnectionRefusedError:
        return REFUSED
    except FileNotFoundError:
        return f"{NO_SOCKET} {host}"
    except OSError as error:
        return reason(error)
    except _NoResponse as problem:
        return str(problem)
    if not rules.accepts(status):
        return f"status {status} for {rules.method} {path}"
    return "" if rules.body in body else f"response to {rules.method} {path} does not contain the text of health.body"


class _NoResponse(Exception):
    """The instance sent nothing that is a response. The text states the problem."""


def _request(path: str, host: str, rules: ProbeRules) -> bytes:
    lines = [f"{rules.method} {path} HTTP/1.1", f"Host: {host}"]
    if not any(name.lower() == "user-agent" for name, _ in rules.headers):
        lines.append("User-Agent: passerelle-health")
    lines += [f"{name}: {value}" for name, value in rules.headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("ascii")


async def _response(reader: asyncio.StreamReader, request: str, *, bodied: bool) -> tuple[int, bytes]:
    """Return the status and the body of the response, once it has arrived or is longer than a probe reads.

    ``request`` is the method and the path, for messages. Responses to it have a body if ``bodied``.
    """
    try:
        for _ in range(MAX_INTERIM + 1):
            head = ResponseHead(await reader.readuntil(b"\r\n\r\n"))
            if head.status >= 200:
                break
        else:
            raise _NoResponse(f"only interim responses to {request}")
    except asyncio.IncompleteReadError as end:
        if b"HTTP/1.".startswith(end.partial[:7]):
            raise _NoResponse(f"connection closed without a response to {request}") from None
        raise _NoResponse(f"response to {request} has no status line") from None
    except asyncio.LimitOverrunError:
        raise _NoResponse(f"response to {request} has no status line") from None
    except Failure as failure:
        raise _NoResponse(f"response to {request} is malformed: {failure.detail}") from None
    return head.status, await _read_body(reader, head) if bodied else b""


async def _read_body(reader: asyncio.StreamReader, head: ResponseHead) -> bytes:
    """Return the body, to its end if it is short, so that the instance does not log a client that disconnected.

    Its connection may stay open longer: not every server closes it, whatever the request states.
    """
    decoder: Decoder = CloseDecoder()
    if head.bodied and head.chunked:
        decoder = ChunkedDecoder(Kind.BAD_RESPONSE)
    elif not head.bodied or head.content_length >= 0:
        decoder = CountedDecoder(head.content_length if head.bodied else 0)
    left = _RESPONSE_LIMIT
    body = []
    with contextlib.suppress(Failure, OSError):  # the status decides
        while not decoder.done and left > 0 and (data := await reader.read(left)):
            left -= len(data)
            body.append(decoder.feed(data))
    return b"".join(body)
