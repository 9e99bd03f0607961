"""One request: what is known of it, and its end, which is counted and logged exactly once."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, cast

from passerelle.balancing.sticky import set_cookie
from passerelle.compose.composition import Gather
from passerelle.compose.part import PartRequest
from passerelle.errors import Failure
from passerelle.gateway.plans import RoutePlan
from passerelle.http.messages import SAFE_METHODS, Response
from passerelle.http1.head import RequestHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.serialize import serialize
from passerelle.observability.access_log import RouteLog
from passerelle.proxy_cache.lookup import CacheLookup
from passerelle.routing.router import RouteMatch, canonical_path
from passerelle.security.guard import GuardedCall
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.request_body import BufferedBody, RequestBody
from passerelle.upstream.request_headers import cache_origin, client_address, is_client_secure
from passerelle.upstream.service import StickyCookie

if TYPE_CHECKING:
    from passerelle.gateway.gateway import Gateway


class ExchangeState:
    """What is known of one request while it is carried out, and how it is accounted for at its end."""

    streams = True  # a body goes on as it comes, for as long as it comes: only its head is held to the deadline

    __slots__ = (
        "_body",
        "_bytes_sent_before",
        "_call",
        "_client",
        "_continued",
        "_cookie",
        "_finished",
        "_gateway",
        "_gather",
        "_head",
        "_in_flight_counted",
        "_method",
        "_parts",
        "_path",
        "_plan",
        "_query",
        "_request_id",
        "_source",
        "_started",
        "_status",
        "_target",
        "cache_outcome",
        "cache_status",
    )

    def __init__(
        self, gateway: Gateway, client: ServerConnection, method: bytes, target: bytes, head: RequestHead
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._method = method
        self._target = target
        self._head = head
        self._call: GuardedCall | None = None
        self._body: RequestBody | None = None
        self._continued = False
        self._cookie: StickyCookie | None = None
        self._in_flight_counted = False
        self._finished = False
        self._source: UpstreamRequest | CacheLookup | None = None
        self._gather: Gather | None = None
        self._parts: list[PartRequest] | tuple[()] = ()
        self._path = target
        self._plan: RoutePlan = gateway.unmatched
        self._query = b""
        self._request_id = gateway.next_id()
        self._bytes_sent_before = client.sent
        self._started = perf_counter()
        self._status = 0
        self.cache_status = b""  # the field line that tells of the cache (RFC 9211), on its routes
        self.cache_outcome: str | None = None

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
        if self._source is not None:
            self._source.pause()

    def on_client_resumed(self) -> None:
        """It does again."""
        if self._source is not None:
            self._source.resume()

    def _cancel(self) -> None:
        if self._source is not None:
            self._source.cancel()
        if self._gather is not None:
            self._gather.cancel()
        if self._finished and self._body is not None:
            self._body.cut_short()

    # ---- its route

    def _preflight(self) -> RouteMatch | None:
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
        self._in_flight_counted = True
        return match

    # ---- for routes that the gateway answers itself

    def guarded_call(self) -> GuardedCall:
        """The request as guards see it, the same each time."""
        call = self._call
        if call is None:
            client = self._client
            call = self._call = GuardedCall(
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
        return call

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
        return is_client_secure(self._head, self._client.peer, self._gateway.proxies, self._client.scheme)

    @property
    def request_id(self) -> bytes:
        """The id of this request."""
        return self._request_id

    @property
    def buffered_body(self) -> BufferedBody | None:
        """The body, where there is one and the gateway itself reads it."""
        return self._body if isinstance(self._body, BufferedBody) else None

    @property
    def finished(self) -> bool:
        """Whether the client was answered, or is gone."""
        return self._finished

    def attach_request(self, forward: UpstreamRequest) -> None:
        """What is asked of a service for this request ends with it."""
        self._source = forward

    def respond(self, response: Response) -> None:
        """The answer, unless the client is gone or was told something else."""
        if not self._finished:
            head = self._apply_response_rules(serialize(response)) + self.guarded_call().response_fields
            self._client.send_made(head, response.body, response.status != 204)
            self.finish(response.status)

    def _apply_response_rules(self, head: bytes) -> bytes:
        """The head of an answer, as the route lets it go; what a guard adds for this client comes behind it."""
        outgoing = self._plan.response_rules
        return head if outgoing is None else outgoing.apply(head, self)

    def on_failure(self, failure: Failure) -> None:
        """Nothing (more) can be answered."""
        raise NotImplementedError

    # ---- what is known

    def _address(self) -> bytes:
        return client_address(self._head, self._client.peer, self._gateway.proxies)

    def _cache_origin(self) -> bytes:
        """What stands for the origin that the client has asked in cache keys."""
        client = self._client
        return cache_origin(self._head, client.peer, self._gateway.proxies, client.scheme)

    def _is_local_client(self) -> bool:
        """Whether the client is on this machine, and not merely a proxy in front of one that is not."""
        return self._client.local and not self._head.forwarded

    def _wants_instances(self) -> bool:
        """Whether the client wants to know which instances answer: then the cache must not."""
        return self._head.debug and self._is_local_client() and self._method in SAFE_METHODS

    def _instances(self) -> bytes:
        """Who answered, for a client on this machine that asks with ``Passerelle-Debug: 1``."""
        forwards: list[UpstreamRequest | CacheLookup | None] = [part.source for part in self._parts] or [self._source]
        return ", ".join(f.instance.name for f in forwards if f is not None).encode()

    def _added_lines(self) -> bytes:
        """Field lines of our own: those of the cache and the guards, which instance it was, the sticky cookie."""
        lines = self.cache_status
        if self._call is not None:
            lines += self._call.response_fields
        if self._head.debug and self._is_local_client():
            lines += b"Passerelle-Instance: %b\r\n" % self._instances()
        if self._cookie is not None and self._source is not None:
            lines += self._sticky_line(self._cookie, cast(UpstreamRequest, self._source))
        return lines

    def _part_cookies(self) -> bytes:
        """Of each service that keeps its clients and answered, the first part's sticky cookie."""
        lines, seen = b"", set()
        for part in self._parts:
            if part.sticky is not None and part.has_response and part.sticky.name not in seen:
                seen.add(part.sticky.name)
                lines += self._sticky_line(part.sticky, cast(UpstreamRequest, part.source))
        return lines

    def _sticky_line(self, cookie: StickyCookie, forward: UpstreamRequest) -> bytes:
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
        if self._in_flight_counted:
            plan.metrics.in_flight -= 1
        plan.metrics.observe(status, seconds, self._method)
        if failure is not None:
            plan.metrics.count_failure(failure.kind)
        if plan.log is not None:
            self._write_log(plan.log, status, seconds, failure)
        # These know this object: left in place they would be a cycle, and memory that waits for the collector.
        self._source, self._gather, self._parts = None, None, ()

    def _write_log(self, log: RouteLog, status: int, seconds: float, failure: Failure | None) -> None:
        if (forward := self._source) is not None:
            instance = forward.instance.name or None
            upstream_seconds, attempts = forward.seconds, forward.attempts
        else:
            instance = None
            upstream_seconds = max((part.source.seconds for part in self._parts), default=0.0)
            attempts = sum(part.source.attempts for part in self._parts)
        hedge = forward.hedged if attempts > 1 and forward is not None else None
        identity = self._call.identity if self._call is not None else None
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
            client.sent - self._bytes_sent_before,
            seconds,
            upstream_seconds,
            attempts,
            instance,
            failure,
            self.cache_outcome,
            identity.consumer if identity is not None else None,
            hedge,
        )
