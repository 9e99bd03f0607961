"""Rate limits that all gateways share: :func:`passerelle.security.ratelimit.gcra.decide` in one script, on Redis's
clock.

The script counts in microseconds, which is what Redis's clock gives, and in ticks of 1/count of them. Numbers there are
doubles, so nothing may pass 2^53: the state is kept as two whole numbers, microseconds and ticks, and the rate in its
lowest terms. That is exact up to ``burst * period / gcd(count, period)`` of 9e15 (a burst of a hundred thousand a day).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from math import gcd
from typing import Final, Protocol, cast

from passerelle.security.guard import GuardedCall, PendingResult
from passerelle.security.ratelimit.gcra import Rate, RateDecision, RateLimits, RouteRateLimit

MICROSECOND: Final = 1000

# What every script begins with.
NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
"""

# KEYS: one a limit. ARGV, four a limit: count, size of the bucket and
# price of the request (both in ticks), whether it is dry. Gives four numbers a limit: whether it admits, the debt in
# ticks, the same in us, and the wait in us.
DECIDE: Final = """
local out, puts, refused = {}, {}, false
for i = 1, #KEYS do
  local a = (i - 1) * 4
  local count, size, price = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local debt = 0
  local state = redis.call('GET', KEYS[i])
  if state then
    local colon = string.find(state, ':', 1, true)
    debt = (tonumber(string.sub(state, 1, colon - 1)) - now) * count + tonumber(string.sub(state, colon + 1))
    if debt < 0 then debt = 0 end
  end
  local wanted = debt + price
  if wanted > size then
    if ARGV[a + 4] ~= '1' then refused = true end
    out[#out + 1] = 0
    out[#out + 1] = debt
    out[#out + 1] = math.ceil(debt / count)
    out[#out + 1] = math.ceil((wanted - size) / count)
  else
    puts[#puts + 1] = {KEYS[i], wanted, count}
    out[#out + 1] = 1
    out[#out + 1] = wanted
    out[#out + 1] = math.ceil(wanted / count)
    out[#out + 1] = 0
  end
end
if not refused then
  for _, put in ipairs(puts) do
    local whole = math.floor(put[2] / put[3])
    local state = string.format('%.0f:%.0f', now + whole, put[2] - whole * put[3])
    redis.call('SET', put[1], state, 'PX', string.format('%.0f', math.ceil((whole + 1) / 1000)))
  end
end
return out
"""

# KEYS: the set of gateways. ARGV: who says that it is there, for how many us it is believed. Gives how many there are.
HELLO: Final = """
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], 86400000)
return redis.call('ZCARD', KEYS[1])
"""

PREFIX: Final = b"passerelle:1:limits:"


class ScriptCall(PendingResult, Protocol):
    """A script that is under way. ``result`` is what it gave: a list, unless it failed or never answers."""

    @property
    def result(self) -> object:
        """What came."""


class ScriptRunner(Protocol):
    """Where the shared state is. ``gateways`` is how many share it, this one included."""

    gateways: int

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> ScriptCall | None:
        """Run a script; None when the store is gone."""

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> ScriptCall | None:
        """The same for what cannot do without an answer: it may wait a little for a store that is just coming."""


class RedisRate:
    """What the script is told of ``rate``, the whole one. ``scope`` names what is counted, ``prefix`` among what."""

    __slots__ = ("_prefix", "arguments", "rate", "ticks")

    def __init__(self, rate: Rate, scope: str, *, cost: int = 1, dry_run: bool = False, prefix: bytes = PREFIX) -> None:
        self.rate = rate
        period = rate.period // MICROSECOND
        common = gcd(rate.count, period)
        # One request costs this many ticks.
        self.ticks = period // common
        numbers = rate.count // common, rate.burst * self.ticks, cost * self.ticks, int(dry_run)
        self.arguments = [b"%d" % number for number in numbers]
        self._prefix = prefix + hashlib.blake2b(scope.encode(), digest_size=9).hexdigest().encode("ascii") + b":"

    def key(self, client: bytes) -> bytes:
        """Where the state of ``client`` is."""
        return self._prefix + client

    def decision(self, answer: Sequence[int]) -> RateDecision:
        """What the four numbers of the script say. There is no ``full`` in it: that is on another clock."""
        admitted, debt, reset, retry = answer
        left = (self.rate.burst * self.ticks - debt) // self.ticks
        return RateDecision(bool(admitted), 0, left, reset * MICROSECOND, retry * MICROSECOND)


def decisions(rates: Sequence[RedisRate], answer: object) -> list[RateDecision] | None:
    """What :data:`DECIDE` has said of each; None where there is no answer, or none that it gives."""
    if not isinstance(answer, list) or len(answer) != 4 * len(rates) or not all(type(each) is int for each in answer):
        return None
    return [each.decision(answer[4 * index : 4 * index + 4]) for index, each in enumerate(rates)]


class RedisLimit(RedisRate):
    """What the script is told of ``limit``."""

    __slots__ = ("limit",)

    def __init__(self, limit: RouteRateLimit, scope: str) -> None:
        super().__init__(limit.rate, scope, cost=limit.cost, dry_run=limit.dry_run)
        self.limit = limit


class RedisRateLimits:
    """The guard: as :class:`RateLimits`, but counted in ``store``; when that is gone, each gateway admits its part.

    What the store has decided is noted in the own tables too: a part of the rate has a bucket of as much time, so who
    has used up the shared limit has used up the local one when the store goes.
    ``gateways`` is the number of parts, or None for as many as were seen lately.
    """

    __slots__ = ("_clock", "_gateways", "_local", "_on_dry", "_parts", "_redis_limits", "_store", "_whole")

    def __init__(
        self,
        limits: Sequence[RedisLimit],
        store: ScriptRunner,
        on_dry: Callable[[], None],
        gateways: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._redis_limits = tuple(limits)
        self._store = store
        self._on_dry = on_dry
        self._gateways = gateways
        self._clock = clock
        self._whole = RateLimits([each.limit for each in limits], on_dry, clock)
        self._parts = 0
        self._local = self._whole

    def __call__(self, call: GuardedCall) -> PendingResult | None:
        """Ask the store, then count the request or raise :class:`passerelle.security.guard.Refused` (429)."""
        waited_for = call.pending
        if waited_for is None:
            keys = [each.key(each.limit.key_of(call)) for each in self._redis_limits]
            arguments = [argument for each in self._redis_limits for argument in each.arguments]
            pending_call = self._store.run(DECIDE, keys, arguments)
            if pending_call is None:
                self._limit_locally(call)
            else:
                call.pending = pending_call
            return pending_call
        call.pending = None
        said = decisions(self._redis_limits, cast(ScriptCall, waited_for).result)
        if said is None:
            self._limit_locally(call)
            return None
        decided = []
        now = self._clock()
        for each, decision in zip(self._redis_limits, said, strict=True):
            limit = each.limit
            key = limit.key_of(call)
            decided.append((limit, key, decision))
            count = limit.rate.count
            limit.table.put(key, (now + decision.reset) * count, now * count)
        self._whole.settle(call, decided)
        return None

    def _limit_locally(self, call: GuardedCall) -> None:
        parts = self._gateways or self._store.gateways
        if parts != self._parts:
            self._parts = parts
            shares = []
            for each in self._redis_limits:
                limit = each.limit
                rate = limit.rate.share(parts, limit.cost)
                shares.append(
                    RouteRateLimit(
                        limit.name, rate, limit.key_of, cost=limit.cost, dry_run=limit.dry_run, table=limit.table
                    )
                )
            self._local = RateLimits(shares, self._on_dry, self._clock)
        self._local(call)
