"""Delivers alerts to a webhook: in order, with a bounded queue, retries, and no wait for what calls it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from passerelle import __version__
from passerelle.errors import Failure
from passerelle.http1.head import ResponseHead
from passerelle.supervisor.restart_backoff import Backoff

logger = logging.getLogger("passerelle")

QUEUE = 100  # messages that wait; the oldest is dropped for a new one
ATTEMPTS = 6
OUTCOMES = ("delivered", "rejected", "failed", "dropped")
_BASE, _CEILING = 1.0, 60.0  # seconds
_RETRIED = frozenset({408, 425, 429})  # statuses below 500 after which another attempt can succeed
_HEAD_LIMIT = 64 * 1024  # bytes
_MOST_INTERIM = 10


class Destination(NamedTuple):
    """Where messages are sent; ``timeout`` in seconds. ``url`` and ``secret`` must not be shown."""

    url: str
    secret: str | None
    timeout: float


class _Refused(Exception):
    """The response means that another attempt cannot succeed. The text is the reason."""


class WebhookSender:
    """Sends messages one after another. Use :meth:`send`, with :meth:`run` in the background.

    ``rng`` returns a float in [0, 1).
    """

    def __init__(self, rng: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self._rng = rng
        self._sleep = sleep
        self._queue: deque[tuple[Destination, bytes]] = deque()
        self._filled = asyncio.Event()

    def send(self, destination: Destination, message: Mapping[str, Any]) -> None:
        """Queue a message. If the queue is full, its oldest message is dropped."""
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self.outcomes["dropped"] += 1
        self._queue.append((destination, orjson.dumps(message)))
        self._filled.set()

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._queue:
                await self._deliver(*self._queue.popleft())

    async def _deliver(self, destination: Destination, body: bytes) -> None:
        backoff = Backoff(self._rng, base=_BASE, ceiling=_CEILING)
        host = urlsplit(destination.url).hostname
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await post(destination, body)
            except _Refused as refused:
                self.outcomes["rejected"] += 1
                logger.warning("alerts: the webhook at %s rejected an alert: %s", host, refused)
                return
            # ValueError: a name that cannot be looked up.
            except (OSError, ValueError, Failure, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                if attempt == ATTEMPTS:
                    self.outcomes["failed"] += 1
                    why = _problem(error, destination.timeout)
                    logger.warning("alerts: the webhook at %s did not accept an alert: %s", host, why)
                    return
                await self._sleep(backoff.delay_after(0.0))
            else:
                self.outcomes["delivered"] += 1
                return


def _problem(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {timeout:g} s"
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection was closed without a response"
    if isinstance(error, asyncio.LimitOverrunError | Failure):
        return "the response is malformed"
    return str(error)


async def post(destination: Destination, body: bytes) -> None:
    """Send ``body`` once. Redirects are not followed, because the secret is for the configured host only.

    :raises OSError, EOFError: if another attempt can succeed: without a response in time, or with a 5xx status.
    :raises _Refused: for any other status but 2xx.
    """
    url = urlsplit(destination.url)
    assert url.hostname is not None
    secure = url.scheme == "https"
    async with asyncio.timeout(destination.timeout):
        reader, writer = await asyncio.open_connection(
            url.hostname,
            url.port or (443 if secure else 80),
            limit=_HEAD_LIMIT,
            ssl=ssl.create_default_context() if secure else None,
        )
        try:
            writer.write(_request(url.netloc, url.path or "/", url.query, destination.secret, body))
            await writer.drain()
            for _ in range(_MOST_INTERIM):
                status = ResponseHead(await reader.readuntil(b"\r\n\r\n")).status
                if status >= 200:
                    break
            else:
                raise OSError("only interim responses")
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if 200 <= status < 300:
        return
    if status >= 500 or status in _RETRIED:
        raise OSError(f"status {status}")
    raise _Refused(f"status {status}" + ("; redirects are not followed" if 300 <= status < 400 else ""))


def _request(host: str, path: str, query: str, secret: str | None, body: bytes) -> bytes:
    lines = [
        f"POST {path}{'?' + query if query else ''} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: passerelle/{__version__}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if secret is not None:
        lines.append(f"Authorization: Bearer {secret}")
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body
