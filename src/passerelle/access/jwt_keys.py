"""The keys of JSON web tokens: read from the configuration, or fetched as a key set in a thread."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from passerelle.observability.events import STORE
from passerelle.security.jwt.jose import key_of_pem, key_of_secret
from passerelle.security.jwt.key_set import FetchCallback, FixedKeys, KeySet
from passerelle.security.jwt.verifier import JwtMethod, JwtRules

# The longest duration of a fetch (seconds), and the largest key set (bytes).
FETCH_SECONDS = 5.0
FETCH_BYTES = 1024 * 1024

# How often the age of the key set is checked (seconds).
WATCH = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """Which tokens a worker accepts, and where their keys come from: exactly one of ``secret``, ``key`` and ``jwks``.

    ``refresh`` and ``cooldown`` are seconds between fetches of the key set (see :class:`.KeySet`).
    """

    rules: JwtRules
    secret: str | None = field(repr=False)
    key: Path | None
    jwks: str | Path | None
    refresh: float
    cooldown: float


class JwtProvider:
    """The method that verifies the tokens of ``settings``, and its keys.

    :raises OSError: if the file of a key cannot be read.
    :raises ValueError: if a key cannot be used.
    """

    def __init__(self, settings: JwtSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._set: KeySet | None = None
        source: FixedKeys | KeySet
        if settings.jwks is not None:
            source = self._set = _key_set(settings, settings.jwks, loop)
        elif settings.key is not None:
            source = FixedKeys(key_of_pem(settings.key.read_bytes()))
        else:
            source = FixedKeys(key_of_secret((settings.secret or "").encode(), settings.rules.algorithms))
        self.method = JwtMethod(settings.rules, source)

    @property
    def fetches(self) -> bool:
        """Whether the keys are fetched as a set."""
        return self._set is not None

    def start(self) -> None:
        """Fetch the key set, if there is one; requests wait until the first fetch has ended."""
        if self._set is not None:
            self._set.start()
            self._watch(self._set)

    def stop(self) -> None:
        """Stop fetching."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self, keys: KeySet) -> None:
        keys.keep_fresh()
        self._timer = self._loop.call_later(WATCH, self._watch, keys)


def _key_set(settings: JwtSettings, place: str | Path, loop: asyncio.AbstractEventLoop) -> KeySet:
    def fetch(done: FetchCallback) -> None:
        def ended(future: asyncio.Future[bytes]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            done(future.result() if error is None else error if isinstance(error, Exception) else OSError(str(error)))

        loop.run_in_executor(None, read_key_set, place).add_done_callback(ended)

    def failed(reason: str) -> None:
        _log.warning("jwt: the key set could not be fetched from %s: %s", place, reason, extra=STORE)

    return KeySet(fetch, time.monotonic, cooldown=settings.cooldown, refresh=settings.refresh, failed=failed)


def read_key_set(place: str | Path) -> bytes:
    """Return the bytes of a key set. Takes at most :data:`FETCH_SECONDS`, and follows no redirects.

    :raises OSError: if the key set cannot be read in this time.
    :raises ValueError: if it is larger than :data:`FETCH_BYTES`.
    """
    if isinstance(place, Path):
        return place.read_bytes()
    from passerelle.access.web_request import fetch

    headers = {"Accept": "application/jwk-set+json, application/json"}
    status, body = fetch(place, headers, seconds=FETCH_SECONDS, most=FETCH_BYTES)
    if status != 200:
        raise OSError(f"status {status}")
    return body
