"""Rate limits shared by all gateways: :func:`passerelle.security.ratelimit.gcra.decide` as a script on Redis's clock.

The script counts microseconds, the unit of Redis's clock, and ticks of 1/count microseconds. Lua numbers are doubles,
so no value may exceed 2^53: the state is stored as two integers, microseconds and ticks, and the rate in lowest terms.
The arithmetic is exact up to ``burst * period / gcd(count, period)`` of 9e15 (a burst of a hundred thousand a day).
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

# Prologue of every script.
NOW: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
"""

# KEYS: one per limit. ARGV, four per limit: count, size of the bucket and cost of the request (both in ticks), whether
# it is a dry run. Returns four numbers per limit: whether the request is admitted, the debt in ticks, the debt in us,
# and the wait in us.
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
    if debt == math.huge then return redis.error_reply('ERR malformed state') end  -- each gateway counts alone
    if debt < 0 then debt = 0 end
    if debt > size then  -- the clock was set back: at most one full bucket, stored also on refusal
      debt = size
      local whole = math.floor(size / count)
      local full = string.format('%.0f:%.0f', now + whole, size - whole * count)
      redis.call('SET', KEYS[i], full, 'PX', string.format('%.0f', math.ceil((whole + 1) / 1000)))
    end
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

# KEYS: the set of gateways. ARGV: the id of this gateway, how long its presence is valid (us). Returns the number of
# gateways present.
HELLO: Final = """
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
redis.call('PEXPIRE', KEYS[1], 86400000)
return redis.call('ZCARD', KEYS[1])
"""

PREFIX: Final = b"passerelle:1:limits:"


class ScriptCall(PendingResult, Protocol):
    """Script call in flight. ``result`` is the reply: a list, unless the call failed or never completes."""

    @property
    def result(self) -> object:
        """The reply."""


class ScriptRunner(Protocol):
    """Store of the shared state. ``gateways`` is the number of gateways that share it, including this one."""

    gateways: int

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> ScriptCall | None:
        """Run a script; return None if the store is unavailable."""

    def run_or_queue(self, script: str, keys: Sequence[bytes], arguments: Sequence[bytes]) -> ScriptCall | None:
        """Run a script for a caller that needs the result; the call may wait briefly for the first connection."""


class RedisRate:
    """Arguments of the script for ``rate``, the shared rate. ``scope`` and ``prefix`` form the key."""

    __slots__ = ("_prefix", "arguments", "rate", "ticks")

    def __init__(self, rate: Rate, scope: str, *, cost: int = 1, dry_run: bool = False, prefix: bytes = PREFIX) -> None:
        self.rate = rate
        period = rate.period // MICROSECOND
        common = gcd(rate.count, period)
        # The cost of one request in ticks.
        self.ticks = period // common
        numbers = rate.count // common, rate.burst * self.ticks, cost * self.ticks, int(dry_run)
        self.arguments = [b"%d" % number for number in numbers]
        self._prefix = prefix + hashlib.blake2b(scope.encode(), digest_size=9).hexdigest().encode("ascii") + b":"

    def key(self, client: bytes) -> bytes:
        """Return the Redis key of the state of ``client``."""
        return self._prefix + client

    def decision(self, answer: Sequence[int]) -> RateDecision:
        """Convert the four numbers of the script's reply. ``full`` is not set: it would be on another clock."""
        admitted, debt, reset, retry = answer
        left = (self.rate.burst * self.ticks - debt) // self.ticks
        return RateDecision(bool(admitted), 0, left, reset * MICROSECOND, retry * MICROSECOND)


def decisions(rates: Sequence[RedisRate], answer: object) -> list[RateDecision] | None:
    """Convert the reply of :data:`DECIDE` for all limits; return None if there is no reply or it is malformed."""
    if not isinstance(answer, list) or len(answer) != 4 * len(rates) or not all(type(each) is int for each in answer):
        return None
    return [each.decision(answer[4 * index : 4 * index + 4]) for index, each in enumerate(rates)]


class RedisLimit(RedisRate):
    """Arguments of the script for ``limit``."""

    __slots__ = ("limit",)

    def __init__(self, limit: RouteRateLimit, scope: str) -> None:
        super().__init__(limit.rate, scope, cost=limit.cost, dry_run=limit.dry_run)
        self.limit = limit


class RedisRateLimits:
    """Guard like :class:`RateLimits` that counts in ``store``; without the store, each gateway admits its share.

    Decisions of the store are recorded in the local tables too. A share of the rate has a bucket that covers the same
    time, so a client that has used up the shared limit has also used up the local one if the store becomes unavailable.
    ``gateways`` is the number of shares, or None for the number of gateways present.
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
        """Query the store, then count the request or raise :class:`passerelle.security.guard.RequestRefused` (429)."""
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
        shared = decisions(self._redis_limits, cast(ScriptCall, waited_for).result)
        if shared is None:
            self._limit_locally(call)
            return None
        decided = []
        now = self._clock()
        for each, decision in zip(self._redis_limits, shared, strict=True):
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
