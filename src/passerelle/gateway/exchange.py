"""The life of one request, from its parsed head to its line in the access log.

:meth:`Exchange.start` begins it; the methods follow in the order in which they run. Where a request waits (for an
upstream or for the client), it continues in the method that the event calls: ``on_response``, ``on_composed``,
``on_failure``. These are callbacks, not coroutines: a coroutine driven by its connection makes a forwarded request 1.13
times as expensive, a task 1.25 times (docs/benchmarks.md). Whatever happens, :meth:`Exchange.finish` runs exactly once.

The file is longer than 400 lines because it is one class: every step and every way in which a request can end.
"""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter, time
from typing import cast

from passerelle.balancing.sticky import set_cookie
from passerelle.caching.entry import Entry
from passerelle.caching.keys import TargetUri
from passerelle.caching.request import RequestView
from passerelle.caching.serving import serve
from passerelle.compose.composed_origin import ComposedOrigin
from passerelle.compose.composition import Gather, Outcome
from passerelle.compose.part import PartRequest, composed_response
from passerelle.compose.part_requests import PartRequests
from passerelle.errors import Failure, Kind
from passerelle.gateway.compression import ResponseEncoder, encode_composed, uncoded_request, uncoded_view
from passerelle.gateway.context import Context
from passerelle.gateway.plans import ComposePlan, ForwardPlan, HandlerPlan, RoutePlan
from passerelle.http.messages import SAFE_METHODS, Response
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.serialize import problem, serialize
from passerelle.observability.access_log import RouteLog
from passerelle.proxy_cache.cache import CachePlan, request_view
from passerelle.proxy_cache.lookup import CacheLookup
from passerelle.proxy_cache.request import CacheRequest
from passerelle.routing.router import RouteMatch, canonical_path
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.upstream.interfaces import CacheOrigin
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.request_body import BufferedBody, RequestBody
from passerelle.upstream.request_headers import (
    cache_origin,
    client_address,
    is_client_secure,
    part_fields,
    trusted_host,
    upstream_fields,
)
from passerelle.upstream.service import StickyCookie

# How long an upstream may leave a client waiting for 100 (Continue) before the gateway sends it (RFC 9110 §10.1.1).
CONTINUE_SECONDS = 1.0
# The message of a composed request: its parts have messages of their own.
_NO_MESSAGE = b"GET / HTTP/1.1\r\n\r\n"

logger = logging.getLogger("passerelle")


class Exchange:
    """One request and its response."""

    streams = True  # a body goes on as it comes, for as long as it comes: only its head is held to the deadline

    __slots__ = (
        "_body",
        "_bytes_sent_before",
        "_call",
        "_client",
        "_context",
        "_continued",
        "_cookie",
        "_finished",
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
        self, context: Context, client: ServerConnection, method: bytes, target: bytes, head: RequestHead
    ) -> None:
        self._context = context
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
        self._plan: RoutePlan = context.unmatched
        self._query = b""
        self._request_id = context.next_id()
        self._bytes_sent_before = client.sent
        self._started = perf_counter()
        self._status = 0
        self.cache_status = b""  # the field line that tells of the cache (RFC 9211), on its routes
        self.cache_outcome: str | None = None

    # ---- the life of the request

    def start(self) -> None:
        """Carry the request out."""
        # 1. The head is parsed (http1/server/connection.py); from here on this object speaks to the client.
        self._client.adopt(self)
        try:
            # 2. One canonical path for everything that looks at it, and the plan of the route that it matches.
            if self._method != b"OPTIONS" or (match := self._preflight()) is None:
                match = self._match()
            self._run_from(self._plan, match, 0)
        except Failure as failure:
            self.on_failure(failure)

    def _match(self) -> RouteMatch:
        path, mark, query = self._target.partition(b"?")
        self._path = canonical_path(path) if path != b"*" else path
        self._query = mark + query
        # "*" asks about the server as a whole (RFC 9110 §9.3.7): the route of "/" answers for it.
        routed = self._path if path != b"*" else b"/"
        match = self._context.router.match(self._head.host or b"", self._method, routed)
        if match.value is None:
            if not match.allowed:
                raise Failure(Kind.NO_ROUTE)
            allowed = b", ".join(match.allowed)  # RFC 9110 §15.5.6
            raise RequestRefused(Kind.METHOD_NOT_ALLOWED, f"allowed: {allowed.decode()}", [(b"Allow", allowed)])
        plan: RoutePlan = match.value
        self._plan = plan
        plan.metrics.in_flight += 1
        self._in_flight_counted = True
        return match

    def _preflight(self) -> RouteMatch | None:
        """Where a browser asks whether a page may send a request, and the route of that request answers: its match.

        Then the plan is the one for preflights. None for an OPTIONS like any other.
        """
        method = self._head.get(b"access-control-request-method")
        if method is None or self.origin is None or self._target == b"*":
            return None
        path, mark, query = self._target.partition(b"?")
        path = canonical_path(path)
        match = self._context.router.match(self._head.host or b"", method, path)
        route: RoutePlan | None = match.value
        if route is None or route.preflight is None:
            return None  # a service may answer for itself
        self._path, self._query = path, mark + query
        self._plan = plan = route.preflight
        plan.metrics.in_flight += 1
        self._in_flight_counted = True
        return match

    def _run_from(self, plan: RoutePlan, match: RouteMatch, first: int) -> None:
        """The line from the guard number ``first`` on."""
        # 3. Who asks, and whether they may: before a byte of a body is asked for, and before any answer.
        if plan.guards and not self._run_guards(plan, match, first):
            return
        # 4. What the client wants to send must be allowed before it is asked to send it.
        if not self._head.plain:
            if self._body is None:
                self._prepare_body(plan)
            if self._head.expect:
                self._context.loop.call_later(CONTINUE_SECONDS, self._continue)
        # 5. Answer from the cache, from one service, from several, or (logins, preflights) by ourselves.
        if isinstance(plan, ForwardPlan):
            if plan.cache is not None:
                self._serve_from_cache(plan, plan.cache, match)
            elif plan.invalidates is not None and self._method not in SAFE_METHODS:
                self._serve_from_cache(plan, plan.invalidates, match)
            else:
                self._send_upstream(plan, match)
        elif isinstance(plan, ComposePlan):
            self._serve_composed(plan, match)
        else:
            cast(HandlerPlan, plan).handler(self)

    def _run_guards(self, plan: RoutePlan, match: RouteMatch, first: int) -> bool:
        """Ask the guards. False when one has answered, or must wait: then :meth:`resume` goes on. A refusal raises."""
        call = self.guarded_call()
        for index in range(first, len(plan.guards)):
            answer = plan.guards[index](call)
            if answer is None:
                continue
            if isinstance(answer, Response):
                self.respond(answer)
            else:
                if not self._head.plain and self._body is None:
                    self._prepare_body(plan)  # what comes in the meantime must be kept, and bounded
                answer.add_done_callback(partial(self.resume, plan, match, index))
            return False
        return True

    def resume(self, plan: RoutePlan, match: RouteMatch, index: int) -> None:
        """Run guard number ``index``, which waited for something that has ended now, and continue from there."""
        try:
            try:
                if not self._finished:
                    self._run_from(plan, match, index)
            except Failure as failure:
                self.on_failure(failure)
        except Exception as error:
            self.on_defect(error)

    def _prepare_body(self, plan: RoutePlan) -> None:
        head = self._head
        if head.chunked or head.content_length > 0:
            if head.content_length > plan.body_limit:
                raise Failure(Kind.BODY_TOO_LARGE, f"Content-Length {head.content_length} over {plan.body_limit}")
            if isinstance(plan, ForwardPlan):
                self._body = RequestBody(self._client, plan.body_limit, head.chunked)
            elif isinstance(plan, HandlerPlan):
                self._body = BufferedBody(self._client, plan.body_limit)

    def _continue(self) -> None:
        """Ask for the body, unless that was done or makes no sense any more."""
        if not self._continued and not self._finished and self._client.receiving:
            self._continued = True
            self._client.send_interim(b"HTTP/1.1 100 Continue\r\n")

    # ---- carried out through the cache

    def _serve_from_cache(self, plan: ForwardPlan, cache: CachePlan, match: RouteMatch) -> None:
        head, method = self._head, self._method
        if method in SAFE_METHODS and (head.upgrade is not None or self._wants_instances()):
            self._send_upstream(plan, match)
            return
        policy = plan.policy
        service = policy.service
        message = self._message(plan, match)
        if plan.coding is not None:
            message = uncoded_request(message)
        node_key = service.key(head, match.params, self._address()) if service.key is not None else None
        request = self._cache_request(plan, cache, match, policy, message, (), node_key)
        self._source = lookup = CacheLookup(self._receiver(plan), request)
        self._cookie = service.cookie
        if method in (b"GET", b"HEAD") and not request.view.has_body:
            lookup.start()
        else:
            believed = trusted_host(head, self._client.peer, self._context.proxies)
            lookup.bypass(self._context.invalidator, self._body, believed)

    def _cache_request(
        self,
        plan: RoutePlan,
        cache: CachePlan,
        match: RouteMatch,
        origin: CacheOrigin,
        message: bytes,
        sources: tuple[tuple[str, bytes], ...],
        node_key: bytes | None = None,
    ) -> CacheRequest:
        head, method = self._head, self._method
        host, place = head.host or b"", self._cache_origin()
        target = TargetUri(self._path, self._query[1:] if self._query else None)
        view_of = request_view if plan.coding is None else uncoded_view
        return CacheRequest(
            origin,
            cache,
            view_of(head, method, self._consumer()),
            cache.settings.key.key(place, *target),
            message,
            match.params,
            self._started,
            host,
            place,
            head.authority.lower(),
            target,
            # A hit goes the short way only where nothing has to be asked or added first.
            plan if cache.whole_uri and not plan.guards else None,
            node_key,
            sources,
            route=plan,
        )

    def _receiver(self, plan: RoutePlan) -> Exchange | ResponseEncoder:
        """Who is told of the answer: this, or on a route that compresses who codes it on the way."""
        if plan.coding is None:
            return self
        cache = self._context.cache
        return ResponseEncoder(self, plan.coding, self._method, self._head, cache.store if cache is not None else None)

    # ---- carried out by one service

    def _send_upstream(self, plan: ForwardPlan, match: RouteMatch) -> None:
        message = self._message(plan, match)
        policy = plan.policy
        service = policy.service
        receiver = self if plan.coding is None else self._receiver(plan)
        self._source = forward = policy.make_request(policy, receiver, self._method, message, self._body, self._started)
        if service.key is not None:
            forward.key = service.key(self._head, match.params, self._address())
            self._cookie = service.cookie
        forward.start()

    def _message(self, plan: ForwardPlan, match: RouteMatch) -> bytes:
        """The request for upstream: its line, its fields, the empty line."""
        head = self._head
        path = self._path if plan.rewrite is None else plan.rewrite.fill(match.params)
        fields = head.upstream
        if fields is None:
            fields = head.upstream = upstream_fields(
                head, self._client.peer, self._context.proxies, self._client.scheme
            )
        if self._call is not None:
            fields = self._call.upstream_section(fields)
        if plan.request_rules is not None:
            fields = plan.request_rules.apply(fields, match.params)
        return b"%b %b%b HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (
            self._method,
            path,
            self._query,
            fields,
            self._request_id,
        )

    # ---- carried out as a composition

    def _serve_composed(self, plan: ComposePlan, match: RouteMatch) -> None:
        head = self._head
        fields = head.part_fields
        if fields is None:
            fields = head.part_fields = part_fields(head, self._client.peer, self._context.proxies, self._client.scheme)
        consumer = b""
        if self._call is not None:
            fields = self._call.upstream_section(fields)
            consumer = self._consumer()
        if plan.request_rules is not None:
            fields = plan.request_rules.apply(fields, match.params)
        cached = not (head.debug and self._wants_instances())
        who = consumer, self._address, self._cache_origin
        composed = plan.composed
        part_requests = PartRequests(composed.parts, match.params, head, fields, self._request_id, *who, cached)
        if plan.cache is not None and cached:
            request = self._cache_request(
                plan, plan.cache, match, ComposedOrigin(composed, part_requests), _NO_MESSAGE, part_requests.sources()
            )
            self._source = lookup = CacheLookup(self._receiver(plan), request)
            lookup.start()
            return

        def start_part(index: int, gather: Gather) -> PartRequest:
            call = part_requests.make(index, gather, self._started)
            if call.sticky is not None:
                self._cookie = call.sticky
            parts.append(call)
            call.source.start()
            return call

        parts: list[PartRequest] = []
        self._parts = parts
        self._gather = Gather(composed.composition, self.on_composed)
        self._gather.start(start_part)

    # ---- the response (the receiver of an upstream request or of a cache lookup)

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response of the service (RFC 9110 §15.2): relayed, but exactly one 100, and only to who asked."""
        if head.status != 100:
            self._client.send_interim(head.relay)
        elif self._head.expect:
            self._continue()

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The service answers."""
        special = (
            self._head.debug or self._cookie is not None or self.cache_status or self._plan.response_rules is not None
        )
        if special or (self._call is not None and self._call.response_fields):
            self._client.send_head(self._apply_response_rules(head.relay) + self._added_lines(), head, data, complete)
        else:
            self._client.send_response(head, data, complete)
        if complete:
            self.finish(head.status)
        else:
            self._status = head.status

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """The cache answers: whole, with a range, or with 304. ``added_lines`` are field lines for this client
        alone."""
        status, head, body = serve(view, entry, time(), status_line=status_line, added_lines=added_lines)
        head = self._apply_response_rules(head)
        if self._call is not None:
            head += self._call.response_fields
        self._client.send_stored(head, body)
        self.finish(status)

    def on_data(self, data: bytes) -> None:
        """More of the body."""
        self._client.send_body(data)

    def on_end(self) -> None:
        """The body is complete."""
        self._client.end_response()
        self.finish(self._status)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """101: both sides become a tunnel; bytes that either had already sent go through first (RFC 9110 §7.8)."""
        client = self._client
        forward = cast(UpstreamRequest | CacheLookup, self._source)
        if self._head.upgrade is None:
            forward.refuse(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))
            return
        self._status = head.status
        upstream = forward.tunnel(client)
        client.send_switch(head, self._added_lines())
        early = client.begin_tunnel(upstream, cast(ForwardPlan, self._plan).tunnel_idle)
        if data:
            client.write(data)
        if early:
            upstream.write(early)
        if client.ended:
            upstream.write_eof()

    def on_composed(self, outcome: Outcome) -> None:
        """All parts are there, or one that is required failed."""
        if isinstance(outcome, Failure):
            self.on_failure(outcome)
            return
        status, head, body = composed_response(outcome, self._parts)
        if self._plan.coding is not None:
            head, body = encode_composed(status, head, body, self._plan.coding, self._head)
        head = self._apply_response_rules(head)
        if self._call is not None or self._head.debug:
            head += self._added_lines()
        if self._cookie is not None:
            head += self._part_cookies()
        self._client.send_made(head, body)
        self.finish(status)

    def on_failure(self, failure: Failure) -> None:
        """Nothing (more) can be answered: say so, or, in the middle of a body, let the client see that it is cut."""
        if self._finished:
            return
        client = self._client
        if client.response_started:
            client.cut_short()
            self.finish(self._status, failure)
            return
        fields = list(failure.fields) if isinstance(failure, RequestRefused) else []
        if self.cache_status:
            fields.append((b"Cache-Status", self.cache_status[14:-2]))
        response = problem(failure, self._request_id, fields)
        head = self._apply_response_rules(serialize(response))
        client.send_made(head if self._call is None else head + self._call.response_fields, response.body)
        self.finish(failure.status, failure)

    def on_defect(self, error: Exception) -> None:
        """Answer 500 after an exception that no code expected; the log alone gets the traceback."""
        logger.error("request failed within the gateway", exc_info=error)
        self.on_failure(Failure(Kind.INTERNAL, repr(error)))

    # ---- the client (what its connection reports)

    @property
    def wants_body(self) -> bool:
        """Whether an instance still takes the request body, also after it has answered.

        A client that was not asked for the body, and has sent none, may take the response for a no (RFC 9110 §10.1.1).
        """
        body = self._body
        if body is None or (self._head.expect and not self._continued and not body.received):
            return False
        return body.sink is not None and body.sink.open

    def on_body(self, data: bytes) -> None:
        """Body bytes of the client."""
        if self._body is not None and not self._body.add(data):
            self._fail_request(Failure(Kind.BODY_TOO_LARGE, f"more than {self._plan.body_limit} bytes"))

    def on_body_end(self) -> None:
        """The body is complete."""
        if self._body is not None:
            self._body.finish()

    def on_body_failure(self, failure: Failure) -> None:
        """The body broke its framing or stalled."""
        self._fail_request(failure)

    def on_body_discarded(self) -> None:
        """The client was answered, and the rest of the body is not wanted: no instance may wait for it."""
        if self._body is not None:
            self._body.cut_short()

    def on_client_paused(self) -> None:
        """The client does not keep up reading."""
        if self._source is not None:
            self._source.pause()

    def on_client_resumed(self) -> None:
        """It does again."""
        if self._source is not None:
            self._source.resume()

    def on_client_lost(self) -> None:
        """The client is gone: nobody waits for this any more."""
        self._cancel()
        gone = Failure(Kind.CLIENT_GONE)
        if self._status == 101:
            self.finish(101, Failure(Kind.TUNNEL_IDLE) if self._client.idled else None)
        else:
            self.finish(self._status or gone.status, gone)

    def _fail_request(self, failure: Failure) -> None:
        """The request itself is at fault: stop what is under way, then say so."""
        self._cancel()
        self.on_failure(failure)

    def _cancel(self) -> None:
        if self._source is not None:
            self._source.cancel()
        if self._gather is not None:
            self._gather.cancel()
        if self._finished and self._body is not None:
            self._body.cut_short()

    # ---- what handlers of the gateway and response header rules use

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
        return is_client_secure(self._head, self._client.peer, self._context.proxies, self._client.scheme)

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

    def attach_request(self, forward: UpstreamRequest) -> None:
        """What is asked of a service for this request ends with it."""
        self._source = forward

    def respond(self, response: Response) -> None:
        """The answer, unless the client is gone or was told something else."""
        if not self._finished:
            head = self._apply_response_rules(serialize(response)) + self.guarded_call().response_fields
            self._client.send_made(head, response.body, response.status != 204)
            self.finish(response.status)

    # ---- what is derived from the request

    def _address(self) -> bytes:
        return client_address(self._head, self._client.peer, self._context.proxies)

    def _cache_origin(self) -> bytes:
        """What stands for the requested origin in cache keys."""
        client, head = self._client, self._head
        known = head.cache_origin  # with a space at its end: see fast_hit.py
        return cache_origin(head, client.peer, self._context.proxies, client.scheme) if known is None else known[:-1]

    def _consumer(self) -> bytes:
        """Whom guards have found behind the request, in all that services are told of it; empty where none did."""
        call = self._call
        if call is None:
            return b""
        consumer = call.identity.lines if call.identity is not None else b""
        return b"%b\0%b" % (consumer, call.variant_identity) if call.variant_identity else consumer

    def _is_local_client(self) -> bool:
        """Whether the client is on this machine, and not merely a proxy in front of one that is not."""
        return self._client.local and not self._head.forwarded

    def _wants_instances(self) -> bool:
        """Whether the client wants to know which instances answer: then the cache must not."""
        return self._head.debug and self._is_local_client() and self._method in SAFE_METHODS

    def _apply_response_rules(self, head: bytes) -> bytes:
        """The head of an answer, as the route lets it go; what a guard adds for this client comes behind it."""
        outgoing = self._plan.response_rules
        return head if outgoing is None else outgoing.apply(head, self)

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

    def _instances(self) -> bytes:
        """Who answered, for a client on this machine that asks with ``Passerelle-Debug: 1``."""
        forwards: list[UpstreamRequest | CacheLookup | None] = [part.source for part in self._parts] or [self._source]
        return ", ".join(f.instance.name for f in forwards if f is not None).encode()

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

    # ---- the end

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
            upstream_seconds, attempts = 0.0, 0
            for part in self._parts:
                source = part.source
                upstream_seconds = max(upstream_seconds, source.seconds)
                attempts += source.attempts
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
