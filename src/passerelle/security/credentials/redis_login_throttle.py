"""Login attempts counted by all gateways together: :mod:`.login_throttle`, with the rate limit script in Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from passerelle.security.credentials.login_throttle import AttemptLimit, LoginThrottle, key_of
from passerelle.security.ratelimit.gcra import SECOND
from passerelle.security.ratelimit.redis import DECIDE, RedisRate, ScriptRunner, decisions

PREFIX: Final = b"passerelle:1:logins:"

# The prologue sets ``now`` (us). KEYS: the counted keys. ARGV, two per key: count, and the cost to give back (in
# ticks).
GIVE_BACK: Final = """
for i = 1, #KEYS do
  local count, price = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local state = redis.call('GET', KEYS[i])
  if state then
    local colon = string.find(state, ':', 1, true)
    local debt = (tonumber(string.sub(state, 1, colon - 1)) - now) * count + tonumber(string.sub(state, colon + 1))
    debt = debt - price
    if debt > 0 then
      local whole = math.floor(debt / count)
      local left = string.format('%.0f:%.0f', now + whole, debt - whole * count)
      redis.call('SET', KEYS[i], left, 'PX', string.format('%.0f', math.ceil((whole + 1) / 1000)))
    else
      redis.call('DEL', KEYS[i])
    end
  end
end
return {}
"""


class RedisLoginThrottle:
    """Like :class:`.login_throttle.LoginThrottle`, in ``store``; without the store, each gateway allows its share.

    ``by_name`` and ``by_address`` are the shared rates, one attempt per period, with this worker's own tables, in which
    the store's decisions are recorded. ``scope`` names the login; ``gateways`` is the number of shares, or None for the
    number of gateways present.
    """

    __slots__ = ("_clock", "_gateways", "_rates", "_shared", "_store", "_tables")

    def __init__(
        self,
        by_name: AttemptLimit,
        by_address: AttemptLimit,
        scope: str,
        store: ScriptRunner,
        gateways: int | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._store = store
        self._gateways = gateways
        self._clock = clock
        # The address first, as in `LoginThrottle`.
        self._rates = [by_address.rate, by_name.rate]
        self._tables = [by_address.table, by_name.table]
        kinds = zip(self._rates, ("address", "user name"), strict=True)
        self._shared = [RedisRate(rate, f"{scope}\0{kind}", prefix=PREFIX) for rate, kind in kinds]

    def take_async(self, name: str, address: bytes, callback: Callable[[int], None]) -> None:
        """Count an attempt; pass 0 to ``callback``, or the seconds to wait after too many attempts."""
        arguments = [argument for each in self._shared for argument in each.arguments]
        call = self._store.run_or_queue(DECIDE, self._keys(name, address), arguments)
        if call is None:
            self._local_throttle().take_async(name, address, callback)
            return

        def ended() -> None:
            decided = decisions(self._shared, call.result)
            if decided is None:
                self._local_throttle().take_async(name, address, callback)
                return
            refused = [each for each in decided if not each.admitted]
            now = self._clock()
            clients = address, key_of(name)
            for rate, table, key, decision in zip(self._rates, self._tables, clients, decided, strict=True):
                # If another limit refuses, the attempt is not counted, but the reply of an admitting limit includes it.
                debt = decision.reset - (rate.period if refused and decision.admitted else 0)
                table.put(key, now + debt, now)
            callback(-(-refused[0].retry // SECOND) if refused else 0)

        call.add_done_callback(ended)

    def restore(self, name: str, address: bytes) -> None:
        """Give back an attempt that was not wrong."""
        arguments = [argument for each in self._shared for argument in (each.arguments[0], each.arguments[2])]
        call = self._store.run(GIVE_BACK, self._keys(name, address), arguments)
        (self._local_throttle() if call is None else self._part(1)).restore(name, address)

    def _keys(self, name: str, address: bytes) -> list[bytes]:
        by_address, by_name = self._shared
        return [by_address.key(address), by_name.key(key_of(name))]

    def _local_throttle(self) -> LoginThrottle:
        return self._part(self._gateways or self._store.gateways)

    def _part(self, parts: int) -> LoginThrottle:
        by_address, by_name = (
            AttemptLimit(rate.share(parts), table) for rate, table in zip(self._rates, self._tables, strict=True)
        )
        return LoginThrottle(by_name, by_address, self._clock)
