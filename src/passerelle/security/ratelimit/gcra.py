"""Rate limits by the generic cell rate algorithm (GCRA, ITU-T I.371; a leaky bucket as a meter).

A limit of ``count`` requests per ``period`` with a ``burst`` is a bucket of ``burst`` requests that refills at that
rate, one by one. All that is kept of a client is one number: when its bucket will be full again. Time is counted in
*ticks* of 1/count nanoseconds, in which one request costs exactly ``period`` and everything is a whole number: the
arithmetic has no error, whatever the rate.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from passerelle.errors import Kind
from passerelle.security.guard import GuardedCall, RequestRefused

SECOND = 1_000_000_000

# Clients that one limit of one route remembers: about 450 bytes each.
CAPACITY = 50_000
# How many old entries are looked at to make room for a new one.
CANDIDATES = 8

# Longest value that is a key as it is; what a client sends is cut, so that memory is bounded in bytes too.
LONGEST_KEY = 128


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` requests each ``period`` (nanoseconds), at most ``burst`` at once."""

    count: int
    period: int
    burst: int

    @classmethod
    def of(cls, count: int, seconds: int, burst: int) -> Rate:
        """``count`` each ``seconds``, in the lowest terms in which the period is whole microseconds, which is what
        Redis's clock gives: small numbers make fast arithmetic."""
        common = math.gcd(count, seconds * 1_000_000)
        return cls(count // common, seconds * SECOND // common, burst)

    def share(self, workers: int, cost: int = 1) -> Rate:
        """What one of ``workers`` that know nothing of each other may admit: a part each, at least one request."""
        return Rate(self.count, self.period * workers, max(cost, -(-self.burst // workers)))

    @property
    def window(self) -> int:
        """Seconds, rounded up, in which an empty bucket fills."""
        return max(1, -(-self.burst * self.period // (self.count * SECOND)))


class RateDecision(NamedTuple):
    """``full`` is the new state (ticks); ``left`` requests of cost 1; the rest is in nanoseconds.

    ``reset`` is how long until the bucket is full, ``retry`` how long until this request would be admitted (0 if it
    is).
    """

    admitted: bool
    full: int
    left: int
    reset: int
    retry: int


def decide(rate: Rate, full: int, now: int, cost: int = 1) -> RateDecision:
    """Whether a request of ``cost`` is admitted at ``now`` (nanoseconds) for whom the state is ``full`` (ticks, 0 for
    unknown). A refused request changes nothing. ``cost`` must be at most the burst."""
    count, period = rate.count, rate.period
    ticks = now * count
    debt = full - ticks if full > ticks else 0
    size = rate.burst * period
    wanted = debt + cost * period
    if wanted > size:
        return RateDecision(
            False, ticks + debt, (size - debt) // period, -(-debt // count), -(-(wanted - size) // count)
        )
    return RateDecision(True, ticks + wanted, (size - wanted) // period, -(-wanted // count), 0)


class BucketTable:
    """States by client, at most ``capacity``.

    When it is full and a new client comes, the eight entries that were looked at longest ago are candidates: one whose
    bucket is full again goes (forgetting it changes nothing), else the one that is nearest to full; the others are
    spared and go to the end of the queue. So whoever is being refused is forgotten last: ten million clients that come
    once cannot wash out one that comes too often. Each step is O(1): no pause, no timer.
    """

    __slots__ = ("_capacity", "_states")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._states: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: bytes) -> int:
        """The state of ``key``; 0 when it is unknown."""
        return self._states.get(key, 0)

    def put(self, key: bytes, full: int, ticks: int) -> None:
        """Keep the state ``full`` of ``key``; ``ticks`` is now."""
        states = self._states
        if len(states) >= self._capacity and key not in states:
            self._make_room(ticks)
        states[key] = full

    def _make_room(self, ticks: int) -> None:
        states = self._states
        spared: list[tuple[bytes, int]] = []
        for _ in range(min(CANDIDATES, len(states))):
            candidate = states.popitem(last=False)
            if candidate[1] <= ticks:
                break
            spared.append(candidate)
        else:
            nearest = min(range(len(spared)), key=lambda index: spared[index][1])
            del spared[nearest]
        for key, full in spared:
            states[key] = full


KeyOf = Callable[[GuardedCall], bytes]


def by_consumer(call: GuardedCall) -> bytes:
    """The consumer that authentication found."""
    identity = call.identity
    return identity.consumer.encode()[:LONGEST_KEY] if identity is not None else b""


def by_key(call: GuardedCall) -> bytes:
    """The API key itself, not its owner; the consumer where another credential was used."""
    identity = call.identity
    return identity.key.encode() if identity is not None and identity.key else by_consumer(call)


def by_header(name: bytes) -> KeyOf:
    """The value of a field (``name`` in lower case), cut to 128 octets; all requests without it share one bucket."""

    def key_of(call: GuardedCall) -> bytes:
        return (call.get(name) or b"")[:LONGEST_KEY]

    return key_of


class RouteRateLimit:
    """One limit of a route. ``name`` is what the fields call it; ``dry_run`` counts and refuses nothing."""

    __slots__ = ("cost", "dry_run", "key_of", "label", "name", "policy", "rate", "table")

    def __init__(
        self,
        name: str,
        rate: Rate,
        key_of: KeyOf,
        *,
        cost: int = 1,
        dry_run: bool = False,
        table: BucketTable | None = None,
    ) -> None:
        self.name = name
        self.rate = rate
        self.key_of = key_of
        self.cost = cost
        self.dry_run = dry_run
        self.table = table if table is not None else BucketTable()
        # A string of structured fields (RFC 9651 §3.3.3); names are visible ASCII without quotes (config).
        self.label = b'"%b"' % name.encode("ascii")
        self.policy = b"%b;q=%d;w=%d" % (self.label, rate.burst, rate.window)

    def refusal(self, retry: int) -> RequestRefused:
        """The answer to a request that would be admitted in ``retry`` nanoseconds."""
        after = b"%d" % -(-retry // SECOND)
        return RequestRefused(Kind.RATE_LIMITED, f"over the limit {self.name}", [(b"Retry-After", after)])

    def ratelimit_item(self, decision: RateDecision) -> bytes:
        """The member of the RateLimit field for ``decision``."""
        return b"%b;r=%d;t=%d" % (self.label, decision.left, -(-decision.reset // SECOND))


class RateLimits:
    """The guard: all ``limits`` must admit a request, and only then does any of them count it.

    ``on_dry`` hears of each request that a dry limit would have refused. ``clock`` gives nanoseconds that never go
    back. Fields as in draft-ietf-httpapi-ratelimit-headers-10: ``q`` is the burst and ``w`` the seconds in which it
    refills, so that both are true of a bucket; ``r`` is what is left and ``t`` the seconds until all of it is.
    """

    __slots__ = ("_clock", "_limits", "_on_dry", "_policies")

    def __init__(
        self,
        limits: Iterable[RouteRateLimit],
        on_dry: Callable[[], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._limits = tuple(limits)
        self._on_dry = on_dry
        self._clock = clock
        shown = [limit.policy for limit in self._limits if not limit.dry_run]
        self._policies = b"RateLimit-Policy: %b\r\n" % b", ".join(shown) if shown else b""

    def __call__(self, call: GuardedCall) -> None:
        """Count the request, or raise :class:`RequestRefused` (429) with ``Retry-After``."""
        now = self._clock()
        decided = []
        for limit in self._limits:
            key = limit.key_of(call)
            decided.append((limit, key, decide(limit.rate, limit.table.get(key), now, limit.cost)))
        self.settle(call, decided)
        for limit, key, decision in decided:
            if decision.admitted:
                limit.table.put(key, decision.full, now * limit.rate.count)

    def settle(self, call: GuardedCall, decided: Iterable[tuple[RouteRateLimit, bytes, RateDecision]]) -> None:
        """Tell the client what was ``decided``; raise :class:`RequestRefused` where a limit that is not dry refuses."""
        items: list[bytes] = []
        refused: RouteRateLimit | None = None
        retry = 0
        for limit, _, decision in decided:
            if not decision.admitted:
                if limit.dry_run:
                    self._on_dry()
                elif decision.retry > retry:
                    refused, retry = limit, decision.retry
            if not limit.dry_run:
                items.append(limit.ratelimit_item(decision))
        if items:
            call.response_fields += b"%bRateLimit: %b\r\n" % (self._policies, b", ".join(items))
        if refused is not None:
            raise refused.refusal(retry)


class SingleRateLimit:
    """:class:`RateLimits` for one limit that is not dry, as most routes have: 1.0 us a request instead of 1.9.

    The arithmetic is that of :func:`decide`, written out.
    """

    __slots__ = (
        "_clock",
        "_count",
        "_header_lines",
        "_key_of",
        "_limit",
        "_period",
        "_second",
        "_size",
        "_table",
        "_wanted",
    )

    def __init__(self, limit: RouteRateLimit, clock: Callable[[], int] = time.monotonic_ns) -> None:
        rate = limit.rate
        self._limit = limit
        self._clock = clock
        self._key_of = limit.key_of
        self._table = limit.table
        self._count = rate.count
        self._period = rate.period
        self._second = rate.count * SECOND
        self._size = rate.burst * rate.period
        self._wanted = limit.cost * rate.period
        # What the client is told, but for the numbers.
        self._header_lines = b"RateLimit-Policy: %b\r\nRateLimit: %b;r=" % (limit.policy, limit.label)

    def __call__(self, call: GuardedCall) -> None:
        """Count the request, or raise :class:`RequestRefused` (429) with ``Retry-After``."""
        count, size = self._count, self._size
        key = self._key_of(call)
        ticks = self._clock() * count
        full = self._table.get(key)
        debt = full - ticks if full > ticks else 0
        wanted = debt + self._wanted
        if wanted <= size:
            self._table.put(key, ticks + wanted, ticks)
            debt = wanted
        left, reset = (size - debt) // self._period, -(-debt // self._second)
        call.response_fields += b"%b%d;t=%d\r\n" % (self._header_lines, left, reset)
        if wanted > size:
            raise self._limit.refusal(-(-(wanted - size) // count))
