"""The lookup of one request in the cache: it is served from the store, or by a fetch that it shares with others.

:meth:`CacheLookup.start` asks the caching policy and executes its decision. Fast hits do not come here: see
:mod:`passerelle.gateway.fast_hit`.
"""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter, time
from typing import TYPE_CHECKING, cast

from passerelle.caching.entry import IDENTITY, Entry
from passerelle.caching.policy import (
    Bypass,
    Fresh,
    Miss,
    Refuse,
    Stale,
    lookup,
    revalidation,
)
from passerelle.caching.serving import HIT, STALE_HIT, cache_status
from passerelle.caching.single_flight import Flight
from passerelle.errors import Failure, Kind
from passerelle.proxy_cache.fetch import Fetch
from passerelle.proxy_cache.interfaces import FetchClient, RunningFetch
from passerelle.proxy_cache.passthrough import Passthrough
from passerelle.proxy_cache.request import CacheRequest, make_upstream_request
from passerelle.proxy_cache.tiered_fetch import TieredFetch
from passerelle.upstream.interfaces import NO_INSTANCE, ResponseReceiver, ResponseSource

if TYPE_CHECKING:
    from passerelle.balancing.instance import Instance
    from passerelle.http1.client.connection import UpstreamConnection
    from passerelle.http1.head import ResponseHead
    from passerelle.http1.interfaces import Tunnel
    from passerelle.proxy_cache.interfaces import CacheClient
    from passerelle.proxy_cache.invalidation import Invalidator
    from passerelle.upstream.request import UpstreamRequest
    from passerelle.upstream.request_body import RequestBody

# How often a request waits for a fetch: the first fetch may yield another variant, the second hardly ever does.
MAX_WAITS = 2
# RFC 9211 §2.8.
REFUSED = b"Cache-Status: passerelle; detail=only-if-cached\r\n"


class CacheLookup:
    """One request at the cache. To its ``client`` it is a source of a response, as an upstream request is."""

    __slots__ = (
        "_awaited_fetch",
        "_client",
        "_entry",
        "_fetch",
        "_flight",
        "_request",
        "_ticket",
        "_upstream",
        "_waits",
    )

    def __init__(self, client: CacheClient, request: CacheRequest) -> None:
        self._client = client
        self._request = request
        self._entry: Entry | None = None
        self._fetch: Fetch | None = None
        self._flight: Flight[Entry] | None = None
        self._upstream: ResponseSource | None = None
        self._ticket = 0
        self._waits = 0
        self._awaited_fetch: RunningFetch | None = None

    def start(self) -> None:
        """Look the request up, and execute the decision of the policy."""
        request = self._request
        plan = request.plan
        now = time()
        self._entry = entry = plan.cache.variants.find(request.key, request.view)
        decision = lookup(request.view, entry, now, plan.settings)
        if request.revalidate and entry is not None and isinstance(decision, Fresh) and decision.stale:
            decision = revalidation(entry)
        if isinstance(decision, Fresh):
            assert entry is not None
            if request.route is not None:
                request.remember_route(entry)
            if decision.refresh:
                self._refresh(entry, now)
            outcome = "stale" if decision.stale else "hit"
            self.on_entry(entry, STALE_HIT if decision.stale else HIT, (), outcome)
        elif isinstance(decision, Refuse):
            self._report_outcome("refused", REFUSED)
            self._client.on_failure(Failure(Kind.NOT_CACHED))
        elif isinstance(decision, Bypass):
            self._report_outcome("bypass", cache_status(decision.reason))
            self._send_upstream(Passthrough(self._client, request, None), None)
        else:
            self._miss(decision, now)

    # ---- going upstream

    def _miss(self, decision: Miss | Stale, now: float) -> None:
        request = self._request
        cache = request.plan.cache
        if not decision.share or self._waits >= MAX_WAITS:
            self._start_fetch(decision, None)
            return
        slot = cache.variants.slot(request.key, request.view)[0]
        if cache.flights.is_solo(slot, now):
            self._start_fetch(decision, None)
            return
        flight = cache.flights.get(slot)
        if flight is not None:
            running = cache.fetches.get(slot)
            if running is None or running.is_current:
                self._join_flight(flight, running, decision)
                return
            # RFC 9111 §4.4: a response invalidated after its request was sent must not serve later requests.
            cache.flights.remove(flight)
        self._start_fetch(decision, cache.flights.begin(slot))

    def _start_fetch(self, decision: Miss | Stale, flight: Flight[Entry] | None) -> None:
        self._client.cache_status = cache_status(decision.reason)
        self._fetch = fetch = make_fetch(self._request, decision, self._entry, self, flight)
        fetch.start()

    def _join_flight(self, flight: Flight[Entry], running: RunningFetch | None, decision: Miss | Stale) -> None:
        self._waits += 1
        ticket = flight.wait(self._on_flight_done)
        if not ticket:
            self._start_fetch(decision, None)
            return
        self._flight, self._ticket, self._awaited_fetch = flight, ticket, running
        self._client.cache_status = cache_status(decision.reason, collapsed=True)
        self._request.origin.deadlines.add(self, self._request.started_at)
        if running is not None:
            running.stop_pausing()

    def _on_flight_done(self, entry: Entry | None) -> None:
        """Serve the response of the awaited fetch; None is one that may not be shared."""
        request = self._request
        request.origin.deadlines.entries.pop(self, None)
        if entry is None:
            self._restart_clock()
        self._flight = self._awaited_fetch = None
        if entry is None:
            self._waits = MAX_WAITS
            self.start()
        elif self._matches_request(entry):
            self.on_entry(entry, cache_status(b"uri-miss", collapsed=True), (), "coalesced")
        else:
            self.start()

    def _matches_request(self, entry: Entry) -> bool:
        """Return whether ``entry`` is the variant that this request selects, and may be shared with its client."""
        request = self._request
        slot = request.plan.cache.variants.slot(request.key, request.view)[0]
        return slot == entry.key and not request.view.needs & entry.needs_excluded & IDENTITY

    def _refresh(self, entry: Entry, now: float) -> None:
        """Revalidate ``entry`` in the background (RFC 5861 §3), unless that is in flight or too many others are."""
        request = self._request
        cache = request.plan.cache
        if request.view.method != b"GET" or cache.flights.get(entry.key) is not None or not cache.may_refresh():
            return
        background = replace(request, origin=request.origin.for_revalidation(), started_at=perf_counter())
        flight = cache.flights.begin(entry.key)
        cache.count_refresh(flight)
        make_fetch(background, revalidation(entry), entry, None, flight).start()

    def _send_upstream(self, receiver: ResponseReceiver, body: RequestBody | None) -> None:
        self._upstream = upstream = make_upstream_request(self._request, receiver, self._request.message, body)
        upstream.start()

    def bypass(self, invalidator: Invalidator | None, body: RequestBody | None, trusted_host: bytes) -> None:
        """Forward a request that no cache serves: another method than GET and HEAD, or one with a body.

        ``trusted_host`` as in :func:`.policy.on_response`.
        """
        reason = b"method" if self._request.view.method not in (b"GET", b"HEAD") else b"request"
        if self._request.plan.stores:
            self._report_outcome("bypass", cache_status(reason))
        self._send_upstream(Passthrough(self._client, self._request, invalidator, trusted_host), body)

    def _report_outcome(self, outcome: str, status_line: bytes) -> None:
        self._client.cache_outcome = outcome
        self._client.cache_status = status_line
        self._request.plan.counts[outcome] += 1

    # ---- the response (the client of a fetch)

    @property
    def streams(self) -> bool:
        """Whether the client takes a body piece by piece."""
        return self._client.streams

    def client_key(self) -> bytes | None:
        """Return the client that the request is counted for."""
        return self._client.client_key()

    def on_interim(self, head: ResponseHead) -> None:
        """Relay a 1xx response."""
        self._client.on_interim(head)

    def on_entry(self, entry: Entry, status_line: bytes, added_lines: tuple[bytes, ...], outcome: str) -> None:
        """Serve the stored response."""
        self._report_outcome(outcome, status_line)
        self._client.on_stored(self._request.view, entry, status_line, added_lines)

    def on_relayed(self, head: ResponseHead, data: bytes, complete: bool, status_line: bytes) -> None:
        """Relay the head of a response from upstream."""
        self._report_outcome("miss", status_line)
        self._client.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """Relay a piece of the body."""
        self._client.on_data(data)

    def on_end(self) -> None:
        """Relay the end of the body."""
        self._client.on_end()

    def on_failure(self, failure: Failure) -> None:
        """Relay a failure."""
        self._client.on_failure(failure)

    def on_deadline(self) -> None:
        """Stop waiting for the fetch: the time of this request is over.

        The timeout of a route holds for the head of a response. Where the head of the awaited response arrived in time,
        this request is forwarded itself, as on a route without a cache. Else it fails.
        """
        has_head = self._restart_clock()
        self.cancel()
        if has_head:
            self._report_outcome("miss", cache_status(b"uri-miss" if self._entry is None else b"stale"))
            self._send_upstream(Passthrough(self._client, self._request, None), None)
        else:
            self._client.on_failure(
                Failure(Kind.TIMEOUT, f"no response within {self._request.origin.deadlines.limit:g} s")
            )

    def _restart_clock(self) -> bool:
        """Restart the clock of the request if it has waited for the body of another; return whether it has."""
        if self._awaited_fetch is None or not self._awaited_fetch.has_head or not self._client.streams:
            return False
        self._request = replace(self._request, started_at=perf_counter())
        return True

    # ---- the client

    def cancel(self) -> None:
        """Stop: the client has disconnected."""
        if self._flight is not None:
            self._flight.leave(self._ticket)
            self._flight = self._awaited_fetch = None
            self._request.origin.deadlines.entries.pop(self, None)
        elif self._fetch is not None:
            self._fetch.leave()
        elif self._upstream is not None:
            self._upstream.cancel()

    def pause(self) -> None:
        """Pause the response: the client reads too slowly."""
        source = self._fetch or self._upstream
        if source is not None:
            source.pause()

    def resume(self) -> None:
        """Resume the response."""
        source = self._fetch or self._upstream
        if source is not None:
            source.resume()

    def refuse(self, failure: Failure) -> None:
        """Refuse a faulty response."""
        if self._upstream is not None:
            self._upstream.refuse(failure)

    def tunnel(self, other: Tunnel) -> UpstreamConnection:
        """Join the upstream connection to ``other``: see :meth:`passerelle.upstream.request.UpstreamRequest.tunnel`."""
        return cast("UpstreamRequest", self._upstream).tunnel(other)

    @property
    def _source(self) -> ResponseSource | None:
        return self._fetch.source if self._fetch is not None else self._upstream

    @property
    def instance(self) -> Instance:
        """The instance that responded to a request of this lookup's own, else :data:`.NO_INSTANCE`."""
        return self._source.instance if self._source is not None else NO_INSTANCE

    @property
    def key(self) -> bytes | None:
        """The key that the balancer hashed, or None."""
        return self._source.key if self._source is not None else None

    @property
    def seconds(self) -> float:
        """The duration of the attempts in seconds."""
        source = self._fetch.source if self._fetch is not None else self._upstream
        return source.seconds if source is not None else 0.0

    @property
    def hedged(self) -> str | None:
        """The outcome of the hedge, if there was one."""
        return self._source.hedged if self._source is not None else None

    @property
    def attempts(self) -> int:
        """The number of attempts; 0 where another request's fetch supplied the response."""
        source = self._fetch.source if self._fetch is not None else self._upstream
        return source.attempts if source is not None else 0


def make_fetch(
    request: CacheRequest,
    decision: Miss | Stale,
    entry: Entry | None,
    client: FetchClient | None,
    flight: Flight[Entry] | None,
) -> Fetch:
    """Create the fetch, not started: with a second level, one that looks there first."""
    tier = request.plan.cache.redis_tier
    if tier is None:
        return Fetch(request, decision, entry, client, flight)
    return TieredFetch(request, decision, entry, client, flight, tier)
