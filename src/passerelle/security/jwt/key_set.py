"""Sources of verification keys: fixed keys, and a JWK set that its issuer rotates (RFC 7517 §5).

The set is fetched again when it is old, and when a token names a key that is not in the set or fails to verify under
the key that it names, so a rotation takes effect at once. Concurrent requests wait for one fetch. No fetch starts
within ``cooldown`` of the end of the previous one, so clients cannot make the gateway overload the issuer. A failed
fetch changes nothing: the last valid set remains in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from passerelle.security.guard import PendingResult
from passerelle.security.jwt.jose import VerificationKey, keys_of_set

FetchCallback = Callable[[bytes | Exception], None]


class KeySource(Protocol):
    """Source of verification keys."""

    loaded: bool
    """Whether a set of keys was ever available."""
    version: int
    """Incremented when a key is removed or changed: tokens verified before must be verified again."""

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """Return the keys that may have signed a token: those with its ``kid``, or all keys if the token has none."""

    def refetch(self, now: float) -> PendingResult | None:
        """Return a pending fetch if no key fitted, or None if a fetch would not help now."""


class FixedKeys:
    """Keys from the configuration. The ``kid`` of a token is ignored."""

    loaded = True
    version = 0

    def __init__(self, *keys: VerificationKey) -> None:
        self._keys = keys

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """Return the keys for ``algorithm``."""
        return [key for key in self._keys if algorithm in key.algorithms]

    def refetch(self, now: float) -> PendingResult | None:
        """Return None: fixed keys are never fetched."""
        return None


class KeySet:
    """Key set that is fetched.

    ``fetch`` starts a request and calls its callback later, exactly once, within a bounded time. ``failed`` is called
    with the reason of a failed fetch. Times are in seconds; ``clock`` is monotonic.
    """

    def __init__(
        self,
        fetch: Callable[[FetchCallback], None],
        clock: Callable[[], float],
        *,
        cooldown: float,
        refresh: float,
        failed: Callable[[str], None],
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._cooldown = cooldown
        self._refresh = refresh
        self._failed = failed
        self._keys: list[VerificationKey] = []
        self._fetched = 0.0
        self._tried: float | None = None
        self._waiting: list[Callable[[], None]] = []
        self.fetching = False
        self.loaded = False
        self.version = 0

    def start(self) -> None:
        """Start a fetch, unless one is in progress."""
        if not self.fetching:
            self.fetching = True
            self._fetch(self._done)

    def keep_fresh(self) -> None:
        """Refresh an old set in the background. Call this about once a second."""
        now = self._clock()
        if self.loaded and now - self._fetched >= self._refresh and self._may_fetch(now):
            self.start()

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """Return the keys that fit."""
        keys = [key for key in self._keys if algorithm in key.algorithms]
        return keys if kid is None else [key for key in keys if key.kid == kid]

    def refetch(self, now: float) -> PendingResult | None:
        """Return this set if a fetch is in progress or may start now."""
        if not self.fetching:
            if not self._may_fetch(now):
                return None
            self.start()
        return self

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the fetch has ended."""
        self._waiting.append(callback)

    def _may_fetch(self, now: float) -> bool:
        return self._tried is None or now - self._tried >= self._cooldown

    def _done(self, result: bytes | Exception) -> None:
        now = self._tried = self._clock()
        self.fetching = False
        try:
            if isinstance(result, Exception):
                raise ValueError(f"{type(result).__name__}: {result}")
            keys = keys_of_set(result)
        except ValueError as error:
            self._failed(str(error))
        else:
            old = {(key.kid, key.thumbprint) for key in self._keys}
            if not old <= {(key.kid, key.thumbprint) for key in keys}:
                self.version += 1
            self._keys = keys
            self._fetched = now
            self.loaded = True
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
