"""How often a password may be guessed: by user name and by address (GCRA, see
:mod:`passerelle.security.ratelimit.gcra`).

An attempt is counted before the password is looked at, so that attempts at the same moment count too, and given back
when it was right, or when nobody could tell. So a login that succeeds wipes out nothing of what others have guessed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from passerelle.security.ratelimit.gcra import SECOND, BucketTable, Rate, decide


class AttemptLimit:
    """Attempts of one kind: ``rate`` says how many wrong ones, and how soon one of them is forgotten."""

    __slots__ = ("rate", "table")

    def __init__(self, rate: Rate, table: BucketTable) -> None:
        self.rate = rate
        self.table = table

    def take(self, key: bytes, now: int) -> int:
        """Count one; nanoseconds until one may be made, 0 where it may (only then is it counted)."""
        decision = decide(self.rate, self.table.get(key), now)
        if decision.admitted:
            self.table.put(key, decision.full, now * self.rate.count)
        return decision.retry

    def restore(self, key: bytes, now: int) -> None:
        """It was not a wrong one."""
        ticks = now * self.rate.count
        full = self.table.get(key) - self.rate.period
        if full > 0:
            self.table.put(key, full, ticks)


class LoginThrottle:
    """Attempts by user name (``by_name``) and by address. ``clock`` gives nanoseconds that never go back."""

    __slots__ = ("_by_address", "_by_name", "_clock")

    def __init__(
        self, by_name: AttemptLimit, by_address: AttemptLimit, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._by_name = by_name
        self._by_address = by_address
        self._clock = clock

    def take_async(self, name: str, address: bytes, callback: Callable[[int], None]) -> None:
        """As :meth:`take`, with what it gives told to ``callback``."""
        callback(self.take(name, address))

    def take(self, name: str, address: bytes) -> int:
        """Count an attempt; seconds to wait, rounded up, where there were too many, else 0."""
        now = self._clock()
        wait = self._by_address.take(address, now)
        if not wait:
            wait = self._by_name.take(key_of(name), now)
            if wait:
                self._by_address.restore(address, now)
        return -(-wait // SECOND)

    def restore(self, name: str, address: bytes) -> None:
        """The attempt was not a wrong one."""
        now = self._clock()
        self._by_name.restore(key_of(name), now)
        self._by_address.restore(address, now)


def key_of(name: str) -> bytes:
    """The same for every spelling that a service may take for the same name; memory is bounded in bytes too."""
    return (
        hashlib.blake2b(name.strip().casefold().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()
    )
