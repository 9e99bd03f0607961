"""Where verification keys come from: fixed ones, and a set that its issuer changes (RFC 7517 §5, B25).

The set is fetched again when it is old, and when a token names a key that is not in it or fails under the one that it
names: a rotation is seen at once. All who need that wait for one fetch, and there is none within ``cooldown`` of the
last one's end, so nobody can make this gateway hammer the issuer. A fetch that fails changes nothing: the last good set
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from passerelle.security.guard import PendingResult
from passerelle.security.jwt.jose import VerificationKey, keys_of_set

FetchCallback = Callable[[bytes | Exception], None]


class KeySource(Protocol):
    """Something that has keys."""

    loaded: bool
    """Whether there was ever a set of keys."""
    version: int
    """Grows when a key is gone or changed: what was verified before must be verified again."""

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The keys that a token may be signed with: those with its ``kid``, or, where it has none, all."""

    def refetch(self, now: float) -> PendingResult | None:
        """A fetch to wait for because no key fitted, or None where that cannot help (now)."""


class FixedKeys:
    """Keys of the configuration. A ``kid`` in a token is not looked at: there is nothing to choose."""

    loaded = True
    version = 0

    def __init__(self, *keys: VerificationKey) -> None:
        self._keys = keys

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The keys for ``algorithm``."""
        return [key for key in self._keys if algorithm in key.algorithms]

    def refetch(self, now: float) -> PendingResult | None:
        """They stay what they are."""
        return None


class KeySet:
    """A set that is fetched. ``fetch`` starts to get its bytes and calls what it is given, later, exactly once, within
    a bounded time. ``failed`` hears of why one did not work. Times in seconds; ``clock`` never goes back."""

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
        """Fetch now, unless that is under way."""
        if not self.fetching:
            self.fetching = True
            self._fetch(self._done)

    def keep_fresh(self) -> None:
        """Fetch a set that is old, while nobody waits for it. Call it every second or so."""
        now = self._clock()
        if self.loaded and now - self._fetched >= self._refresh and self._may_fetch(now):
            self.start()

    def candidates(self, kid: str | None, algorithm: str) -> Sequence[VerificationKey]:
        """The keys that fit."""
        keys = [key for key in self._keys if algorithm in key.algorithms]
        return keys if kid is None else [key for key in keys if key.kid == kid]

    def refetch(self, now: float) -> PendingResult | None:
        """This set, when it is being fetched or may be."""
        if not self.fetching:
            if not self._may_fetch(now):
                return None
            self.start()
        return self

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call when the fetch has ended."""
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
