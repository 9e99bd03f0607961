"""One request: what is known of it, and its end, which is counted and logged exactly once."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, cast

from passerelle.balancing.sticky import set_cookie
from passerelle.compose.composition import Gathering
from passerelle.compose.part import PartCall
from passerelle.errors import Failure
from passerelle.gateway.plans import RoutePlan
from passerelle.http.messages import SAFE_METHODS, Response
from passerelle.http1.head import RequestHead
from passerelle.http1.serialize import serialize
from passerelle.http1.server.connection import ClientConnection
from passerelle.observability.access_log import RouteLog
from passerelle.proxy_cache.lookup import Seat
from passerelle.routing.router import Match, canonical_path
from passerelle.security.guard import Asked
from passerelle.upstream.request import Forward
from passerelle.upstream.request_body import RequestBody, WholeBody
from passerelle.upstream.request_headers import cache_place, came_by_tls, client_address
from passerelle.upstream.service import StickyCookie

if TYPE_CHECKING:
    from passerelle.gateway.gateway import Gateway


class ExchangeState:
    """What is known of one request while it is carried out, and how it is accounted for at its end."""

    streams = True  # a body goes on as it comes, for as long as it comes: only its head is held to the deadline

    __slots__ = (
        "_asked",
        "_body",
        "_client",
        "_continued",
        "_cookie",
        "_counted",
        "_finished",
        "_forward",
        "_gateway",
        "_gathering",
        "_head",
        "_method",
        "_parts",
        "_path",
        "_plan",
        "_query",
        "_request_id",
        "_sent_before",
        "_started",
        "_status",
        "_target",
        "cache_status",
        "cached",
    )

    def __init__(
        self, gateway: Gateway, client: ClientConnection, method: bytes, target: bytes, head: RequestHead
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._method = method
        self._target = target
        self._head = head
        self._asked: Asked | None = None
        self._body: RequestBody | None = None
        self._continued = False
        self._cookie: StickyCookie | None = None
        self._counted = False
        self._finished = False
        self._forward: Forward | Seat | None = None
        self._gathering: Gathering | None = None
        self._parts: list[PartCall] | tuple[()] = ()
        self._path = target
        self._plan: RoutePlan = gateway.unmatched
        self._query = b""
        self._request_id = gateway.next_id()
        self._sent_before = client.sent
        self._started = perf_counter()
        self._status = 0
        self.cache_status = b""  # the field line that tells of the cache (RFC 9211), on its routes
        self.cached: str | None = None

    @property
    def wants_body(self) -> bool:
        """Whether an instance still takes the request body, also after it has answered.

        A client that was not asked for the body, and has sent none, may take the response for a no (RFC 9110 §10.1.1).
        """
        body = self._body
        if body is None or (self._head.expect and not self._continued and not body.received):
            return False
        return body.sink is not None and body.sink.open

    def on_body_end(self) -> None:
        """The body is complete."""
        if self._body is not None:
            self._body.finish()

    def on_client_paused(self) -> None:
        """The client does not keep up reading."""
        if self._forward is not None:
            self._forward.pause()

    def on_client_resumed(self) -> None:
        """It does again."""
        if self._forward is not None:
            self._forward.resume()

    def _cancel(self) -> None:
        if self._forward is not None:
            self._forward.cancel()
        if self._gathering is not None:
            self._gathering.cancel()
        if self._finished and self._body is not None:
            self._body.cut_short()

    # ---- its route

    def _preflight(self) -> Match | None:
        """Where a browser asks whether a page may send a request, and the route of that request answers: its match.

        Then the plan is the one for preflights. None for an OPTIONS like any other.
        """
        method = self._head.get(b"access-control-request-method")
        if method is None or self.origin is None or self._target == b"*":
            return None
        path, mark, query = self._target.partition(b"?")
        path = canonical_path(path)
        match = self._gateway.router.match(self._head.host or b"", method, path)
        route: RoutePlan | None = match.value
        if route is None or route.preflight is None:
            return None  # a service may answer for itself
        self._path, self._query = path, mark + query
        self._plan = plan = route.preflight
        plan.metrics.in_flight += 1
        self._counted = True
        return match

    # ---- for routes that the gateway answers itself

    def ask(self) -> Asked:
        """The request as guards see it, the same each time."""
        asked = self._asked
        if asked is None:
            client = self._client
            asked = self._asked = Asked(
                self._method,
                self._path,
                self._address(),
                self._head.lines,
                client.certificate,
                self._query,
                self._request_id,
                client.peer,
                client.scheme,
            )
        return asked

    @property
    def method(self) -> bytes:
        """The method."""
        return self._method

    @property
    def origin(self) -> bytes | None:
        """The origin of the page that a browser asks for, if it says so."""
        return self._head.get(b"origin")

    @property
    def secure(self) -> bool:
        """Whether the client came over TLS, as far as is known."""
        return came_by_tls(self._head, self._client.peer, self._gateway.proxies, self._client.scheme)

    @property
    def request_id(self) -> bytes:
        """The id of this request."""
        return self._request_id

    @property
    def whole_body(self) -> WholeBody | None:
        """The body, where there is one and the gateway itself reads it."""
        return self._body if isinstance(self._body, WholeBody) else None

    @property
    def finished(self) -> bool:
        """Whether the client was answered, or is gone."""
        return self._finished

    def follow(self, forward: Forward) -> None:
        """What is asked of a service for this request ends with it."""
        self._forward = forward

    def respond(self, response: Response) -> None:
        """The answer, unless the client is gone or was told something else."""
        if not self._finished:
            head = self._leaving(serialize(response)) + self.ask().answer
            self._client.send_made(head, response.body, response.status != 204)
            self.finish(response.status)

    def _leaving(self, head: bytes) -> bytes:
        """The head of an answer, as the route lets it go; what a guard adds for this client comes behind it."""
        outgoing = self._plan.outgoing
        return head if outgoing is None else outgoing.edit(head, self)

    def on_failure(self, failure: Failure) -> None:
        """Nothing (more) can be answered."""
        raise NotImplementedError

    # ---- what is known

    def _address(self) -> bytes:
        return client_address(self._head, self._client.peer, self._gateway.proxies)

    def _place(self) -> bytes:
        """What stands for the origin that the client has asked in cache keys."""
        client = self._client
        return cache_place(self._head, client.peer, self._gateway.proxies, client.scheme)

    def _for_us(self) -> bool:
        """Whether the client is on this machine, and not merely a proxy in front of one that is not."""
        return self._client.local and not self._head.forwarded

    def _asks_instances(self) -> bool:
        """Whether the client wants to know which instances answer: then the cache must not."""
        return self._head.debug and self._for_us() and self._method in SAFE_METHODS

    def _instances(self) -> bytes:
        """Who answered, for a client on this machine that asks with ``Passerelle-Debug: 1``."""
        forwards: list[Forward | Seat | None] = [part.forward for part in self._parts] or [self._forward]
        return ", ".join(f.instance.name for f in forwards if f is not None).encode()

    def _additions(self) -> bytes:
        """Field lines of our own: those of the cache and the guards, which instance it was, the sticky cookie."""
        lines = self.cache_status
        if self._asked is not None:
            lines += self._asked.answer
        if self._head.debug and self._for_us():
            lines += b"Passerelle-Instance: %b\r\n" % self._instances()
        if self._cookie is not None and self._forward is not None:
            lines += self._kept_at(self._cookie, cast(Forward, self._forward))
        return lines

    def _part_cookies(self) -> bytes:
        """Of each service that keeps its clients and answered, the first part's sticky cookie."""
        lines, seen = b"", set()
        for part in self._parts:
            if part.sticky is not None and part.answered and part.sticky.name not in seen:
                seen.add(part.sticky.name)
                lines += self._kept_at(part.sticky, cast(Forward, part.forward))
        return lines

    def _kept_at(self, cookie: StickyCookie, forward: Forward) -> bytes:
        """The line that keeps the client at the instance that answered; empty where it brought the cookie."""
        token = cookie.node.token(forward.instance)
        if token == forward.key:
            return b""
        return b"Set-Cookie: %b\r\n" % set_cookie(cookie.name, token, secure=self.secure)

    def finish(self, status: int, failure: Failure | None = None) -> None:
        """Count and log the request: exactly once, whatever happened."""
        if self._finished:
            return
        self._finished = True
        plan = self._plan
        seconds = perf_counter() - self._started
        if self._counted:
            plan.metrics.in_flight -= 1
        plan.metrics.observe(status, seconds, self._method)
        if failure is not None:
            plan.metrics.failed(failure.kind)
        if plan.log is not None:
            self._write_log(plan.log, status, seconds, failure)
        # These know this object: left in place they would be a cycle, and memory that waits for the collector.
        self._forward, self._gathering, self._parts = None, None, ()

    def _write_log(self, log: RouteLog, status: int, seconds: float, failure: Failure | None) -> None:
        if (forward := self._forward) is not None:
            instance = forward.instance.name or None
            upstream_seconds, attempts = forward.seconds, forward.attempts
        else:
            instance = None
            upstream_seconds = max((part.forward.seconds for part in self._parts), default=0.0)
            attempts = sum(part.forward.attempts for part in self._parts)
        hedge = forward.hedged if attempts > 1 and forward is not None else None
        identity = self._asked.identity if self._asked is not None else None
        body, client, head = self._body, self._client, self._head
        log.add(
            self._request_id,
            self._address() if head.forwarded else client.peer,
            self._method,
            self._target,
            head.host or b"",
            head.user_agent,
            status,
            body.received if body is not None else 0,
            client.sent - self._sent_before,
            seconds,
            upstream_seconds,
            attempts,
            instance,
            failure,
            self.cached,
            identity.consumer if identity is not None else None,
            hedge,
        )
