"""Rate limits by the generic cell rate algorithm (GCRA, ITU-T I.371; a leaky bucket as a meter).

A limit of ``count`` requests per ``period`` with a ``burst`` is a bucket of ``burst`` requests that refills at that
rate, one request at a time. The state of a client is a single number: the time at which its bucket is full again. Times
are in *ticks* of 1/count nanoseconds. One request costs exactly ``period`` ticks, and all quantities are integers, so
the arithmetic is exact for every rate.
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

# Number of clients remembered per limit of a route: about 450 bytes each.
CAPACITY = 50_000
# Number of old entries considered when room is made for a new one.
CANDIDATES = 8

# Maximum length of a key; longer client input is truncated, so that memory is bounded in bytes too.
LONGEST_KEY = 128


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` requests per ``period`` (nanoseconds), with bursts of at most ``burst`` requests."""

    count: int
    period: int
    burst: int

    @classmethod
    def of(cls, count: int, seconds: int, burst: int) -> Rate:
        """Create a rate of ``count`` per ``seconds``, in lowest terms with a period of whole microseconds.

        Redis's clock has microseconds, and small numbers make the arithmetic fast.
        """
        common = math.gcd(count, seconds * 1_000_000)
        return cls(count // common, seconds * SECOND // common, burst)

    def share(self, workers: int, cost: int = 1) -> Rate:
        """Return the part of the rate that one of ``workers`` without shared state may admit: at least one request."""
        return Rate(self.count, self.period * workers, max(cost, -(-self.burst // workers)))

    @property
    def window(self) -> int:
        """The time in seconds, rounded up, in which an empty bucket fills."""
        return max(1, -(-self.burst * self.period // (self.count * SECOND)))


class RateDecision(NamedTuple):
    """Decision about a request.

    ``full`` is the new state (ticks); ``left`` is how many requests of cost 1 remain; the other fields are in
    nanoseconds. ``reset`` is the time until the bucket is full, ``retry`` the time until this request would be admitted
    (0 if it is admitted).
    """

    admitted: bool
    full: int
    left: int
    reset: int
    retry: int


def decide(rate: Rate, full: int, now: int, cost: int = 1) -> RateDecision:
    """Decide whether a request of ``cost`` is admitted at ``now`` (nanoseconds).

    ``full`` is the client's state (ticks; 0 for an unknown client). A refused request does not change the state.
    ``cost`` must be at most the burst.
    """
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

    To make room for a new client, the eight entries considered least recently are candidates: the first one whose
    bucket is full again is removed (which changes nothing), otherwise the one nearest to full is evicted. The others
    move to the end of the queue. Clients that are being refused are therefore evicted last: ten million clients with
    one request each cannot displace one that sends too many. Each step is O(1), without pauses or timers.
    """

    __slots__ = ("_capacity", "_states")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._states: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, key: bytes) -> int:
        """Return the state of ``key``; 0 if it is unknown."""
        return self._states.get(key, 0)

    def put(self, key: bytes, full: int, ticks: int) -> None:
        """Store the state ``full`` of ``key``; ``ticks`` is the current time."""
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
    """Return the authenticated consumer."""
    identity = call.identity
    return identity.consumer.encode()[:LONGEST_KEY] if identity is not None else b""


def by_key(call: GuardedCall) -> bytes:
    """Return the id of the API key; for other credentials, the consumer."""
    identity = call.identity
    return identity.key.encode() if identity is not None and identity.key else by_consumer(call)


def by_header(name: bytes) -> KeyOf:
    """Use the field ``name`` (lower case), cut to 128 octets; all requests without the field share one bucket."""

    def key_of(call: GuardedCall) -> bytes:
        return (call.get(name) or b"")[:LONGEST_KEY]

    return key_of


class RouteRateLimit:
    """One limit of a route. ``name`` is used in the RateLimit fields; with ``dry_run`` it counts but never
    refuses."""

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
        # A String of structured fields (RFC 9651 §3.3.3); names are visible ASCII without quotes (checked by the
        # configuration).
        self.label = b'"%b"' % name.encode("ascii")
        self.policy = b"%b;q=%d;w=%d" % (self.label, rate.burst, rate.window)

    def refusal(self, retry: int) -> RequestRefused:
        """Build the refusal of a request that would be admitted in ``retry`` nanoseconds."""
        after = b"%d" % -(-retry // SECOND)
        return RequestRefused(Kind.RATE_LIMITED, f"exceeds the limit {self.name}", [(b"Retry-After", after)])

    def ratelimit_item(self, decision: RateDecision) -> bytes:
        """Format the member of the RateLimit field for ``decision``."""
        return b"%b;r=%d;t=%d" % (self.label, decision.left, -(-decision.reset // SECOND))


class RateLimits:
    """Guard for rate limits: a request is admitted, and counted, only if all ``limits`` admit it.

    ``on_dry`` is called for each request that a dry-run limit would have refused. ``clock`` gives nanoseconds and is
    monotonic. Fields follow draft-ietf-httpapi-ratelimit-headers-10: ``q`` is the burst and ``w`` the seconds in which
    it refills, so that both describe the bucket; ``r`` is the number of requests left, and ``t`` the seconds until the
    bucket is full.
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
        """Add the RateLimit fields for ``decided``; raise :class:`RequestRefused` if a limit refuses that is not in dry
        run."""
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
    """:class:`RateLimits` for the common case of one limit without dry run: 1.0 us per request instead of 1.9.

    The arithmetic is that of :func:`decide`, inlined.
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
        # The RateLimit fields, up to the numbers.
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
