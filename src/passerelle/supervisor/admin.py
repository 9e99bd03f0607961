"""The admin port: metrics, health, status and changes, for this machine only unless it was bound wider on purpose.

Served by the gateway's own HTTP/1.1 listener.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

import orjson

from passerelle.errors import Failure
from passerelle.http.messages import Fields, Response
from passerelle.http1.clock import Clock
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener, ListenerLimits
from passerelle.observability.metrics import Snapshot
from passerelle.observability.prometheus import render
from passerelle.supervisor.errors import ChangeRefused, NotFound
from passerelle.system import ports

_SWEEP = 1.0
_CHANGES = {path: {b"POST": path[1:].decode()} for path in (b"/reload", b"/scale", b"/restart", b"/cache/purge")}
_OF_ALL = {b"POST": "instances/add"}
_OF_ONE = {b"PATCH": "instances/change", b"DELETE": "instances/remove"}
_TEXT: Fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
_JSON: Fields = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]


class AdminSubject(Protocol):
    """What the admin port tells of: the supervisor, or a gateway that runs alone."""

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""

    async def metrics(self) -> Snapshot:
        """The counters."""

    async def status(self) -> dict[str, Any]:
        """Everything that runs."""

    async def change(self, what: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """``reload``, ``scale``, ``restart``, ``cache/purge`` or ``instances/add``, ``/change`` and ``/remove``.

        :raises Refused: when it cannot be done.
        """


class Admin:
    """Serves ``subject`` on ``sock``, which is bound already.

    A page in a browser can be made to ask names that lead here (DNS rebinding), and would then be of our origin. So on
    a loopback address only requests for a loopback host are answered.
    """

    def __init__(self, sock: socket.socket, subject: AdminSubject) -> None:
        host, port = sock.getsockname()[:2]
        self.address = ports.join(host, port)
        self._sock = sock
        self._subject = subject
        self._any_host = not ipaddress.ip_address(host).is_loopback
        self._clock = Clock()
        self._listener = Listener(
            self, ListenerLimits(head_timeout=5.0, idle_timeout=30.0, connections=100), self._clock
        )
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._pages: dict[bytes, Callable[[RequestHead], Awaitable[Response]]] = {
            b"/healthz": self._healthz,
            b"/readyz": self._readyz,
            b"/metrics": self._metrics,
            b"/status": self._status,
        }

    async def start(self) -> None:
        """Begin to serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self._listener), sock=self._sock)
        self._tick()

    async def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        for connection in list(self._listener.connections):
            connection.abort()
        # So that the connections are gone when the loop is.
        await asyncio.sleep(0)

    def _tick(self) -> None:
        self._clock.tick(time.perf_counter(), time.time())
        self._listener.sweep()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._tick)

    # The handler of http1

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Answer a request."""
        connection.adopt(_AdminExchange())
        path = target.partition(b"?")[0]
        page, changes = self._pages.get(path), _CHANGES.get(path, {})
        of = _instances(path)
        if of is not None:
            page, changes = partial(self._instances, *of), _OF_ONE if of[1] else _OF_ALL
        problem = None
        if method in changes:
            problem = _forbidden_reason(connection, head)
            page = partial(self._change, changes[method], of, target)
        elif not self._any_host and not _is_loopback(head.host or b""):
            problem = _text(421, b"the admin address is for this machine: ask for localhost\n")
        elif page is None and not changes:
            problem = _text(404, b"there are %b\n" % b", ".join(self._pages))
        elif page is None or method not in (b"GET", b"HEAD"):
            allowed = b", ".join([*((b"GET", b"HEAD") if page is not None else ()), *changes])
            problem = _text(405, b"only %b\n" % allowed, [(b"Allow", allowed)])
        if problem is not None:
            connection.send(problem)
            return
        assert page is not None
        task = asyncio.get_running_loop().create_task(self._answer(connection, page, head))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(
        self, connection: ServerConnection, page: Callable[[RequestHead], Awaitable[Response]], head: RequestHead
    ) -> None:
        try:
            connection.send(await page(head))
        except Exception:
            connection.send(_text(500, b"the admin page failed\n"))
            raise

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """What was no request was refused."""
        return b"admin"

    # Changes

    async def _change(self, what: str, of: tuple[str, str] | None, target: bytes, head: RequestHead) -> Response:
        arguments = dict(parse_qsl(target.decode("ascii").partition("?")[2], keep_blank_values=of is not None))
        if of is not None:
            arguments["service"], arguments["instance"] = of
        try:
            return _json(200, await self._subject.change(what, arguments))
        except ChangeRefused as refused:
            return _refusal(refused)

    # The pages

    async def _healthz(self, head: RequestHead) -> Response:
        return _text(200, b"ok\n")

    async def _readyz(self, head: RequestHead) -> Response:
        return _text(200, b"ready\n") if self._subject.is_ready else _text(503, b"not ready\n")

    async def _metrics(self, head: RequestHead) -> Response:
        accept = (head.get(b"accept") or b"").decode("latin-1")
        body, media_type = render(await self._subject.metrics(), accept)
        return Response(200, [(b"Content-Type", media_type.encode()), *_TEXT[1:]], body)

    async def _status(self, head: RequestHead) -> Response:
        return _json(200, await self._subject.status())

    async def _instances(self, service: str, instance: str, head: RequestHead) -> Response:
        services = (await self._subject.status())["services"]
        if service not in services:
            return _refusal(NotFound(f"there is no service {service!r}; there are: {', '.join(services)}"))
        about = services[service]
        if not instance:
            return _json(200, {"service": service, **about})
        for member in about["instances"]:
            if instance in (member["name"], member["address"]):
                return _json(200, member)
        return _refusal(NotFound(f"{service} has no instance {instance!r}"))


class _AdminExchange:
    """A request that needs nothing of its connection but the answer."""

    wants_body = False

    def on_body(self, data: bytes) -> None:
        """Not read."""

    def on_body_end(self) -> None:
        """Not read."""

    def on_body_failure(self, failure: Failure) -> None:
        """Not read."""

    def on_body_discarded(self) -> None:
        """Not read."""

    def on_client_lost(self) -> None:
        """The answer goes nowhere."""

    def on_client_paused(self) -> None:
        """The answer is small."""

    def on_client_resumed(self) -> None:
        """The answer is small."""


def _instances(path: bytes) -> tuple[str, str] | None:
    """The service and the instance of ``/services/SERVICE/instances[/INSTANCE]``; an empty one for all of them."""
    words = path.decode("ascii", "replace").split("/")
    if len(words) not in (4, 5) or words[1] != "services" or words[3] != "instances" or not all(words[1:]):
        return None
    return unquote(words[2]), unquote(words[4]) if len(words) == 5 else ""


def _forbidden_reason(connection: ServerConnection, head: RequestHead) -> Response | None:
    """Why a change is not made: only a program on this machine may ask for one, and no page in a browser.

    A page can send a POST to any address, but not with a field of its own unless it is allowed to (Fetch §3.2.2).
    """
    if not connection.local or not _is_loopback(head.host or b""):
        return _text(403, b"changes are for this machine: ask 127.0.0.1 on it\n")
    if head.get(b"passerelle-admin") is None or head.get(b"origin") is not None:
        return _text(403, b"changes need the field Passerelle-Admin, and come from no page\n")
    return None


def _refusal(refused: ChangeRefused) -> Response:
    return _json(refused.status, {"problems": refused.problems})


def _json(status: int, value: object) -> Response:
    return Response(status, _JSON, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _text(status: int, text: bytes, fields: Fields | None = None) -> Response:
    return Response(status, _TEXT + (fields or []), text)


def _is_loopback(host: bytes) -> bool:
    """Whether the value of a Host field names this machine's loopback: ``localhost``, 127.0.0.0/8 or ``[::1]``."""
    text = host.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        name = text
    name = name.removeprefix("[").removesuffix("]").removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
