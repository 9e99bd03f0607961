"""Sessions in Redis, shared by all gateways: each step is one script, whose duration is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passerelle.access.sessions import Claimed, Done, SessionProvider, SessionSettings, digest_of_valid
from passerelle.security.credentials.redis_lookup import UNREADABLE, store_unavailable, unreadable_reply
from passerelle.security.credentials.redis_sessions import RedisSessionMethod, RedisSessions
from passerelle.security.credentials.session_store import Grant, new_id
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
        # After the links, on the same connection, so that the links name every session.
        self._run(self._sessions.open(ended, digest_of_valid(identity), user, roles), self._forget_around(ended, done))
        return identity

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session in all gateways; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._run(self._sessions.end(digest), self._forget_around(digest, done))

    def end_linked(self, link: bytes, done: Done) -> None:
        """End all sessions with ``link``, in all gateways; ``done`` is called when that is written."""
        self._run(self._sessions.end_linked(link), done)

    def keep_grant(self, identity: bytes, grant: Grant, done: Done) -> None:
        """Keep what a session has of its provider; ``done`` is called when that is written."""
        self._run(self._sessions.grant(digest_of_valid(identity), grant), done)

    def claim_grant(self, identity: bytes, now: float, until: float, done: Claimed) -> None:
        """Pass the grant of a session to ``done``, in all gateways to one alone while it is due."""
        call = self._sessions.claim(digest_of_valid(identity), now, until)
        if call is None:
            raise store_unavailable("sessions")

        def ended() -> None:
            result = call.result
            if not isinstance(result, list):
                done(store_unavailable("sessions"))
                return
            try:
                done(Grant(bytes(result[0]), int(result[1]) / 1_000_000) if result else None)
            except UNREADABLE:
                done(unreadable_reply("sessions"))

        call.add_done_callback(ended)

    def renew(self, identity: bytes, roles: tuple[str, ...], grant: Grant, done: Done) -> None:
        """Replace roles and grant of a session in all gateways; ``done`` is called when that is written."""
        digest = digest_of_valid(identity)
        self._run(self._sessions.grant(digest, grant, roles), self._forget_around(digest, done))

    def _run(self, call: ScriptCall | None, done: Done) -> None:
        if call is None:
            raise store_unavailable("sessions")
        call.add_done_callback(lambda: done(None if isinstance(call.result, list) else store_unavailable("sessions")))
