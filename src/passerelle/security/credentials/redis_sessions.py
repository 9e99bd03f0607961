"""Sessions that all gateways share, in Redis and on Redis's clock: what :mod:`.session_store` keeps in a file.

A session is a hash under the SHA-256 of its id, and expires by itself. A worker believes what it has looked up for a
second at most and then looks again; that counts as a use, so nothing else has to be written while a session lasts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.credentials.redis_lookup import (
    BELIEVED,
    UNREADABLE,
    look_up_pending,
    parse_words,
    store_unavailable,
    unreadable_reply,
)
from passerelle.security.credentials.session_store import Lifetimes, Session
from passerelle.security.credentials.sessions import (
    REMEMBERED_SESSIONS,
    KnownSession,
    OriginCheck,
    SessionCookies,
    SessionMethod,
    identity_of,
)
from passerelle.security.guard import GuardedCall
from passerelle.security.ratelimit.redis import ScriptCall, ScriptRunner

PREFIX: Final = b"passerelle:1:session:"
_MICROSECONDS: Final = 1_000_000

# Each begins with a line that sets ``now`` (us). What a session idles is known to the worker that has it in memory: it
# tells that when it looks again, so Redis keeps a session for that much longer than ``idle``.

# KEYS: the new session, and the one before it, if there was one. ARGV: user, roles (JSON), idle, absolute, and how much
# longer it is kept (us).
OPEN: Final = """
if KEYS[2] then redis.call('DEL', KEYS[2]) end
local at = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'roles', ARGV[2], 'created', at, 'used', at)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(math.min(ARGV[3] + ARGV[5], ARGV[4]) / 1000)))
return {1}
"""

# KEYS: the session. ARGV: idle, absolute, how much longer it is kept, and how long ago the asking worker has seen it
# used, -1 for never (us). Gives user, roles, and how long it lasts at most (us); nothing where there is none or it is
# over.
HOLD: Final = """
local found = redis.call('HMGET', KEYS[1], 'user', 'roles', 'created', 'used')
if not found[1] then return {} end
local used, ago = tonumber(found[4]), tonumber(ARGV[4])
if ago >= 0 and now - ago > used then used = now - ago end
local left = found[3] + ARGV[2] - now
if now >= used + ARGV[1] or left <= 0 then
  redis.call('DEL', KEYS[1])
  return {}
end
redis.call('HSET', KEYS[1], 'used', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(math.min(ARGV[1] + ARGV[3], left) / 1000)))
return {found[1], found[2], left}
"""

# KEYS: the session.
END: Final = "return {redis.call('DEL', KEYS[1])}"


def key_of(digest: bytes) -> bytes:
    """Where the session with this digest is."""
    return PREFIX + digest.hex().encode("ascii")


class RedisSessions:
    """The scripts, as calls. Each gives None when ``store`` is gone."""

    __slots__ = ("_store", "_times", "believed")

    def __init__(self, store: ScriptRunner, lifetimes: Lifetimes) -> None:
        self._store = store
        # Within it, a session that was just used cannot end by not being used.
        self.believed = min(BELIEVED, lifetimes.idle / 4)
        self._times = [_text(seconds) for seconds in (lifetimes.idle, lifetimes.absolute, self.believed)]

    def open(self, old: bytes | None, digest: bytes, user: str, roles: tuple[str, ...]) -> ScriptCall | None:
        """Keep a new session, and end the one that the same client had before, both at once."""
        keys = [key_of(digest), *([] if old is None else [key_of(old)])]
        return self._store.run_or_queue(OPEN, keys, [user.encode(), json.dumps(roles).encode(), *self._times])

    def touch(self, digest: bytes, ago: float | None) -> ScriptCall | None:
        """Find a session, and note that it is used; it was seen used ``ago`` seconds before."""
        return self._store.run_or_queue(HOLD, [key_of(digest)], [*self._times, b"-1" if ago is None else _text(ago)])

    def end(self, digest: bytes) -> ScriptCall | None:
        """End a session. Once more changes nothing."""
        return self._store.run_or_queue(END, [key_of(digest)], [])


def _text(seconds: float) -> bytes:
    return b"%d" % (seconds * _MICROSECONDS)


@dataclass(slots=True)
class _CachedSession(KnownSession):
    used: float
    until: float


class RedisSessionMethod(SessionMethod):
    """Sessions by their cookie, from ``sessions``. ``clock`` gives seconds that never go back."""

    __slots__ = ("_clock", "_known", "_sessions")

    def __init__(
        self,
        sessions: RedisSessions,
        cookies: SessionCookies,
        origin: OriginCheck,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(cookies, origin)
        self._sessions = sessions
        self._clock = clock
        self._known: BoundedMemo[_CachedSession] = BoundedMemo()

    def forget(self, digest: bytes) -> None:
        """The session is about to be ended: nobody is let in by memory."""
        self._known.pop(digest, None)

    def _find_session(self, call: GuardedCall, digest: bytes) -> KnownSession | ScriptCall:
        known = self._known.touch(digest)
        now = self._clock()
        if known is not None and now < known.until:
            return known
        ago = None if known is None else now - known.used
        found = look_up_pending(call, digest, lambda: self._sessions.touch(digest, ago))
        if found is None:
            raise store_unavailable("sessions")
        if not isinstance(found, list):
            return found
        if not found:
            self.forget(digest)
            raise CredentialRejected("unknown session, or one that is over")
        try:
            user, roles, left = cast("tuple[bytes, bytes, int]", found)
            session = Session(user.decode(), parse_words(roles), 0.0, 0.0)
            identity = identity_of(session)
            until = now + min(self._sessions.believed, left / _MICROSECONDS)
        except UNREADABLE:
            self.forget(digest)
            raise unreadable_reply("sessions") from None
        credential = _CachedSession(session, identity, now, until)
        self._known.keep(digest, credential, REMEMBERED_SESSIONS)
        return credential

    def _record_use(self, digest: bytes, credential: KnownSession) -> None:
        cast(_CachedSession, credential).used = self._clock()
