"""The webhook of alerts: what is sent, retries, and servers that hang, fail, refuse and redirect."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from passerelle.supervisor.webhook import ATTEMPTS, QUEUE, Destination, WebhookSender
from tests.support.streams import stream_server

LIMIT = 10.0
OK = b"HTTP/1.1 204 No Content\r\n\r\n"


class Server:
    """Responds to its first requests with ``replies``, and with the last of them to all others."""

    def __init__(self, replies: list[bytes]) -> None:
        self.requests: list[tuple[list[str], bytes]] = []
        self._replies = replies
        self.port = 0

    async def on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            length = next(int(line.split(": ")[1]) for line in head if line.startswith("Content-Length"))
            self.requests.append((head, await reader.readexactly(length)))
            reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
            if reply == b"hang":
                await reader.read()
            writer.write(reply)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        async with stream_server(self.on_client, tls=tls) as self.port:
            yield


def sending(
    replies: list[bytes],
    expected: dict[str, int],
    *,
    secret: str | None = None,
    tls: ssl.SSLContext | None = None,
    messages: int = 1,
    timeout: float = 5.0,
) -> tuple[Server, list[float], WebhookSender]:
    """Send messages to a server with ``replies``, until the ``expected`` outcomes are counted.

    Returns the server, the pauses between attempts, and the sender.
    """
    server, pauses = Server(replies), list[float]()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> WebhookSender:
        sender = WebhookSender(lambda: 0.5, pause)
        async with server.listening(tls):
            scheme = "https" if tls is not None else "http"
            url = f"{scheme}://localhost:{server.port}/hooks/T0KEN?a=b"
            task = asyncio.create_task(sender.run())
            for number in range(messages):
                sender.send(Destination(url, secret, timeout), {"number": number})
            async with asyncio.timeout(LIMIT):
                while {key: count for key, count in sender.outcomes.items() if count} != expected:
                    assert not task.done(), task.result()
                    await asyncio.sleep(0.005)
            task.cancel()
        return sender

    return server, pauses, asyncio.run(run())


def test_a_message_is_posted_as_json_with_the_secret() -> None:
    server, pauses, _ = sending([OK], {"delivered": 1}, secret="s3cret")
    ((head, body),) = server.requests
    assert head[0] == "POST /hooks/T0KEN?a=b HTTP/1.1"
    assert f"Host: localhost:{server.port}" in head
    assert "Content-Type: application/json" in head
    assert "Authorization: Bearer s3cret" in head
    assert json.loads(body) == {"number": 0}
    assert pauses == []


def test_messages_keep_their_order() -> None:
    server, _, _ = sending([b"HTTP/1.1 503 x\r\n\r\n", OK], {"delivered": 3}, messages=3)
    assert [json.loads(body)["number"] for _, body in server.requests] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 500 x\r\n\r\n",
        b"HTTP/1.1 429 x\r\n\r\n",
        b"",
        b"hang",
        b"garbage\r\n\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ],
)
def test_failures_are_retried_with_growing_pauses_and_then_reported(
    reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server, pauses, _ = sending([reply], {"failed": 1}, timeout=0.2 if reply == b"hang" else 5.0)
    assert len(server.requests) == ATTEMPTS
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("alerts: the webhook at localhost did not accept an alert: ")
    assert "T0KEN" not in caplog.text
    assert "Traceback" not in caplog.text


def test_a_webhook_that_works_again_gets_the_message() -> None:
    server, _, _ = sending([b"hang", b"", b"HTTP/1.1 502 x\r\n\r\n", OK], {"delivered": 1}, timeout=0.2)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 404 x\r\n\r\n", "status 404"),
        (b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "status 302; redirects are not followed"),
    ],
)
def test_a_rejected_message_is_not_retried(reply: bytes, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    server, pauses, _ = sending([reply], {"rejected": 1}, secret="s3cret")
    assert (len(server.requests), pauses) == (1, [])
    assert caplog.messages == [f"alerts: the webhook at localhost rejected an alert: {reason}"]


def test_a_webhook_that_refuses_connections_is_retried() -> None:
    async def run() -> dict[str, int]:
        async def pause(seconds: float) -> None:
            await asyncio.sleep(0)

        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        sender = WebhookSender(lambda: 0.5, pause)
        task = asyncio.create_task(sender.run())
        sender.send(Destination(f"http://127.0.0.1:{port}/", None, 5.0), {})
        async with asyncio.timeout(LIMIT):
            while not any(sender.outcomes.values()):
                await asyncio.sleep(0.005)
        task.cancel()
        return sender.outcomes

    assert asyncio.run(run())["failed"] == 1


def test_the_queue_is_bounded() -> None:
    async def run() -> dict[str, int]:
        sender = WebhookSender(lambda: 0.5)
        for number in range(QUEUE + 7):
            sender.send(Destination("http://127.0.0.1:1/", None, 1.0), {"number": number})
        return sender.outcomes

    assert asyncio.run(run()) == {"delivered": 0, "rejected": 0, "failed": 0, "dropped": 7}


def certified(monkeypatch: pytest.MonkeyPatch, folder: Path, *, trusted: bool) -> ssl.SSLContext:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(folder / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    return context


@pytest.mark.parametrize(("trusted", "outcome"), [(True, "delivered"), (False, "failed")])
def test_https(trusted: bool, outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = certified(monkeypatch, tmp_path, trusted=trusted)
    server, _, _ = sending([OK], {outcome: 1}, tls=context, secret="s3cret")
    assert len(server.requests) == int(trusted)
