"""The straight line: what happens to a request, step by step, from its head to its log line.

:meth:`Exchange.start` is the line. Where something must wait (for an upstream, for the client), the line goes on in the
method that the answer calls: ``on_response``, ``on_composed``, ``on_failure``. Callbacks, not coroutines: a forward
costs 1.13 times as much as a coroutine driven by its connection and 1.25 times as much as a task (docs/benchmarks.md).
Whatever happens, :meth:`Exchange.finish` runs exactly once.
"""

from __future__ import annotations

from time import perf_counter, time
from typing import TYPE_CHECKING, cast

from passerelle.caching.answers import answer
from passerelle.caching.entry import Entry
from passerelle.caching.facts import Facts
from passerelle.caching.keys import Target
from passerelle.composition import Composed, Gathering, Outcome
from passerelle.errors import Failure, Kind
from passerelle.gateway.body import RequestBody
from passerelle.gateway.cache import CachePlan, part_facts, request_facts
from passerelle.gateway.cached import Seat
from passerelle.gateway.fields import part_fields, upstream_fields
from passerelle.gateway.forward import Forward
from passerelle.gateway.parts import PartCall
from passerelle.gateway.plan import ComposePlan, ForwardPlan, RoutePlan
from passerelle.gateway.wanted import Wanted
from passerelle.http1.connection import ClientConnection
from passerelle.http1.head import RequestHead, ResponseHead
from passerelle.http1.write import problem, serialize
from passerelle.messages import SAFE_METHODS, Fields, Response
from passerelle.observability.access_log import RouteLog
from passerelle.routing import Match, canonical_path

if TYPE_CHECKING:
    from passerelle.gateway.app import Gateway

# How long an upstream may leave a client waiting for 100 (Continue) before the gateway says it (RFC 9110 §10.1.1).
CONTINUE_SECONDS = 1.0
# The head of a composed answer that has nothing special about it.
COMPOSED = serialize(Response(200, [(b"Content-Type", b"application/json")]))


class Exchange:
    """One request and its answer."""

    streams = True  # a body goes on as it comes, for as long as it comes: only its head is held to the deadline

    __slots__ = (
        "_body",
        "_client",
        "_continued",
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
        self._body: RequestBody | None = None
        self._continued = False
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

    # ---- the line

    def start(self) -> None:
        """Carry the request out."""
        # 1. The head is parsed (http1/connection.py); from here on this object speaks to the client.
        self._client.adopt(self)
        try:
            # 2. One canonical path for everything that looks at it, and the plan of the route that it matches.
            match = self._match()
            plan = self._plan
            # 3. What the client wants to send must be allowed before it is asked to send it.
            if not self._head.plain:
                self._prepare_body(plan)
            # 4. Answer from the cache, from one service, or from several.
            if isinstance(plan, ForwardPlan):
                if plan.cache is None:
                    self._forward_to(plan, match)
                else:
                    self._from_cache(plan, plan.cache, match)
            else:
                self._compose(cast(ComposePlan, plan), match)
        except Failure as failure:
            self.on_failure(failure)

    def _match(self) -> Match:
        path, mark, query = self._target.partition(b"?")
        self._path = canonical_path(path) if path != b"*" else path
        self._query = mark + query
        # "*" asks about the server as a whole (RFC 9110 §9.3.7): the route of "/" answers for it.
        routed = self._path if path != b"*" else b"/"
        match = self._gateway.router.match(self._head.host or b"", self._method, routed)
        if match.value is None:
            raise MethodNotAllowed(match.allowed) if match.allowed else Failure(Kind.NO_ROUTE)
        plan: RoutePlan = match.value
        self._plan = plan
        plan.metrics.in_flight += 1
        self._counted = True
        return match

    def _prepare_body(self, plan: RoutePlan) -> None:
        head = self._head
        if head.chunked or head.content_length > 0:
            if head.content_length > plan.body_limit:
                raise Failure(Kind.BODY_TOO_LARGE, f"Content-Length {head.content_length} over {plan.body_limit}")
            if isinstance(plan, ForwardPlan):
                self._body = RequestBody(self._client, plan.body_limit, head.chunked)
        if head.expect:
            self._gateway.loop.call_later(CONTINUE_SECONDS, self._continue)

    def _from_cache(self, plan: ForwardPlan, cache: CachePlan, match: Match) -> None:
        head = self._head
        method = self._method
        if head.upgrade is not None or not (cache.stores or method not in SAFE_METHODS):
            self._forward_to(plan, match)
            return
        facts: Facts | None = head.cache_facts
        if facts is None or facts.method != method:
            facts = request_facts(head, method)
        host = head.host or b""
        if cache.whole_uri:
            key = b"%b %b%b" % (host, self._path, self._query)
        else:
            key = cache.settings.key.key(host, self._path, self._query[1:] if self._query else None)
        target = Target(self._path, self._query[1:] if self._query else None)
        message = self._message(plan, match)
        authority = head.authority.lower()
        owner = plan if cache.whole_uri else None
        params = match.params
        wanted = Wanted(plan, cache, facts, key, message, params, self._started, host, authority, target, owner)
        self._forward = seat = Seat(self, wanted)
        if method in (b"GET", b"HEAD") and not facts.has_body:
            seat.start()
        else:
            seat.go_around(self._gateway.invalidator, self._body)

    def _forward_to(self, plan: ForwardPlan, match: Match) -> None:
        message = self._message(plan, match)
        self._forward = forward = Forward(plan, self, self._method, message, self._body, self._started)
        forward.start()

    def _message(self, plan: ForwardPlan, match: Match) -> bytes:
        """The request for upstream: its line, its fields, the empty line."""
        head = self._head
        path = self._path if plan.rewrite is None else plan.rewrite.fill(match.params)
        fields = head.upstream
        if fields is None:
            fields = head.upstream = upstream_fields(head, self._client.peer, self._gateway.trusts)
        return b"%b %b%b HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (
            self._method,
            path,
            self._query,
            fields,
            self._request_id,
        )

    def _compose(self, plan: ComposePlan, match: Match) -> None:
        head = self._head
        fields = head.part_fields
        if fields is None:
            fields = head.part_fields = part_fields(head, self._client.peer, self._gateway.trusts)
        rest = b" HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (fields, self._request_id)

        def call(index: int, gathering: Gathering) -> PartCall:
            part = plan.parts[index]
            message = b"GET " + part.path.fill(match.params) + rest
            wanted = None
            if part.cache is not None:
                key = b"%b %b" % (part.key, part.path.fill(match.params))
                facts = part_facts(head, fields)
                wanted = Wanted(part, part.cache, facts, key, message, match.params, self._started)
            asked = PartCall(gathering, index, part, message, self._started, wanted)
            parts.append(asked)
            asked.forward.start()
            return asked

        parts: list[PartCall] = []
        self._parts = parts
        self._gathering = Gathering(plan.composition, self.on_composed)
        self._gathering.start(call)

    # ---- the answer

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response of the service (RFC 9110 §15.2): relayed, but exactly one 100, and only to who asked."""
        if head.status != 100:
            self._client.send_interim(head.relay)
        elif self._head.expect:
            self._continue()

    def on_response(self, head: ResponseHead, data: bytes, complete: bool) -> None:
        """The service answers."""
        if self.cache_status or self._head.debug:
            lines = self.cache_status
            if self._head.debug and self._for_us():
                lines += b"Passerelle-Instance: %b\r\n" % self._instances()
            self._client.send_head(head.relay + lines, head, data, complete)
        else:
            self._client.send_response(head, data, complete)
        if complete:
            self.finish(head.status)
        else:
            self._status = head.status

    def on_stored(self, facts: Facts, entry: Entry, status_line: bytes, own: tuple[bytes, ...]) -> None:
        """The cache answers: whole, with a range, or with 304. ``own`` are field lines for this client alone."""
        status, head, body = answer(facts, entry, time(), status_line=status_line, own=own)
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
        forward = cast(Forward, self._forward)
        if self._head.upgrade is None:
            forward.refuse(Failure(Kind.BAD_RESPONSE, "101 that nobody asked for"))
            return
        self._status = head.status
        upstream = forward.tunnel(client)
        client.send_switch(head)
        early = client.begin_tunnel(upstream)
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
        fields: Fields = []
        if isinstance(outcome, Composed):
            status, body = 200, outcome.body
            if outcome.partial:
                fields.append((b"Cache-Control", b"no-store"))
                fields.append((b"Passerelle-Partial", ", ".join(outcome.partial).encode()))
        else:
            status, body = outcome.status, outcome.body
            fields.append((b"Content-Type", outcome.media_type or b"application/octet-stream"))
            fields.append((b"Cache-Control", b"no-store"))
        for part in self._parts:
            if part.cookies:
                fields += [(b"Set-Cookie", value) for value in part.cookies]
        if self._head.debug and self._for_us():
            fields.append((b"Passerelle-Instance", self._instances()))
        if fields:
            if isinstance(outcome, Composed):
                fields.append((b"Content-Type", b"application/json"))
            self._client.send(Response(status, fields, body))
        else:
            self._client.send_made(COMPOSED, body)
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
        fields: Fields = []
        if isinstance(failure, MethodNotAllowed):
            fields.append((b"Allow", b", ".join(failure.allowed)))
        if self.cache_status:
            fields.append((b"Cache-Status", self.cache_status[14:-2]))
        client.send(problem(failure, self._request_id, fields))
        self.finish(failure.status, failure)

    # ---- the client, meanwhile

    @property
    def wants_body(self) -> bool:
        """Whether an instance still takes the request body, also after it has answered."""
        return self._body is not None and self._body.sink is not None and self._body.sink.open

    def on_body(self, data: bytes) -> None:
        """Body bytes of the client."""
        if self._body is not None and not self._body.add(data):
            self._abandon(Failure(Kind.BODY_TOO_LARGE, f"more than {self._plan.body_limit} bytes"))

    def on_body_end(self) -> None:
        """The body is complete."""
        if self._body is not None:
            self._body.finish()

    def on_body_failure(self, failure: Failure) -> None:
        """The body broke its framing or stalled."""
        self._abandon(failure)

    def on_client_lost(self) -> None:
        """The client is gone: nobody waits for this any more."""
        self._cancel()
        gone = Failure(Kind.CLIENT_GONE)
        tunnelled = self._status == 101
        self.finish(self._status or gone.status, None if tunnelled else gone)

    def on_client_paused(self) -> None:
        """The client does not keep up reading."""
        if self._forward is not None:
            self._forward.pause()

    def on_client_resumed(self) -> None:
        """It does again."""
        if self._forward is not None:
            self._forward.resume()

    def _continue(self) -> None:
        """Ask for the body, unless that was done or makes no sense any more."""
        if not self._continued and not self._finished and self._client.receiving:
            self._continued = True
            self._client.send_interim(b"HTTP/1.1 100 Continue\r\n")

    # ---- the end

    def _abandon(self, failure: Failure) -> None:
        """The request itself is at fault: stop what is under way, then say so."""
        self._cancel()
        self.on_failure(failure)

    def _cancel(self) -> None:
        if self._forward is not None:
            self._forward.cancel()
        if self._gathering is not None:
            self._gathering.cancel()

    def _for_us(self) -> bool:
        """Whether the client is on this machine, and not merely a proxy in front of one that is not."""
        return self._client.local and not self._head.forwarded

    def _instances(self) -> bytes:
        """Who answered, for a client on this machine that asks with ``Passerelle-Debug: 1``."""
        forwards: list[Forward | Seat | None] = [part.forward for part in self._parts] or [self._forward]
        return ", ".join(f.instance.name for f in forwards if f is not None).encode()

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
        self._forward = self._gathering = None
        self._parts = ()

    def _write_log(self, log: RouteLog, status: int, seconds: float, failure: Failure | None) -> None:
        forward = self._forward
        if forward is not None:
            instance = forward.instance.name or None
            upstream_seconds, attempts = forward.seconds, forward.attempts
        else:
            instance = None
            upstream_seconds = max((part.forward.seconds for part in self._parts), default=0.0)
            attempts = sum(part.forward.attempts for part in self._parts)
        body = self._body
        client = self._client
        head = self._head
        log.add(
            self._request_id,
            client.peer,
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
        )


class MethodNotAllowed(Failure):
    """The path is known, the method is not among ``allowed`` (RFC 9110 §15.5.6)."""

    __slots__ = ("allowed",)

    def __init__(self, allowed: tuple[bytes, ...]) -> None:
        super().__init__(Kind.METHOD_NOT_ALLOWED, f"allowed: {b', '.join(allowed).decode()}")
        self.allowed = allowed
