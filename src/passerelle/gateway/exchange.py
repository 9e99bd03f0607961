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

from passerelle.actions.interfaces import AttachedBody
from passerelle.caching.entry import Entry
from passerelle.caching.keys import TargetUri
from passerelle.caching.request import RequestView
from passerelle.caching.serving import serve
from passerelle.compose.composed_origin import ComposedOrigin
from passerelle.compose.composition import Gather, Outcome
from passerelle.compose.part import PartRequest, composed_response, instance_names, sticky_lines
from passerelle.compose.part_requests import PartRequests
from passerelle.errors import Failure, Kind
from passerelle.gateway.compression import encode_composed, uncoded_request, uncoded_view
from passerelle.gateway.conditional_routes import announced, choose
from passerelle.gateway.context import Context
from passerelle.gateway.plans import ActionPlan, ComposePlan, ForwardPlan, HandlerPlan, RoutePlan, SplitPlan
from passerelle.gateway.receivers import receiver_of
from passerelle.http.messages import SAFE_METHODS, Response, list_members
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.http1.interfaces import ServerConnection
from passerelle.http1.serialize import problem, serialize
from passerelle.http1.websocket import FrameTracker
from passerelle.observability.access_log import RouteLog
from passerelle.proxy_cache.cache import CachePlan, request_view
from passerelle.proxy_cache.interfaces import CacheClient
from passerelle.proxy_cache.lookup import CacheLookup
from passerelle.proxy_cache.request import CacheRequest
from passerelle.routing.router import EncodedSlashError, RouteMatch, canonical_path
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.upstream.interfaces import CacheOrigin
from passerelle.upstream.request import UpstreamRequest
from passerelle.upstream.request_body import BufferedBody, RequestBody
from passerelle.upstream.request_headers import (
    cache_origin,
    client_address,
    client_hosts,
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

    trace_id = trace_lines = b""  # see traced_exchange.py
    make_call = GuardedCall
    sees_timing = False  # see timed_exchange.py
    streams = True  # bodies are relayed piece by piece: the deadline holds for the head of the response alone

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
        self._request_id = context.id_of(head, client.peer)
        self._bytes_sent_before = client.sent
        self._started = perf_counter()
        self._status = 0
        self.cache_status = b""  # the Cache-Status field line (RFC 9211), on cached routes
        self.cache_outcome: str | None = None

    # ---- the life of the request

    def start(self) -> None:
        """Handle the request."""
        # 1. The connection has parsed the head (http1/server/connection.py). From here on it reports to this exchange.
        self._client.adopt(self)
        try:
            # 2. Find the canonical path, which every later step uses, and the plan of the matching route.
            if self._method != b"OPTIONS" or (match := self._preflight()) is None:
                match = self._match()
            self._run_from(self._plan, match, 0)
        except Failure as failure:
            self.on_failure(failure)

    def _match(self) -> RouteMatch:
        """Find the route of the request, and make its plan the one of this exchange."""
        path, mark, query = self._target.partition(b"?")
        if mark:
            self._query = mark + query
        host, router = self._head.host or b"", self._context.router
        match = router.match_usual(host, self._method, path)
        if match is not None:
            self._path = path
        else:
            try:
                self._path = canonical_path(path) if path != b"*" else path
            except EncodedSlashError:
                self._path = router.path_with_slashes(host, self._method, path)
            # "*" stands for the server as a whole (RFC 9110 §9.3.7): the route of "/" handles it.
            match = router.match(host, self._method, self._path if path != b"*" else b"/")
        if match.value is None:  # no route, or conditions choose it
            match = choose(router, match, self._method, self._path, self._head, self._target, self._address)
        self._plan = plan = match.value
        plan.metrics.in_flight += 1
        self._in_flight_counted = True
        return match

    def _preflight(self) -> RouteMatch | None:
        """Return the match of a CORS preflight, and make the plan for preflights that of this exchange.

        None where the request is an ordinary OPTIONS, or where its route leaves preflights to the service.
        """
        method = self._head.get(b"access-control-request-method")
        if method is None or self.origin is None or self._target == b"*":
            return None
        path, mark, query = self._target.partition(b"?")
        host, router = self._head.host or b"", self._context.router
        try:
            path = canonical_path(path)
        except EncodedSlashError:
            path = router.path_with_slashes(host, method, path)
        match = router.match(host, method, path)
        if match.value is None and router.conditional:
            match = announced(router, method, path, self._head, self._target, self._address)
        route: RoutePlan | None = match.value
        if route is None or route.preflight is None:
            return None
        self._path, self._query = path, mark + query
        self._plan = plan = route.preflight
        plan.metrics.in_flight += 1
        self._in_flight_counted = True
        return match

    def _run_from(self, plan: RoutePlan, match: RouteMatch, first: int) -> None:
        """Run the guards from number ``first`` on, then the request itself."""
        # 3. Authenticate and authorize, before any byte of a body is requested and before any response.
        if plan.guards and not self._run_guards(plan, match, first):
            return
        # 4. Check that the body is allowed before the client is asked to send it.
        if not self._head.plain:
            if self._body is None:
                self._prepare_body(plan)
            if self._head.expect:
                self._context.loop.call_later(CONTINUE_SECONDS, self._continue)
            if self._head.upgrade is not None and isinstance(plan, ForwardPlan):
                plan.policy.service.tunnels.check(self.client_key())
        # 5. Respond from the cache, from one service, from several, or from the gateway itself (actions, logins).
        if isinstance(plan, ForwardPlan):
            if plan.cache is not None:
                self._serve_from_cache(plan, plan.cache, match)
            elif plan.invalidates is not None and self._method not in SAFE_METHODS:
                self._serve_from_cache(plan, plan.invalidates, match)
            else:
                self._send_upstream(plan, match)
        elif isinstance(plan, ComposePlan):
            self._serve_composed(plan, match)
        elif isinstance(plan, SplitPlan):
            self._run_side(plan.choose(self._head, self._call, self._address()), match)
        elif isinstance(plan, ActionPlan):
            plan.action(self, self._head, self._path, match.params)
        else:
            cast(HandlerPlan, plan).handler(self)

    def _run_side(self, side: RoutePlan, match: RouteMatch) -> None:
        self._plan = side
        Exchange._run_from(self, side, match, 0)  # without guards: those of the route have run

    def _run_guards(self, plan: RoutePlan, match: RouteMatch, first: int) -> bool:
        """Run the guards from number ``first`` on; return whether the request may proceed.

        It may not when a guard has responded, or waits: then :meth:`resume` continues. A guard refuses by raising.
        """
        call = self.guarded_call()
        for index in range(first, len(plan.guards)):
            result = plan.guards[index](call)
            if result is None:
                continue
            if isinstance(result, Response):
                self.respond(result)
            else:
                if not self._head.plain and self._body is None:
                    self._prepare_body(plan)  # body bytes that arrive while the guard waits are kept, and bounded
                result.add_done_callback(partial(self.resume, plan, match, index))
            return False
        return True

    def resume(self, plan: RoutePlan, match: RouteMatch, index: int) -> None:
        """Run guard number ``index`` again, after what it waited for has ended, and continue from there."""
        try:
            try:
                if not self._finished:
                    self._run_from(plan, match, index)
            except Failure as failure:
                self.on_failure(failure)
        except Exception as error:
            self.on_defect(error)

    def _prepare_body(self, plan: RoutePlan) -> None:
        """Create the buffer for the request body, if there is a body that anything reads."""
        head = self._head
        if head.chunked or head.content_length > 0:
            if head.content_length > plan.body_limit:
                raise Failure(Kind.BODY_TOO_LARGE, f"Content-Length {head.content_length} over {plan.body_limit}")
            if isinstance(plan, ForwardPlan) or (isinstance(plan, SplitPlan) and plan.forwards):
                self._body = RequestBody(self._client, plan.body_limit, head.chunked)
            elif isinstance(plan, HandlerPlan):
                self._body = BufferedBody(self._client, plan.body_limit)

    def _continue(self) -> None:
        """Send 100 (Continue), unless it was sent or the client is not to send its body any more."""
        if not self._continued and not self._finished and self._client.receiving:
            self._continued = True
            self._client.send_interim(b"HTTP/1.1 100 Continue\r\n")

    # ---- routes with a cache

    def _serve_from_cache(self, plan: ForwardPlan, cache: CachePlan, match: RouteMatch) -> None:
        """Look the request up in ``cache``, or forward it past the cache and invalidate what it changes."""
        head, method = self._head, self._method
        if method in SAFE_METHODS and (head.upgrade is not None or self._wants_instances()):
            self._send_upstream(plan, match)
            return
        service = plan.policy.service
        message = self._message(plan, match)
        if plan.coding is not None:
            message = uncoded_request(message)
        node_key = service.key(head, match.params, self._address()) if service.key is not None else None
        request = self._cache_request(plan, cache, match, plan.policy, message, (), node_key)
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
            # Only without guards may later hits be served before routing (see fast_hit.py).
            plan if cache.whole_uri and not plan.guards else None,
            node_key,
            sources,
            route=plan,
        )

    def _receiver(self, plan: RoutePlan) -> CacheClient:
        """Return the receiver of the response: this exchange, or what changes responses before it."""
        return self if plan.direct else receiver_of(self, plan, self._method, self._head, self._context.cache)

    # ---- routes to one service

    def _send_upstream(self, plan: ForwardPlan, match: RouteMatch) -> None:
        message = self._message(plan, match)
        policy = plan.policy
        service = policy.service
        receiver = self if plan.direct else self._receiver(plan)
        self._source = request = policy.make_request(policy, receiver, self._method, message, self._body, self._started)
        if service.key is not None:
            request.key = service.key(self._head, match.params, self._address())
            self._cookie = service.cookie
        request.start()

    def _message(self, plan: ForwardPlan, match: RouteMatch, end: bytes = b"\r\n\r\n") -> bytes:
        """Build the request for upstream: the request line, the header fields and the empty line."""
        head, client = self._head, self._client
        path = self._path if plan.rewrite is None else plan.rewrite.fill(match.params)
        fields = head.upstream
        if fields is None:
            fields = head.upstream = upstream_fields(head, client.peer, self._context.proxies, client.scheme)
        if plan.withheld is not None:
            fields = plan.withheld.apply(fields)
        if self._call is not None:
            fields = self._call.upstream_section(fields)
            self._query = self._query if self._call.forwarded_query is None else self._call.forwarded_query
        if plan.request_rules is not None:
            fields = plan.request_rules.apply(fields, match.params)
        # A join takes 1,400 instructions, formatting with % 2,700.
        http, request_id = b" HTTP/1.1\r\n", self._request_id
        return b"".join((self._method, b" ", path, self._query, http, fields, b"X-Request-Id: ", request_id, end))

    # ---- compositions

    def _serve_composed(self, plan: ComposePlan, match: RouteMatch) -> None:
        head = self._head
        fields = head.part_fields
        if fields is None:
            fields = head.part_fields = part_fields(head, self._client.peer, self._context.proxies, self._client.scheme)
        if plan.withheld is not None:
            fields = plan.withheld.apply(fields)
        consumer = b""
        if self._call is not None:
            fields = self._call.upstream_section(fields)
            consumer = self._consumer()
        if plan.request_rules is not None:
            fields = plan.request_rules.apply(fields, match.params)
        cached = not (head.debug and self._wants_instances())
        composed, address, place, trace = plan.composed, self._address, self._cache_origin, self.trace_lines
        part_requests = PartRequests(
            composed.parts, match.params, head, fields, self._request_id, consumer, address, place, cached, trace
        )
        if plan.cache is not None and cached:
            request = self._cache_request(
                plan, plan.cache, match, ComposedOrigin(composed, part_requests), _NO_MESSAGE, part_requests.sources()
            )
            self._source = lookup = CacheLookup(self._receiver(plan), request)
            lookup.start()
            return

        def start_part(index: int, gather: Gather) -> PartRequest:
            part = part_requests.make(index, gather, self._started)
            if part.sticky is not None:
                self._cookie = part.sticky
            parts.append(part)
            part.source.start()
            return part

        parts: list[PartRequest] = []
        self._parts = parts
        self._gather = Gather(composed.composition, self.on_composed)
        self._gather.start(start_part)

    # ---- the response (the receiver of an upstream request or of a cache lookup)

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for; None for that of a trusted proxy that names no client."""
        return self._context.client_key(self._address())

    def on_interim(self, head: ResponseHead) -> None:
        """Relay a 1xx response (RFC 9110 §15.2); a 100 at most once, and only to a client that expects it."""
        if head.status != 100:
            self._client.send_interim(head.relay)
        elif self._head.expect:
            self._continue()

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """Relay the head of the response, and the part of its body that arrived with it."""
        call, rules = self._call, self._plan.response_rules
        if rules is not None or self._head.debug or self._cookie is not None or self.cache_status:
            self._client.send_head(self._apply_response_rules(head.relay) + self._added_lines(), head, data, complete)
        elif call is not None and call.response_fields:
            self._client.send_head(head.relay + call.response_fields, head, data, complete)
        else:
            self._client.send_response(head, data, complete)
        if complete:
            self.finish(head.status)
        else:
            self._status = head.status

    def on_stored(self, view: RequestView, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...]) -> None:
        """Send a stored response: whole, a range of it, or 304. ``added_lines`` are for this client alone."""
        status, head, body = serve(view, entry, time(), status_line=status_line, added_lines=added_lines)
        head = self._apply_response_rules(head)
        if self._call is not None:
            head += self._call.response_fields
        self._client.send_stored(head, body)
        self.finish(status)

    def on_data(self, data: bytes) -> None:
        """Relay a piece of the body."""
        self._client.send_body(data)

    def on_end(self) -> None:
        """End the response."""
        self._client.end_response()
        self.finish(self._status)

    def on_switch(self, head: ResponseHead, data: bytes) -> None:
        """Turn both connections into a tunnel after 101; bytes sent early by either side go first (RFC 9110 §7.8)."""
        client = self._client
        source = cast(UpstreamRequest | CacheLookup, self._source)
        if self._head.upgrade is None:
            source.refuse(Failure(Kind.BAD_RESPONSE, "101 without an Upgrade in the request"))
            return
        chosen = set(list_members((head.upgrade or b"").lower()))
        if not chosen or not chosen.issubset(list_members(self._head.upgrade.lower())):
            source.refuse(Failure(Kind.BAD_RESPONSE, "101 for a protocol that the request does not name"))
            return
        self._status = head.status
        upstream = source.tunnel(client)
        client.send_switch(head, self._added_lines())
        frames = FrameTracker() if chosen == {b"websocket"} else None
        early = client.begin_tunnel(upstream, cast(ForwardPlan, self._plan).tunnel_idle, frames)
        if data:
            client.write(data)
        if early:
            upstream.write(early)
        if client.ended:
            upstream.write_eof()

    def on_composed(self, outcome: Outcome) -> None:
        """Send the composed response, or the failure of a required part."""
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
            head += sticky_lines(self._parts, self.secure)
        self._client.send_made(head, body)
        self.finish(status)

    def on_failure(self, failure: Failure) -> None:
        """Send an error response; a response that has begun is cut off by closing the connection."""
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
        response = problem(failure, self._request_id, fields, self.trace_id)
        if (pages := self._plan.error_pages) is not None:
            response = pages.choose(response, self._head.get(b"accept"), failure.title, self._request_id)
        head = self._apply_response_rules(serialize(response))
        client.send_made(head if self._call is None else head + self._call.response_fields, response.body)
        self.finish(failure.status, failure)

    def on_defect(self, error: Exception) -> None:
        """Respond with 500 after an unexpected exception, and log its traceback."""
        logger.error("request failed within the gateway", exc_info=error)
        self.on_failure(Failure(Kind.INTERNAL, repr(error)))

    # ---- the client (what its connection reports)

    @property
    def wants_body(self) -> bool:
        """Whether an instance still reads the request body, also after it has responded.

        A client that expects 100 (Continue), has not received it and has sent no byte may take the final response for
        a refusal of the body (RFC 9110 §10.1.1).
        """
        body = self._body
        if body is None or (self._head.expect and not self._continued and not body.received):
            return False
        return body.sink is not None and body.sink.open

    def on_body(self, data: bytes) -> None:
        """Take bytes of the request body."""
        if self._body is not None and not self._body.add(data):
            self.on_body_failure(Failure(Kind.BODY_TOO_LARGE, f"more than {self._plan.body_limit} bytes"))

    def on_body_end(self) -> None:
        """Complete the request body."""
        if self._body is not None:
            self._body.finish()

    def on_body_failure(self, failure: Failure) -> None:
        """Cancel what is in flight, and send the error response: the body is malformed, too slow or too long."""
        self._cancel()
        self.on_failure(failure)

    def on_body_discarded(self) -> None:
        """End the body early: the client has its response, and no instance may wait for the rest of the body."""
        if self._body is not None:
            self._body.cut_short()

    def on_client_paused(self) -> None:
        """Pause the response: the client reads too slowly."""
        if self._source is not None:
            self._source.pause()

    def on_client_resumed(self) -> None:
        """Resume the response."""
        if self._source is not None:
            self._source.resume()

    def on_client_lost(self) -> None:
        """Cancel the request: the client has disconnected."""
        self._cancel()
        gone = Failure(Kind.CLIENT_GONE)
        if self._status == 101:
            self.finish(101, Failure(Kind.TUNNEL_IDLE) if self._client.idled else None)
        else:
            self.finish(self._status or gone.status, gone)

    def _cancel(self) -> None:
        """Cancel what is in flight for this request."""
        if self._source is not None:
            self._source.cancel()
        if self._gather is not None:
            self._gather.cancel()
        if self._finished and self._body is not None:
            self._body.cut_short()

    # ---- what handlers of the gateway and response header rules use

    @property
    def method(self) -> bytes:
        """The method of the request."""
        return self._method

    @property
    def origin(self) -> bytes | None:
        """The Origin header of the request, or None."""
        return self._head.get(b"origin")

    @property
    def hosts(self) -> tuple[bytes, ...]:
        """The hosts that the client used, if the response comes from a service."""
        return () if self._source is None else client_hosts(self._head, self._client.peer, self._context.proxies)

    @property
    def secure(self) -> bool:
        """Whether the client uses TLS, to this gateway or to a trusted proxy in front of it."""
        return is_client_secure(self._head, self._client.peer, self._context.proxies, self._client.scheme)

    @property
    def request_id(self) -> bytes:
        """The id of the request."""
        return self._request_id

    @property
    def buffered_body(self) -> BufferedBody | None:
        """The request body, where the gateway itself reads it, or None."""
        return self._body if isinstance(self._body, BufferedBody) else None

    @property
    def finished(self) -> bool:
        """Whether the response was sent, or the client disconnected."""
        return self._finished

    def guarded_call(self) -> GuardedCall:
        """The request as guards see it: the same object at each call."""
        call = self._call
        if call is None:
            client = self._client
            call = self._call = self.make_call(
                self._method,
                self._path,
                self._address(),
                self._head,
                client.certificate,
                self._query,
                self._request_id,
                client.peer,
                client.scheme,
            )
        return call

    def attach_request(self, request: UpstreamRequest) -> None:
        """Cancel ``request`` when the exchange ends first."""
        self._source = request

    def attach_body(self, body: AttachedBody) -> ServerConnection:
        """Let ``body`` send the response, and return the connection of the client."""
        self._source = cast(UpstreamRequest, body)  # which is paused, resumed, cancelled and logged in the same way
        return self._client

    def send_whole(self, status: int, head: bytes, body: bytes, counted: bool = False) -> None:
        """Send a response and finish. ``head`` has all its lines but Date, and but Content-Length if ``counted``."""
        fields = self._call.response_fields if self._call is not None else b""
        self._client.send_made(self._apply_response_rules(head) + fields, body, counted)
        self.finish(status)

    def respond(self, response: Response) -> None:
        """Send ``response`` and finish the exchange. Does nothing after its end."""
        if not self._finished:
            self.send_whole(response.status, serialize(response), response.body, response.status != 204)

    # ---- what is derived from the request

    def _address(self) -> bytes:
        """Return the client's address, from the trusted end of the chain."""
        return client_address(self._head, self._client.peer, self._context.proxies)

    def _cache_origin(self) -> bytes:
        """Return what stands for the requested origin in cache keys."""
        client, head = self._client, self._head
        known = head.cache_origin  # with a space at its end: see fast_hit.py
        return cache_origin(head, client.peer, self._context.proxies, client.scheme) if known is None else known[:-1]

    def _consumer(self) -> bytes:
        """Return the identity that guards have established, as services receive it; empty without one."""
        call = self._call
        if call is None:
            return b""
        consumer = call.identity.lines if call.identity is not None else b""
        return b"%b\0%b" % (consumer, call.variant_identity) if call.variant_identity else consumer

    def _is_local_client(self) -> bool:
        """Return whether the client itself is on this machine, and not only a proxy in front of it."""
        return self._client.local and not self._head.forwarded

    def _wants_instances(self) -> bool:
        """Return whether the client asks for the names of the instances: then no cache may serve the request."""
        return self._head.debug and self._is_local_client() and self._method in SAFE_METHODS

    def _apply_response_rules(self, head: bytes) -> bytes:
        """Apply the response header rules of the route to ``head``. Fields that guards add are not subject to them."""
        rules = self._plan.response_rules
        return head if rules is None else rules.apply(head, self)

    def _added_lines(self) -> bytes:
        """Return the added field lines: Cache-Status, those of guards, the instance, the sticky cookie."""
        lines = self.cache_status
        if self._call is not None:
            lines += self._call.response_fields
        if self._head.debug and self._is_local_client():
            lines += b"Passerelle-Instance: %b\r\n" % instance_names(self._parts, self._source)
        if self._cookie is not None and self._source is not None:
            source = cast(UpstreamRequest, self._source)
            lines += self._cookie.line(source.instance, source.key, self.secure)
        return lines

    # ---- the end

    def finish(self, status: int, failure: Failure | None = None) -> None:
        """Count and log the request, exactly once."""
        if self._finished:
            return
        self._finished = True
        plan = self._plan
        seconds = perf_counter() - self._started
        if self._in_flight_counted:
            plan.metrics.in_flight -= 1
        plan.metrics.observe(status, seconds, self._method)
        if failure is not None or status >= 500:
            self._count_failure(status, seconds, failure)
        if plan.log is not None:
            self._write_log(plan.log, status, seconds, failure)
        # These refer to this object: kept, they would be cycles that wait for the garbage collector.
        self._source, self._gather, self._parts = None, None, ()

    def _count_failure(self, status: int, seconds: float, failure: Failure | None) -> None:
        """Count a failed request, and keep its line of the log."""
        self._context.count_failure(self._plan, status, seconds, failure, self._write_log)

    def _write_log(
        self, log: RouteLog, status: int, seconds: float, failure: Failure | None, extra: bytes = b""
    ) -> None:
        if (forward := self._source) is not None:
            instance = forward.instance.name or None
            upstream_seconds, attempts = forward.seconds, forward.attempts
        else:
            instance, upstream_seconds, attempts = None, 0.0, 0
            for source in [part.source for part in self._parts]:
                upstream_seconds = max(upstream_seconds, source.seconds)
                attempts += source.attempts
        if attempts > 1 and forward is not None and forward.hedged is not None:
            extra += b',"hedge":"%b"' % forward.hedged.encode("ascii")
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
            extra,
        )
