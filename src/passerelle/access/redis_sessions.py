"""Sessions that all gateways share, in a running worker: every step is one script in Redis, and none waits long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passerelle.access.sessions import Done, Sessions, digest_of_own
from passerelle.config.models.sessions import Sessions as Settings
from passerelle.security.credentials.redis_lookup import gone
from passerelle.security.credentials.redis_sessions import SharedSessionMethod, SharedSessions
from passerelle.security.credentials.session_store import new_id
from passerelle.security.ratelimit.redis import Call

if TYPE_CHECKING:
    from passerelle.access.redis_client import RedisLink


class RedisSessions(Sessions):
    """Sessions in the Redis of ``link``."""

    def __init__(self, settings: Settings, link: RedisLink) -> None:
        super().__init__(settings)
        self.link = link
        self._sessions = SharedSessions(link, self.lifetimes)
        self.method = SharedSessionMethod(self._sessions, self.cookies, self.origin)

    def check(self) -> None:
        """:class:`Failure` while Redis is gone: then nobody is asked about passwords either, since the answer would
        be told apart."""
        if not self.link.usable:
            raise gone("sessions")

    def open(self, user: str, roles: tuple[str, ...], old: bytes | None, done: Done) -> bytes:
        """A new session in the place of the one with the id ``old``."""
        identity = new_id()
        ended = None if old is None else digest_of_own(old)
        self._run(self._sessions.open(ended, digest_of_own(identity), user, roles), self._forgetting(ended, done))
        return identity

    def revoke(self, identity: bytes, done: Done) -> None:
        """End a session for all gateways."""
        digest = digest_of_own(identity)
        self._run(self._sessions.end(digest), self._forgetting(digest, done))

    def _run(self, call: Call | None, done: Done) -> None:
        if call is None:
            raise gone("sessions")
        call.then(lambda: done(None if isinstance(call.result, list) else gone("sessions")))
