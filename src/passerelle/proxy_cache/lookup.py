"""A request on a cached route: answered from the store, or by one request upstream that others wait for too.

:meth:`Seat.start` asks the policy and does what it says. The short way of a hit is in the pipeline itself.
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
from passerelle.caching.serving import HIT, STALE_HIT, forwarded
from passerelle.caching.single_flight import Flight
from passerelle.errors import Failure, Kind
from passerelle.proxy_cache.fetch import Fetch
from passerelle.proxy_cache.interfaces import Reader
from passerelle.proxy_cache.passthrough import Relay
from passerelle.proxy_cache.request import Wanted, begin
from passerelle.proxy_cache.tiered_fetch import SharedFetch
from passerelle.upstream.interfaces import NOBODY, Receiver, Source

if TYPE_CHECKING:
    from passerelle.balancing.instance import Instance
    from passerelle.http1.client.connection import UpstreamConnection
    from passerelle.http1.head import ResponseHead
    from passerelle.http1.interfaces import Tunnel
    from passerelle.proxy_cache.interfaces import Asker
    from passerelle.proxy_cache.invalidation import Invalidator
    from passerelle.upstream.request import Forward
    from passerelle.upstream.request_body import RequestBody

# How often a request may wait for another one: the first may bring another variant, the second hardly ever.
MAX_WAITS = 2
# RFC 9211 §2.8.
REFUSED = b"Cache-Status: passerelle; detail=only-if-cached\r\n"


class Seat:
    """Who asks, and what it waits for at the moment. To its asker it is what a forward is: it can be left."""

    __slots__ = ("_asker", "_entry", "_fetch", "_flight", "_forward", "_ticket", "_waits", "_waits_for", "_wanted")

    def __init__(self, asker: Asker, wanted: Wanted) -> None:
        self._asker = asker
        self._wanted = wanted
        self._entry: Entry | None = None
        self._fetch: Fetch | None = None
        self._flight: Flight[Entry] | None = None
        self._forward: Source | None = None
        self._ticket = 0
        self._waits = 0
        self._waits_for: Fetch | None = None

    def start(self) -> None:
        """Look the request up and carry out what the policy says."""
        wanted = self._wanted
        plan = wanted.plan
        now = time()
        self._entry = entry = plan.cache.shelf.find(wanted.key, wanted.facts)
        decision = lookup(wanted.facts, entry, now, plan.settings)
        if wanted.renews and entry is not None and isinstance(decision, Fresh) and decision.stale:
            decision = revalidation(entry)
        if isinstance(decision, Fresh):
            assert entry is not None
            wanted.own(entry)
            if decision.refresh:
                self._refresh(entry, now)
            outcome = "stale" if decision.stale else "hit"
            self.on_entry(entry, STALE_HIT if decision.stale else HIT, (), outcome)
        elif isinstance(decision, Refuse):
            self._tell("refused", REFUSED)
            self._asker.on_failure(Failure(Kind.NOT_CACHED))
        elif isinstance(decision, Bypass):
            self._tell("bypass", forwarded(decision.reason))
            self._go(Relay(self._asker, wanted, None), None)
        else:
            self._miss(decision, now)

    # ---- going upstream

    def _miss(self, decision: Miss | Stale, now: float) -> None:
        wanted = self._wanted
        cache = wanted.plan.cache
        if not decision.share or self._waits >= MAX_WAITS:
            self._lead(decision, None)
            return
        slot = cache.shelf.slot(wanted.key, wanted.facts)[0]
        if cache.flights.is_solo(slot, now):
            self._lead(decision, None)
            return
        flight = cache.flights.get(slot)
        if flight is not None:
            under_way = cache.fetches.get(slot)
            if under_way is None or under_way.is_current:
                self._wait(flight, under_way, decision)
                return
            # RFC 9111 §4.4: what was invalidated after it went upstream must not answer who asks after that.
            cache.flights.remove(flight)
        self._lead(decision, cache.flights.lead(slot))

    def _lead(self, decision: Miss | Stale, flight: Flight[Entry] | None) -> None:
        self._asker.cache_status = forwarded(decision.reason)
        self._fetch = fetch = make_fetch(self._wanted, decision, self._entry, self, flight)
        fetch.start()

    def _wait(self, flight: Flight[Entry], under_way: Fetch | None, decision: Miss | Stale) -> None:
        self._waits += 1
        ticket = flight.wait(self._landed)
        if not ticket:
            self._lead(decision, None)
            return
        self._flight, self._ticket, self._waits_for = flight, ticket, under_way
        self._asker.cache_status = forwarded(decision.reason, collapsed=True)
        self._wanted.leg.deadlines.add(self, self._wanted.started)
        if under_way is not None:
            under_way.hurry()

    def _landed(self, entry: Entry | None) -> None:
        """What was waited for is there, or is nobody else's (None)."""
        wanted = self._wanted
        wanted.leg.deadlines.entries.pop(self, None)
        if entry is None:
            self._may_begin_anew()
        self._flight = self._waits_for = None
        if entry is None:
            self._waits = MAX_WAITS
            self.start()
        elif self._fits(entry):
            self.on_entry(entry, forwarded(b"uri-miss", collapsed=True), (), "coalesced")
        else:
            self.start()

    def _fits(self, entry: Entry) -> bool:
        """Whether ``entry`` is the very variant that this request selects, and may be shared with who sends it."""
        wanted = self._wanted
        slot = wanted.plan.cache.shelf.slot(wanted.key, wanted.facts)[0]
        return slot == entry.key and not wanted.facts.needs & entry.refuses & IDENTITY

    def _refresh(self, entry: Entry, now: float) -> None:
        """Validate ``entry`` in the background (RFC 5861 §3), unless that is being done, or enough others are."""
        wanted = self._wanted
        cache = wanted.plan.cache
        if wanted.facts.method != b"GET" or cache.flights.get(entry.key) is not None or not cache.may_refresh():
            return
        background = replace(wanted, leg=wanted.leg.renewing(), started=perf_counter())
        flight = cache.flights.lead(entry.key)
        cache.refreshes(flight)
        make_fetch(background, revalidation(entry), entry, None, flight).start()

    def _go(self, receiver: Receiver, body: RequestBody | None) -> None:
        self._forward = forward = begin(self._wanted, receiver, self._wanted.message, body)
        forward.start()

    def go_around(self, invalidator: Invalidator, body: RequestBody | None, believed: bytes) -> None:
        """Carry out a request that no cache answers: another method than GET and HEAD, or one with a body.

        ``believed`` as in :func:`.policy.on_response`.
        """
        reason = b"method" if self._wanted.facts.method not in (b"GET", b"HEAD") else b"request"
        if self._wanted.plan.stores:
            self._tell("bypass", forwarded(reason))
        self._go(Relay(self._asker, self._wanted, invalidator, believed), body)

    def _tell(self, outcome: str, status_line: bytes) -> None:
        self._asker.cached = outcome
        self._asker.cache_status = status_line
        self._wanted.plan.counts[outcome] += 1

    # ---- the answer (the reader of a fetch)

    @property
    def streams(self) -> bool:
        """Whether the asker takes a body as it comes."""
        return self._asker.streams

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx response."""
        self._asker.on_interim(head)

    def on_entry(self, entry: Entry, status_line: bytes, own: tuple[bytes, ...], outcome: str) -> None:
        """The answer is in the store."""
        self._tell(outcome, status_line)
        self._asker.on_stored(self._wanted.facts, entry, status_line, own)

    def on_relayed(self, head: ResponseHead, data: bytes, complete: bool, status_line: bytes) -> None:
        """The answer comes from upstream."""
        self._tell("miss", status_line)
        self._asker.on_response(head, data, complete)

    def on_data(self, data: bytes) -> None:
        """More of it."""
        self._asker.on_data(data)

    def on_end(self) -> None:
        """All of it was there."""
        self._asker.on_end()

    def on_failure(self, failure: Failure) -> None:
        """There is no answer."""
        self._asker.on_failure(failure)

    def on_deadline(self) -> None:
        """What is waited for takes longer than this request may take.

        A route's time is for an answer's head, and the other one's has come in time. So this request asks for an answer
        of its own, as on a route without a cache.
        """
        begun = self._may_begin_anew()
        self.cancel()
        if begun:
            self._tell("miss", forwarded(b"uri-miss" if self._entry is None else b"stale"))
            self._go(Relay(self._asker, self._wanted, None), None)
        else:
            self._asker.on_failure(Failure(Kind.TIMEOUT, f"no answer within {self._wanted.leg.deadlines.limit:g} s"))

    def _may_begin_anew(self) -> bool:
        """Whether it was a body that was waited for; then the time of this request begins when it goes upstream."""
        if self._waits_for is None or not self._waits_for.has_begun or not self._asker.streams:
            return False
        self._wanted = replace(self._wanted, started=perf_counter())
        return True

    # ---- the asker

    def cancel(self) -> None:
        """The asker is gone."""
        if self._flight is not None:
            self._flight.leave(self._ticket)
            self._flight = self._waits_for = None
            self._wanted.leg.deadlines.entries.pop(self, None)
        elif self._fetch is not None:
            self._fetch.leave()
        elif self._forward is not None:
            self._forward.cancel()

    def pause(self) -> None:
        """The asker does not keep up."""
        source = self._fetch or self._forward
        if source is not None:
            source.pause()

    def resume(self) -> None:
        """The asker keeps up again."""
        source = self._fetch or self._forward
        if source is not None:
            source.resume()

    def refuse(self, failure: Failure) -> None:
        """Take no more of an answer that is at fault."""
        if self._forward is not None:
            self._forward.refuse(failure)

    def tunnel(self, other: Tunnel) -> UpstreamConnection:
        """See :meth:`passerelle.upstream.request.Forward.tunnel`; a request that the cache answers has none."""
        return cast("Forward", self._forward).tunnel(other)

    @property
    def _asked(self) -> Source | None:
        return self._fetch.forward if self._fetch is not None else self._forward

    @property
    def instance(self) -> Instance:
        """Who answered, if anybody was asked for this request alone."""
        return self._asked.instance if self._asked is not None else NOBODY

    @property
    def key(self) -> bytes | None:
        """What the balancer picked by."""
        return self._asked.key if self._asked is not None else None

    @property
    def seconds(self) -> float:
        """How long the attempts took."""
        return self._asked.seconds if self._asked is not None else 0.0

    @property
    def hedged(self) -> str | None:
        """What became of the hedge, if there was one."""
        return self._asked.hedged if self._asked is not None else None

    @property
    def attempts(self) -> int:
        """How many attempts there were; none for what another request brought."""
        return self._asked.attempts if self._asked is not None else 0


def make_fetch(
    wanted: Wanted, decision: Miss | Stale, entry: Entry | None, reader: Reader | None, flight: Flight[Entry] | None
) -> Fetch:
    """The request upstream, not started yet: with a second level, one that looks there first."""
    sharing = wanted.plan.cache.sharing
    if sharing is None:
        return Fetch(wanted, decision, entry, reader, flight)
    return SharedFetch(wanted, decision, entry, reader, flight, sharing)
