"""Sessions shared by all gateways, in Redis and on Redis's clock: the data that :mod:`.session_store` keeps in a file.

A session is a hash under the SHA-256 of its id, with an expiry. A worker caches a lookup for at most a second; the next
lookup counts as a use, so nothing else has to be written during a session.
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
from passerelle.security.credentials.session_store import Grant, Lifetimes, Session
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
LINK_PREFIX: Final = b"passerelle:1:session-link:"
_MICROSECONDS: Final = 1_000_000

# The prologue of each script sets ``now`` (us). The worker that caches a session knows its latest use and passes it
# with the next lookup. Redis therefore keeps a session for the duration of the cache longer than ``idle``.

# KEYS: the new session, and the previous one, if any. ARGV: user, roles (JSON), idle, absolute, and how much longer the
# session is kept (us).
OPEN: Final = """
if KEYS[2] then redis.call('DEL', KEYS[2]) end
local at = string.format('%.0f', now)
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'roles', ARGV[2], 'created', at, 'used', at)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(math.min(ARGV[3] + ARGV[5], ARGV[4]) / 1000)))
return {1}
"""

# KEYS: the session. ARGV: idle, absolute, how much longer the session is kept, and how long ago the calling worker saw
# it used, -1 for never (us). Returns user, roles and the remaining lifetime (us), or nothing if there is no valid
# session.
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

# KEYS: links. ARGV: the Redis key of a session, and how long a session lasts at most (us).
LINK: Final = """
for _, link in ipairs(KEYS) do
  redis.call('SADD', link, ARGV[1])
  redis.call('PEXPIRE', link, string.format('%.0f', math.ceil(ARGV[2] / 1000)))
end
return {1}
"""

# KEYS: a link.
END_LINKED: Final = """
local session = redis.call('SPOP', KEYS[1])
while session do
  redis.call('DEL', session)
  session = redis.call('SPOP', KEYS[1])
end
return {1}
"""

# KEYS: the session. ARGV: the sealed grant, when it is due (us since the epoch), and the roles (JSON) or nothing.
GRANT: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
redis.call('HSET', KEYS[1], 'sealed', ARGV[1], 'due', ARGV[2])
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'roles', ARGV[3]) end
return {1}
"""

# KEYS: the session. ARGV: now, and when a grant that is due now is due again (us since the epoch, on the clock of the
# gateways, as in GRANT). Returns the sealed grant and when it was due, or nothing without one.
CLAIM: Final = """
local found = redis.call('HMGET', KEYS[1], 'sealed', 'due')
if not found[1] then return {} end
if tonumber(found[2]) <= tonumber(ARGV[1]) then redis.call('HSET', KEYS[1], 'due', ARGV[2]) end
return {found[1], found[2]}
"""

# KEYS: the session.
END: Final = "return {redis.call('DEL', KEYS[1])}"


def key_of(digest: bytes) -> bytes:
    """Return the Redis key of the session with this digest."""
    return PREFIX + digest.hex().encode("ascii")


class RedisSessions:
    """Calls of the scripts. Each returns None if ``store`` is unavailable."""

    __slots__ = ("_store", "_times", "believed")

    def __init__(self, store: ScriptRunner, lifetimes: Lifetimes) -> None:
        self._store = store
        # Short enough that a session that was just used cannot expire while it is cached.
        self.believed = min(BELIEVED, lifetimes.idle / 4)
        self._times = [_text(seconds) for seconds in (lifetimes.idle, lifetimes.absolute, self.believed)]

    def open(self, old: bytes | None, digest: bytes, user: str, roles: tuple[str, ...]) -> ScriptCall | None:
        """Store a new session and end the client's previous one, atomically."""
        keys = [key_of(digest), *([] if old is None else [key_of(old)])]
        return self._store.run_or_queue(OPEN, keys, [user.encode(), json.dumps(roles).encode(), *self._times])

    def touch(self, digest: bytes, ago: float | None) -> ScriptCall | None:
        """Find a session and record a use; the caller last saw it used ``ago`` seconds before."""
        return self._store.run_or_queue(HOLD, [key_of(digest)], [*self._times, b"-1" if ago is None else _text(ago)])

    def link(self, links: tuple[bytes, ...], digest: bytes) -> ScriptCall | None:
        """Let :meth:`end_linked` find a session by each of ``links``."""
        keys = [LINK_PREFIX + link.hex().encode("ascii") for link in links]
        return self._store.run_or_queue(LINK, keys, [key_of(digest), self._times[1]])

    def grant(self, digest: bytes, grant: Grant, roles: tuple[str, ...] | None = None) -> ScriptCall | None:
        """Keep the grant of a session, and its roles if they are given."""
        words = b"" if roles is None else json.dumps(roles).encode()
        return self._store.run_or_queue(GRANT, [key_of(digest)], [grant.sealed, _text(grant.due), words])

    def claim(self, digest: bytes, now: float, until: float) -> ScriptCall | None:
        """Return the grant of a session; if it is due, it is due again at ``until``."""
        return self._store.run_or_queue(CLAIM, [key_of(digest)], [_text(now), _text(until)])

    def end_linked(self, link: bytes) -> ScriptCall | None:
        """End all sessions with ``link``."""
        return self._store.run_or_queue(END_LINKED, [LINK_PREFIX + link.hex().encode("ascii")], [])

    def end(self, digest: bytes) -> ScriptCall | None:
        """End a session; ending it again has no effect."""
        return self._store.run_or_queue(END, [key_of(digest)], [])


def _text(seconds: float) -> bytes:
    return b"%d" % (seconds * _MICROSECONDS)


@dataclass(slots=True)
class _CachedSession(KnownSession):
    used: float
    until: float


class RedisSessionMethod(SessionMethod):
    """Authentication by session cookies, with ``sessions`` as store. ``clock`` gives seconds and is monotonic."""

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
        """Remove a session that is about to end from the cache, so that it is not accepted from memory."""
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
            raise CredentialRejected("unknown or expired session")
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
