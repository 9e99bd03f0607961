"""Sessions in Redis, shared by all gateways: each step is one script, whose duration is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passerelle.access.sessions import Done, SessionProvider, SessionSettings, digest_of_valid
from passerelle.security.credentials.redis_lookup import store_unavailable
from passerelle.security.credentials.redis_sessions import RedisSessionMethod, RedisSessions
from passerelle.security.credentials.session_store import new_id
from passerelle.security.ratelimit.redis import ScriptCall

if TYPE_CHECKING:
    from passerelle.access.redis_client import RedisClient


class RedisSessionProvider(SessionProvider):
    """Sessions in the Redis of ``redis``."""

    def __init__(self, settings: SessionSettings, redis: RedisClient) -> None:
        super().__init__(settings)
        self.redis = redis
        self._sessions = RedisSessions(redis, self.lifetimes)
        self.method = RedisSessionMethod(self._sessions, self.cookies, self.origin)

    def check(self) -> None:
        """Check that Redis is available; without it no password is verified, since the responses would differ.

        :raises Failure: if Redis is unavailable.
        """
        if not self.redis.usable:
            raise store_unavailable("sessions")

    def open(
        self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done, links: tuple[bytes, ...] = ()
    ) -> bytes:
        """Open a session that replaces the session ``old``. Return its id, which is valid once ``done`` is called."""
        identity = new_id()
        ended = None if old is None else digest_of_valid(old)
        if links and self._sessions.link(links, digest_of_valid(identity)) is None:
            raise store_unavailable("sessions")
        # After the links, on the same connection: there is no session that they do not name.
        self._run(self._sessions.open(ended, digest_of_valid(identity), user, roles), self._forget_around(ended, done))
        return identity

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session in all gateways; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._run(self._sessions.end(digest), self._forget_around(digest, done))

    def end_linked(self, link: bytes, done: Done) -> None:
        """End all sessions with ``link``, in all gateways; ``done`` is called when that is written."""
        self._run(self._sessions.end_linked(link), done)

    def _run(self, call: ScriptCall | None, done: Done) -> None:
        if call is None:
            raise store_unavailable("sessions")
        call.add_done_callback(lambda: done(None if isinstance(call.result, list) else store_unavailable("sessions")))
