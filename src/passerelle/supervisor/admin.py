"""The admin port: metrics, health, status and changes.

Changes are accepted from this machine only, and so are all requests unless the port is bound to another address.
The gateway's own HTTP/1.1 listener serves it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol
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
from passerelle.routing.paths import PatternError, purged_path
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.system import ports

_SWEEP = 1.0  # seconds between two checks of the timeouts of clients
_CHANGES = {path: {b"POST": path[1:].decode()} for path in (b"/reload", b"/scale", b"/restart", b"/cache/purge")}
_OF_ALL = {b"POST": "instances/add"}
_OF_ONE = {b"PATCH": "instances/change", b"DELETE": "instances/remove"}
_TEXT: Fields = [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")]
_JSON: Fields = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]


class PurgeResult(NamedTuple):
    """``purged`` counts the responses that were evicted; ``silent`` names the workers that did not respond."""

    purged: int
    silent: list[str]


class AdminSubject(Protocol):
    """What the admin port shows and changes: a supervisor, or a gateway without one."""

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""

    async def metrics(self) -> Snapshot:
        """Return the counters."""

    async def status(self) -> dict[str, Any]:
        """Return the status of everything that runs."""

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make the change ``reload``, ``scale``, ``restart``, ``instances/add``, ``/change`` or ``/remove``.

        :raises ChangeRefused: if it cannot be made.
        """

    async def purge(self, kind: str, value: str) -> PurgeResult:
        """Evict the stored responses with the tag or path ``value``, or all, as ``kind`` states."""


class Admin:
    """Serves ``subject`` on ``sock``, which is already bound.

    By DNS rebinding, a page in a browser can send requests to the admin port under a name that resolves to this
    machine, and then has the same origin as the admin port. So on a loopback address, requests for any other host are
    rejected.
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
        """Start to serve."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self._listener), sock=self._sock)
        self._tick()

    async def stop(self) -> None:
        """Close all connections and stop at once."""
        if self._server is not None:
            self._server.close()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._running:
            task.cancel()
        for connection in list(self._listener.connections):
            connection.abort()
        # Let the transports close before the event loop does.
        await asyncio.sleep(0)

    def _tick(self) -> None:
        self._clock.tick(time.perf_counter(), time.time())
        self._listener.sweep()
        self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._tick)

    # RequestHandler of http1

    def on_request(self, connection: ServerConnection, method: bytes, target: bytes, head: RequestHead) -> None:
        """Respond to a request."""
        connection.adopt(_AdminExchange())
        path = target.partition(b"?")[0]
        page, changes = self._pages.get(path), _CHANGES.get(path, {})
        member = _instance_path(path)
        if member is not None:
            page, changes = partial(self._instances, *member), _OF_ONE if member[1] else _OF_ALL
        problem = None
        if method in changes:
            problem = _forbidden_reason(connection, head)
            page = partial(self._change, changes[method], member, target)
        elif not self._any_host and not _is_loopback(head.host or b""):
            problem = _text(421, b"the admin port serves this machine only: use the host localhost\n")
        elif page is None and not changes:
            problem = _text(404, b"the pages are %b\n" % b", ".join(self._pages))
        elif page is None or method not in (b"GET", b"HEAD"):
            allowed = b", ".join([*((b"GET", b"HEAD") if page is not None else ()), *changes])
            problem = _text(405, b"allowed: %b\n" % allowed, [(b"Allow", allowed)])
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
        """Return the id of a rejected request, which the admin port does not log."""
        return b"admin"

    # Changes

    async def _change(self, name: str, member: tuple[str, str] | None, target: bytes, head: RequestHead) -> Response:
        arguments = dict(parse_qsl(target.decode("ascii").partition("?")[2], keep_blank_values=member is not None))
        if member is not None:
            arguments["service"], arguments["instance"] = member
        try:
            if name == "cache/purge":
                return _json(200, purge_response(await self._subject.purge(*parse_purge(arguments))))
            return _json(200, await self._subject.change(name, arguments))
        except ChangeRefused as refused:
            return _refusal(refused)

    # The pages

    async def _healthz(self, head: RequestHead) -> Response:
        return _text(200, b"ok\n")

    async def _readyz(self, head: RequestHead) -> Response:
        return _text(200, b"ready\n") if self._subject.is_ready else _text(503, b"not ready\n")

    async def _metrics(self, head: RequestHead) -> Response:
        accept = (head.get(b"accept") or b"").decode("latin-1")
        # Imported here: it is 5 % of the start of a process, and not every gateway is scraped.
        from passerelle.observability.prometheus import render

        body, media_type = render(await self._subject.metrics(), accept)
        return Response(200, [(b"Content-Type", media_type.encode()), *_TEXT[1:]], body)

    async def _status(self, head: RequestHead) -> Response:
        return _json(200, await self._subject.status())

    async def _instances(self, service: str, instance: str, head: RequestHead) -> Response:
        services = (await self._subject.status())["services"]
        if service not in services:
            return _refusal(NotFound(f"there is no service {service!r}; the services are: {', '.join(services)}"))
        status = services[service]
        if not instance:
            return _json(200, {"service": service, **status})
        for member in status["instances"]:
            if instance in (member["name"], member["address"]):
                return _json(200, member)
        return _refusal(NotFound(f"{service} has no instance {instance!r}"))


class _AdminExchange:
    """The exchange of an admin request, which ignores all events of its connection."""

    wants_body = False

    def on_body(self, data: bytes) -> None:
        """Ignore the body."""

    def on_body_end(self) -> None:
        """Ignore the body."""

    def on_body_failure(self, failure: Failure) -> None:
        """Ignore the body."""

    def on_body_discarded(self) -> None:
        """Ignore the body."""

    def on_client_lost(self) -> None:
        """Ignore that the client is gone: the connection discards the response."""

    def on_client_paused(self) -> None:
        """Ignore backpressure: the response is small."""

    def on_client_resumed(self) -> None:
        """Ignore backpressure: the response is small."""


def _instance_path(path: bytes) -> tuple[str, str] | None:
    """Return SERVICE and INSTANCE of ``/services/SERVICE/instances[/INSTANCE]``; INSTANCE is empty if left out."""
    words = path.decode("ascii", "replace").split("/")
    if len(words) not in (4, 5) or words[1] != "services" or words[3] != "instances" or not all(words[1:]):
        return None
    return unquote(words[2]), unquote(words[4]) if len(words) == 5 else ""


def _forbidden_reason(connection: ServerConnection, head: RequestHead) -> Response | None:
    """Return the response to a change that is forbidden: one from another machine, or from a page in a browser.

    A page can send a POST to any address, but no header field of its own unless CORS allows it (Fetch §3.2.2).
    """
    if not connection.local or not _is_loopback(head.host or b""):
        return _text(403, b"changes are accepted from this machine only, at 127.0.0.1\n")
    if head.get(b"passerelle-admin") is None or head.get(b"origin") is not None:
        return _text(403, b"changes need the header field Passerelle-Admin and no Origin\n")
    return None


def parse_purge(arguments: Mapping[str, str]) -> tuple[str, str]:
    """Return ``("tag", T)``, ``("path", P)`` with P in canonical form, or ``("all", ...)``.

    :raises ChangeRefused: unless exactly one of them is given and P is a path.
    """
    given = [(kind, value) for kind, value in arguments.items() if kind in ("tag", "path", "all") and value]
    if len(given) != 1 or len(arguments) != 1:
        raise ChangeRefused("purge needs exactly one of tag, path and all")
    kind, value = given[0]
    if kind != "path":
        return kind, value
    try:
        return kind, purged_path(value)
    except PatternError as error:
        raise InvalidChange(str(error)) from None


def purge_response(result: PurgeResult) -> dict[str, Any]:
    """Return the response to a purge. :raises ChangeRefused: if workers did not respond."""
    if result.silent:
        names = ", ".join(result.silent)
        raise ChangeRefused(f"no response from {names}, which may still store the responses; purge again")
    count = result.purged
    return {"message": f"purged {count} stored response{'s' * (count != 1)}", "purged": count}


def _refusal(refused: ChangeRefused) -> Response:
    return _json(refused.status, {"problems": refused.problems})


def _json(status: int, value: object) -> Response:
    return Response(status, _JSON, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _text(status: int, text: bytes, fields: Fields | None = None) -> Response:
    return Response(status, _TEXT + (fields or []), text)


def _is_loopback(host: bytes) -> bool:
    """Whether the value of a Host header field is a loopback host: ``localhost``, 127.0.0.0/8 or ``[::1]``."""
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
