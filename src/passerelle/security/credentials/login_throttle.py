"""Limits on password guessing, by user name and by address (GCRA, see :mod:`passerelle.security.ratelimit.gcra`).

An attempt is counted before its password is verified, so that concurrent attempts count too. It is given back if the
password was correct or could not be verified. A successful login therefore does not reset the count of other clients'
guesses.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from passerelle.security.ratelimit.gcra import SECOND, BucketTable, Rate, decide


class AttemptLimit:
    """Attempts of one kind: ``rate`` limits wrong attempts and determines how soon one of them is forgotten."""

    __slots__ = ("rate", "table")

    def __init__(self, rate: Rate, table: BucketTable) -> None:
        self.rate = rate
        self.table = table

    def take(self, key: bytes, now: int) -> int:
        """Count an attempt; return 0, or the nanoseconds until an attempt is possible (it is not counted then)."""
        decision = decide(self.rate, self.table.get(key), now)
        if decision.admitted:
            self.table.put(key, decision.full, now * self.rate.count)
        return decision.retry

    def restore(self, key: bytes, now: int) -> None:
        """Give back an attempt that was not wrong."""
        ticks = now * self.rate.count
        full = self.table.get(key) - self.rate.period
        if full > 0:
            self.table.put(key, full, ticks)


class LoginThrottle:
    """Attempts by user name (``by_name``) and by address. ``clock`` gives nanoseconds and is monotonic."""

    __slots__ = ("_by_address", "_by_name", "_clock")

    def __init__(
        self, by_name: AttemptLimit, by_address: AttemptLimit, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._by_name = by_name
        self._by_address = by_address
        self._clock = clock

    def take_async(self, name: str, address: bytes, callback: Callable[[int], None]) -> None:
        """Count an attempt like :meth:`take`; pass the result to ``callback``."""
        callback(self.take(name, address))

    def take(self, name: str, address: bytes) -> int:
        """Count an attempt; return 0, or the seconds to wait, rounded up, after too many attempts."""
        now = self._clock()
        wait = self._by_address.take(address, now)
        if not wait:
            wait = self._by_name.take(key_of(name), now)
            if wait:
                self._by_address.restore(address, now)
        return -(-wait // SECOND)

    def restore(self, name: str, address: bytes) -> None:
        """Give back an attempt that was not wrong."""
        now = self._clock()
        self._by_name.restore(key_of(name), now)
        self._by_address.restore(address, now)


def key_of(name: str) -> bytes:
    """Return one key for all spellings that a service may treat as the same name, bounded in length."""
    return (
        hashlib.blake2b(name.strip().casefold().encode("utf-8", "surrogatepass"), digest_size=16).hexdigest().encode()
    )
