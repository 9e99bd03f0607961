"""The admin port: metrics, health, status, events, the live view, the dashboard, and changes.

The gateway's own HTTP/1.1 listener serves it. :mod:`passerelle.supervisor.admin_access` decides who may do what.

The file is longer than 400 lines because all paths of the port are in it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote

import orjson

from passerelle import __version__
from passerelle.config.models.admin import AdminPort
from passerelle.config.models.config import Config
from passerelle.crossing.report import merge_reports
from passerelle.diagnosis.diagnose import diagnose
from passerelle.diagnosis.evidence import gather
from passerelle.errors import Failure
from passerelle.http.messages import Fields, Response
from passerelle.http1.clock import Clock
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.server.connection import ClientConnection
from passerelle.http1.server.listener import Listener, ListenerLimits
from passerelle.http1.server.passive_exchange import PassiveExchange
from passerelle.observability.events import KINDS, EventLog
from passerelle.observability.live import HISTORY_SECONDS
from passerelle.observability.metrics import Snapshot
from passerelle.routing.paths import PatternError, purged_path
from passerelle.supervisor.admin_access import AccessRefused, AdminAccess, AdminRequest, Client
from passerelle.supervisor.admin_stream import EventFeed, EventStream, LiveFeed, StreamHub
from passerelle.supervisor.certificate_orders import CertificateOrders
from passerelle.supervisor.dashboard import files
from passerelle.supervisor.errors import ChangeRefused, InvalidChange, NotFound
from passerelle.supervisor.explanation import explanation, parse_request
from passerelle.supervisor.live_sampler import RECENT, LiveSampler
from passerelle.supervisor.maintenance import Maintenance
from passerelle.supervisor.rollouts import Rollouts
from passerelle.supervisor.splits import Splits, change_split, split_report
from passerelle.system import ports

# Beyond loopback, one address gets half of these: it cannot keep probes and programs of this machine out.
_CONNECTIONS = 100
_SWEEP = 1.0  # seconds between two checks of the timeouts of clients
_CHANGES = {
    path: {b"POST": path[1:].decode()}
    for path in (
        b"/reload",
        b"/scale",
        b"/restart",
        b"/cache/purge",
        b"/shadow/reset",
        b"/split",
        b"/rollout",
        b"/maintenance",
        b"/certs/renew",
        b"/backup",
    )
}
_OF_ALL = {b"POST": "instances/add"}
_OF_ONE = {b"PATCH": "instances/change", b"DELETE": "instances/remove"}
# No page of another origin may embed a response, whatever its type.
_GUARDED: Fields = [
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Content-Security-Policy", b"frame-ancestors 'none'"),
]
_TEXT: Fields = [(b"Content-Type", b"text/plain; charset=utf-8"), *_GUARDED]
_JSON: Fields = [(b"Content-Type", b"application/json"), *_GUARDED]
_SESSION = b"/session"
_SETTINGS = b"/dashboard/settings"
_SESSION_BODY = 4096  # bytes of a login
# Refused changes are audited up to this many at once and one more each second, so that they do not displace events.
_REFUSALS = 10.0

Page = Callable[[RequestHead, bytes], Awaitable[Response]]
"""Makes the response to a request with this head and target."""


class PurgeResult(NamedTuple):
    """``purged`` counts the responses that were evicted; ``silent`` names the workers that did not respond."""

    purged: int
    silent: list[str]


class AdminSubject(Protocol):
    """What the admin port shows and changes: a supervisor, or a gateway without one."""

    @property
    def is_ready(self) -> bool:
        """Whether requests are served now."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    @property
    def events(self) -> EventLog:
        """The events."""

    @property
    def live(self) -> LiveSampler:
        """The live view."""

    @property
    def splits(self) -> Splits:
        """The splits of routes."""

    async def metrics(self) -> Snapshot:
        """Return the counters."""

    async def status(self) -> dict[str, Any]:
        """Return the status of everything that runs."""

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make the change ``reload``, ``scale``, ``restart``, ``instances/add``, ``/change`` or ``/remove``.

        :raises ChangeRefused: if it cannot be made.
        """

    @property
    def rollouts(self) -> Rollouts:
        """The rollouts of splits."""

    async def purge(self, kind: str, value: str) -> PurgeResult:
        """Evict the stored responses with the tag or path ``value``, or all, as ``kind`` states."""

    @property
    def maintenance(self) -> Maintenance:
        """The routes in maintenance."""

    async def apply_maintenance(self) -> list[str]:
        """Apply the routes in maintenance; return the names of the workers that did not reply."""

    @property
    def certificates(self) -> CertificateOrders:
        """The certificates that are ordered."""

    async def shadows(self, *, reset: bool) -> list[dict[str, Any]]:
        """Return what the shadow requests of each worker found; with ``reset``, they begin to count again."""


class Admin:
    """Serves ``subject`` on ``sock``, which is already bound, with the access that ``settings`` give."""

    def __init__(self, sock: socket.socket, subject: AdminSubject, settings: AdminPort | None = None) -> None:
        host, port = sock.getsockname()[:2]
        self.address = ports.join(host, port)
        self._sock = sock
        self._subject = subject
        self._settings = settings or AdminPort()
        self.access = AdminAccess(self._settings, host, port)
        self._explaining = asyncio.Lock()
        self.streams = StreamHub()
        self._refusals = _REFUSALS
        self._refused_since = 0.0
        self._unaudited = 0
        self._clock = Clock()
        self._listener = Listener(
            self,
            ListenerLimits(
                head_timeout=5.0,
                idle_timeout=30.0,
                connections=_CONNECTIONS,
                per_client=_CONNECTIONS // 2,
                client_of=limited_client,
            ),
            self._clock,
        )
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._pages: dict[bytes, Page] = {
            b"/healthz": self._healthz,
            b"/readyz": self._readyz,
            b"/metrics": self._metrics,
            b"/status": self._status,
            b"/events": self._events,
            b"/live": self._live,
            b"/history": self._history,
            b"/diagnose": self._diagnose,
            b"/failures": self._failures,
            b"/explain": self._explain,
            b"/shadow": self._shadow,
            b"/split": self._split,
            b"/rollout": self._rollout,
            b"/maintenance": self._maintenance,
            b"/certs": self._certs,
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
        path = target.partition(b"?")[0]
        page, changes = self._pages.get(path), _CHANGES.get(path, {})
        member = _instance_path(path)
        if member is not None:
            page, changes = partial(self._instances, *member), _OF_ONE if member[1] else _OF_ALL
        is_session = path == _SESSION and method in (b"POST", b"DELETE")
        is_file = files.is_file(path)
        exchange = _Login(partial(self._begin_session, connection, head)) if is_session else PassiveExchange()
        connection.adopt(exchange)
        request = AdminRequest(connection.peer, connection.local, method, path, head, method in changes)
        try:
            if is_session:
                self.access.check_origin(request)
                if method == b"DELETE":
                    cleared = [(b"Set-Cookie", self.access.clear_cookie())]
                    connection.send(_text(200, b"the session has ended\n", cleared))
                elif not connection.receiving:
                    self._begin_session(connection, head, b"")
                return
            if is_file:
                self.access.check_origin(request)
                client = Client("open", "")
            else:
                client = self.access.admit(request)
        except AccessRefused as refused:
            if method in changes:
                self._audit_refused(connection, path, refused)
            connection.send(_text(refused.status, refused.text.encode() + b"\n", refused.fields))
            return
        problem = None
        if is_file:
            page = self._file
        elif path == _SETTINGS:
            page = partial(self._dashboard_settings, request, client)
        if method in changes:
            page = partial(self._change, changes[method], member, client)
        elif page is None and not changes and path != _SESSION:
            problem = _text(404, b"the pages are /, %b\n" % b", ".join(self._pages))
        elif page is None or method not in (b"GET", b"HEAD"):
            names = [b"POST", b"DELETE"] if path == _SESSION else changes
            allowed = b", ".join([*((b"GET", b"HEAD") if page is not None else ()), *names])
            problem = _text(405, b"allowed: %b\n" % allowed, [(b"Allow", allowed)])
        elif method == b"GET" and path in (b"/events", b"/live") and _wants_stream(head):
            problem = self._stream(connection, path, target, head)
            if problem is None:
                return
        if problem is not None:
            connection.send(problem)
            return
        assert page is not None
        task = asyncio.get_running_loop().create_task(self._answer(connection, page, head, target))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, connection: ServerConnection, page: Page, head: RequestHead, target: bytes) -> None:
        try:
            connection.send(await page(head, target))
        except Exception:
            connection.send(_text(500, b"the admin page failed\n"))
            raise

    def on_refused(self, connection: ServerConnection, failure: Failure) -> bytes:
        """Return the id of a rejected request, which the admin port does not log."""
        return b"admin"

    # Sessions of browsers

    def _begin_session(self, connection: ServerConnection, head: RequestHead, body: bytes | None) -> None:
        """Respond to a login with ``body``; None for a body that is too long or incomplete."""
        is_form = (head.get(b"content-type") or b"").partition(b";")[0].strip() == b"application/x-www-form-urlencoded"
        given = _given_token(body, is_form) if body is not None else None
        secure = (head.get(b"origin") or b"").startswith(b"https:")
        cookie = self.access.set_cookie(given, secure=secure) if given is not None else None
        if cookie is None:
            if given is not None:
                self._audit_refused(connection, _SESSION, AccessRefused(401, "wrong token"))
            text = b"a session needs the token of the admin port: a form or a JSON object with the key token\n"
            connection.send(_text(400 if given is None else 401, text if given is None else b"wrong token\n"))
            return
        peer = connection.peer.decode("ascii", "replace")
        self._subject.events.record("audit", f"session begun by {peer}", client=peer, by="token", action="session")
        fields: Fields = [(b"Set-Cookie", cookie)]
        if is_form:
            fields.append((b"Location", b"/"))
        connection.send(_text(303 if is_form else 200, b"the session has begun\n", fields))

    # Changes

    async def _change(
        self, name: str, member: tuple[str, str] | None, client: Client, head: RequestHead, target: bytes
    ) -> Response:
        arguments = dict(parse_qsl(target.decode("ascii").partition("?")[2], keep_blank_values=member is not None))
        if name == "backup":
            return self._backup(arguments, client)
        if member is not None:
            arguments["service"], arguments["instance"] = member
        outcome = "failed"
        try:
            if name == "cache/purge":
                response = purge_response(await self._subject.purge(*parse_purge(arguments)))
            elif name == "maintenance":
                response = await self._switch_maintenance(arguments)
            elif name == "certs/renew":
                response = {"message": self._subject.certificates.change(arguments)}
            elif name == "shadow/reset":
                await self._subject.shadows(reset=True)
                response = {"message": "the shadow requests are counted again from zero"}
            elif name == "split":
                response = await change_split(self._subject.splits, arguments, f"{client.by} from {client.address}")
            elif name == "rollout":
                response = await self._subject.rollouts.change(arguments, f"{client.by} from {client.address}")
            else:
                response = await self._subject.change(name, arguments)
            outcome = "done"
            return _json(200, response)
        except ChangeRefused as refused:
            outcome = f"refused: {'; '.join(refused.problems)}"
            return _refusal(refused)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._audit(name, arguments, client, outcome)

    async def _switch_maintenance(self, arguments: Mapping[str, str]) -> dict[str, Any]:
        maintenance = self._subject.maintenance
        message = maintenance.change(self._subject.config, arguments)
        silent = await self._subject.apply_maintenance()
        if silent:
            raise ChangeRefused(f"no response from {', '.join(silent)}, which may serve as before; switch again")
        return {"message": message, **maintenance.as_json()}

    def _backup(self, arguments: Mapping[str, str], client: Client) -> Response:
        """Record the outcome of a backup, which another process has made."""
        outcome, text = arguments.get("outcome"), arguments.get("text")
        if outcome not in ("done", "failed") or not text or len(arguments) > 2:
            return _json(400, {"problems": ["allowed are outcome=done or outcome=failed, and text"]})
        self._subject.events.record(f"backup_{outcome}", text, by=client.by, client=client.address)
        return _json(200, {"message": "the outcome of the backup is recorded"})

    def _audit(self, action: str, arguments: Mapping[str, str], client: Client, outcome: str) -> None:
        words = " ".join(f"{key}={value!r}" for key, value in list(arguments.items())[:10])
        self._subject.events.record(
            "audit",
            f"{action}{' ' * bool(words)}{words[:200]} by {client.by} from {client.address}: {outcome[:200]}",
            service=arguments.get("service") if len(arguments.get("service", "")) <= 63 else None,
            action=action,
            arguments=arguments,
            by=client.by,
            client=client.address,
            outcome=outcome,
        )

    def _audit_refused(self, connection: ServerConnection, path: bytes, refused: AccessRefused) -> None:
        """Audit a request that was refused for lack of access, unless there were many in the last seconds."""
        now = self._clock.now
        self._refusals = min(_REFUSALS, self._refusals + now - self._refused_since)
        self._refused_since = now
        if self._refusals < 1.0:
            self._unaudited += 1
            return
        self._refusals -= 1.0
        peer, unaudited = connection.peer.decode("ascii", "replace"), self._unaudited
        self._unaudited = 0
        action = path.decode("ascii", "replace")[1:64]
        outcome = f"refused with {refused.status}: {refused.text}"
        text = f"{action} from {peer}: {outcome}"
        if unaudited:
            text += f" ({unaudited} refused before are not listed)"
        self._subject.events.record("audit", text, action=action, client=peer, by=None, outcome=outcome)

    # Streams

    def _stream(self, connection: ServerConnection, path: bytes, target: bytes, head: RequestHead) -> Response | None:
        """Begin a stream. Returns the response to a request that is refused."""
        query = _query(target)
        try:
            since, kinds = _since(query, head), _kinds(query)
        except ValueError as error:
            return _text(400, f"{error}\n".encode())
        if self.streams.is_full:
            return _text(503, b"too many streams are open\n", [(b"Retry-After", b"5")])
        events, live = self._subject.events, self._subject.live

        def feed(stream: EventStream) -> EventFeed | LiveFeed:
            if path == b"/live":
                return LiveFeed(stream, events, live, events.last if since is None else since)
            return EventFeed(stream, events, events.last if since is None else since, kinds)

        self.streams.open(connection, _field_lines(_GUARDED[1:]), feed)
        return None

    # The pages

    async def _healthz(self, head: RequestHead, target: bytes) -> Response:
        return _text(200, b"ok\n")

    async def _readyz(self, head: RequestHead, target: bytes) -> Response:
        return _text(200, b"ready\n") if self._subject.is_ready else _text(503, b"not ready\n")

    async def _metrics(self, head: RequestHead, target: bytes) -> Response:
        accept = (head.get(b"accept") or b"").decode("latin-1")
        # Imported here: it is 5 % of the start of a process, and not every gateway is scraped.
        from passerelle.observability.prometheus import render

        # In a thread: with many routes and instances it takes a while.
        body, media_type = await asyncio.to_thread(render, await self._subject.metrics(), accept)
        return Response(200, [(b"Content-Type", media_type.encode()), *_TEXT[1:]], body)

    async def _status(self, head: RequestHead, target: bytes) -> Response:
        return _json(200, await self._subject.status())

    async def _events(self, head: RequestHead, target: bytes) -> Response:
        query, events = _query(target), self._subject.events
        try:
            found = events.since(_since(query, head) or 0, _kinds(query))
        except ValueError as error:
            return _text(400, f"{error}\n".encode())
        return _json(200, {"last": events.last, "events": [event._asdict() for event in found]})

    async def _live(self, head: RequestHead, target: bytes) -> Response:
        return _json(200, self._subject.live.latest)

    async def _history(self, head: RequestHead, target: bytes) -> Response:
        given = _query(target).get("seconds", str(HISTORY_SECONDS))
        if not given.isdecimal() or not 1 <= int(given[:9]) <= HISTORY_SECONDS:
            return _text(400, b"seconds: allowed is a number from 1 to %d\n" % HISTORY_SECONDS)
        return _json(200, self._subject.live.history.last(int(given)))

    async def _diagnose(self, head: RequestHead, target: bytes) -> Response:
        given = _query(target).get("seconds", "10")
        if not given.isdecimal() or not 1 <= int(given[:9]) <= RECENT:
            return _text(400, b"seconds: allowed is a number from 1 to %d\n" % RECENT)
        samples = list(self._subject.live.recent)[-int(given) :]
        verdicts = diagnose(gather(samples))
        return _json(200, {"seconds": len(samples), "verdicts": [verdict.as_dict() for verdict in verdicts]})

    async def _shadow(self, head: RequestHead, target: bytes) -> Response:
        routes = merge_reports(await self._subject.shadows(reset=False))
        return _of_route(target, routes, "shadow", ChangeRefused)

    async def _split(self, head: RequestHead, target: bytes) -> Response:
        try:
            return _json(200, {"routes": await split_report(self._subject.splits, _query(target).get("route"))})
        except ChangeRefused as refused:
            return _refusal(refused)

    async def _rollout(self, head: RequestHead, target: bytes) -> Response:
        return _of_route(target, self._subject.rollouts.status(), "rollout", NotFound)

    async def _maintenance(self, head: RequestHead, target: bytes) -> Response:
        return _json(200, self._subject.maintenance.as_json())

    async def _certs(self, head: RequestHead, target: bytes) -> Response:
        return _json(200, {"certificates": self._subject.certificates.report()})

    async def _failures(self, head: RequestHead, target: bytes) -> Response:
        return _json(200, {"failures": self._subject.live.failures_since(0)})

    async def _explain(self, head: RequestHead, target: bytes) -> Response:
        query = _query(target)
        try:
            method, url, host = query.get("method", "GET"), query.get("url", ""), query.get("host", "")
            request = parse_request(method, url, host, None, _header_pairs(target), query.get("from"))
        except ValueError as error:
            return _text(400, f"{error}\n".encode("utf-8", "backslashreplace"))
        # In a thread, and one at a time: with thousands of routes it takes a while.
        async with self._explaining:
            return _json(200, await asyncio.to_thread(explanation, self._subject.config, request))

    # The dashboard

    async def _file(self, head: RequestHead, target: bytes) -> Response:
        return files.response(target.partition(b"?")[0])

    async def _dashboard_settings(
        self, request: AdminRequest, client: Client, head: RequestHead, target: bytes
    ) -> Response:
        """Return what the dashboard needs to know about its client and the gateway."""
        prometheus = self._settings.prometheus
        return _json(
            200,
            {
                "version": __version__,
                "by": client.by,
                "may_change": self.access.may_change(request, client),
                "has_token": self._settings.token is not None,
                "prometheus": prometheus,
                "diagnose": b"/diagnose" in self._pages,
                "splits": bool(self._subject.splits.routes()),
                "rollouts": bool(self._subject.config.rollouts),
            },
        )

    async def _instances(self, service: str, instance: str, head: RequestHead, target: bytes) -> Response:
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


def limited_client(peer: bytes) -> bytes | None:
    """Return the address whose connections are limited; None for this machine."""
    return None if peer.startswith(b"127.") or peer == b"::1" else peer


def _instance_path(path: bytes) -> tuple[str, str] | None:
    """Return SERVICE and INSTANCE of ``/services/SERVICE/instances[/INSTANCE]``; INSTANCE is empty if left out."""
    words = path.decode("ascii", "replace").split("/")
    if len(words) not in (4, 5) or words[1] != "services" or words[3] != "instances" or not all(words[1:]):
        return None
    return unquote(words[2]), unquote(words[4]) if len(words) == 5 else ""


class _Login(PassiveExchange):
    """The exchange of a login: collects the body, of bounded length, and calls ``done(body)`` once."""

    def __init__(self, done: Callable[[bytes | None], None]) -> None:
        self._done = done
        self._body = b""

    def on_body(self, data: bytes) -> None:
        """Collect the body."""
        if len(self._body) <= _SESSION_BODY:
            self._body += data

    def on_body_end(self) -> None:
        """Respond."""
        self._done(self._body if len(self._body) <= _SESSION_BODY else None)

    def on_body_failure(self, failure: Failure) -> None:
        """Respond to an incomplete body."""
        self._done(None)


def _given_token(body: bytes, is_form: bool) -> bytes | None:
    """Return the value of ``token`` in the body of a login: a form, or a JSON object; None without one."""
    try:
        found = dict(parse_qsl(body.decode("ascii"))) if is_form else orjson.loads(body)
    except ValueError:
        return None
    token = found.get("token") if isinstance(found, dict) else None
    return token.encode() if isinstance(token, str) else None


def _wants_stream(head: RequestHead) -> bool:
    return b"text/event-stream" in (head.get(b"accept") or b"")


def _field_lines(fields: Fields) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def _query(target: bytes) -> dict[str, str]:
    return dict(parse_qsl(target.decode("ascii", "replace").partition("?")[2]))


def _header_pairs(target: bytes) -> list[tuple[str, str]]:
    """Return the values of ``header=NAME: VALUE``, which may be repeated. :raises ValueError: if one has no colon."""
    pairs = parse_qsl(target.decode("ascii", "replace").partition("?")[2])
    lines = [value.partition(":") for name, value in pairs if name == "header"]
    for name, colon, _ in lines:
        if not colon or not name.strip():
            raise ValueError("header: allowed is 'Name: value'")
    return [(name, value) for name, _, value in lines]


def _since(query: Mapping[str, str], head: RequestHead) -> int | None:
    """Return the sequence number in ``Last-Event-ID`` or in ``since``. :raises ValueError: if it is not a number."""
    given = (head.get(b"last-event-id") or b"").decode("latin-1") or query.get("since")
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise ValueError("since: allowed is the number of an event")
    return int(given)


def _kinds(query: Mapping[str, str]) -> frozenset[str] | None:
    """Return the kinds in ``kind``, a list with commas; None without it. :raises ValueError: for an unknown kind."""
    if "kind" not in query:
        return None
    kinds = frozenset(query["kind"].split(","))
    if not kinds <= KINDS.keys():
        raise ValueError(f"kind: allowed are {', '.join(KINDS)}, separated by commas")
    return kinds


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


def _of_route(target: bytes, routes: Mapping[str, Any], what: str, refused: type[ChangeRefused]) -> Response:
    """Return what ``routes`` has of the route that the query of ``target`` names, or of all; refuse an unknown one."""
    wanted = _query(target).get("route")
    if wanted is not None and wanted not in routes:
        names = ", ".join(routes) or "none"
        return _refusal(refused(f"no {what} on route {wanted!r}; routes with a {what}: {names}"))
    return _json(200, {"routes": routes if wanted is None else {wanted: routes[wanted]}})


def _refusal(refused: ChangeRefused) -> Response:
    return _json(refused.status, {"problems": refused.problems})


def _json(status: int, value: object) -> Response:
    return Response(status, _JSON, orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _text(status: int, text: bytes, fields: Fields | None = None) -> Response:
    return Response(status, _TEXT + (fields or []), text)
