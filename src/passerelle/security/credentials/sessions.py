"""Sessions as credentials: the cookie, who is behind it, and whether a page of ours has sent the request.

A browser sends a cookie with every request to its host, whoever made it send that (cross-site request forgery). So
a method that changes something needs more than the cookie: where the browser tells who asks (``Sec-Fetch-Site``,
``Origin``), it must be a page of the same origin, and, unless that is switched off, the request must bring the token
that only such a page can read.
"""

from __future__ import annotations

import base64
import hmac
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import cast

from passerelle.errors import Failure, Kind
from passerelle.http.messages import SAFE_METHODS
from passerelle.security.cookies import set_line, values
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.credentials.session_store import Lifetimes, Session, SessionStore, digest_of
from passerelle.security.guard import GuardedCall, PendingResult, RequestRefused
from passerelle.security.identity import Identity

# Sessions that a worker remembers, about 1 KB each. Beyond, the one that was not used for the longest time is looked
# up again when it comes.
REMEMBERED_SESSIONS = 10_000

TOKEN_FIELD = b"x-csrf-token"
ROLES = b"X-Consumer-Roles"


def csrf_token(identity: bytes) -> bytes:
    """The token of a session: derived from its id, so that it need not be kept, and does not give the id away."""
    mac = hmac.digest(identity, b"passerelle csrf token", "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=")


@dataclass(frozen=True, slots=True)
class SessionCookies:
    """The two cookies of a session: ``name`` holds its id, ``token`` its CSRF token, which scripts can read.

    ``secure`` ones are sent over TLS only, and their prefix keeps any other host, or page of plain HTTP, from setting
    them (RFC 6265bis §4.1.3.2).
    """

    name: bytes
    token: bytes
    secure: bool

    @classmethod
    def named(cls, name: str, *, secure: bool) -> SessionCookies:
        """The cookies of sessions whose configured name is ``name``."""
        full = f"__Host-{name}" if secure else name
        return cls(full.encode("ascii"), f"{full}-csrf".encode("ascii"), secure)

    def set_lines(self, identity: bytes, seconds: int) -> bytes:
        """The lines that give a client its session for ``seconds`` at most."""
        own = set_line(self.name, identity, secure=self.secure, scripts=False, seconds=seconds)
        return own + set_line(self.token, csrf_token(identity), secure=self.secure, scripts=True, seconds=seconds)

    def clear_lines(self) -> bytes:
        """The lines that take it away."""
        own = set_line(self.name, b"", secure=self.secure, scripts=False, seconds=0)
        return own + set_line(self.token, b"", secure=self.secure, scripts=True, seconds=0)


class OriginCheck:
    """Whether a page of the gateway's own origin, or of one of ``origins``, has sent a request.

    ``token``: the session's token is needed too. ``secure``: pages come over TLS.
    """

    __slots__ = ("_origins", "_schemes", "_token")

    def __init__(self, origins: Collection[str], *, token: bool, secure: bool) -> None:
        self._origins = frozenset(origin.lower().encode("ascii") for origin in origins)
        self._schemes = (b"https://",) if secure else (b"http://", b"https://")
        self._token = token

    def objection(self, call: GuardedCall, identity: bytes | None) -> str:
        """Why the request may be forged, empty when it is not: ``identity`` is the session's id, None at a login."""
        safe = call.method in SAFE_METHODS
        # A WebSocket begins with GET, and then carries what it likes (RFC 6455 §10.2).
        if safe and call.get(b"upgrade") is None:
            return ""
        told = call.get(b"sec-fetch-site") is not None or call.get(b"origin") is not None
        if told and not self._ours(call):
            return "a page of another origin has sent it"
        if safe or identity is None:
            return ""
        if not self._token:
            return "" if told else "it has neither Origin nor Sec-Fetch-Site"
        tokens = call.lines(TOKEN_FIELD)
        if len(tokens) != 1:
            return "it has more than one CSRF token" if tokens else "it has no CSRF token"
        return "" if hmac.compare_digest(tokens[0].value, csrf_token(identity)) else "its CSRF token is wrong"

    def _ours(self, call: GuardedCall) -> bool:
        origins = [field.value.lower() for field in call.lines(b"origin")]
        if len(origins) == 1 and origins[0] in self._origins:
            return True
        sites = [field.value for field in call.lines(b"sec-fetch-site")]
        if sites:
            # No page can set this field; "none" is what the user alone has caused (W3C Fetch Metadata, §2.4).
            return sites in ([b"same-origin"], [b"none"])
        host = (call.get(b"host") or b"").lower()
        return len(origins) == 1 and bool(host) and origins[0] in [scheme + host for scheme in self._schemes]


@dataclass(slots=True)
class KnownSession:
    """A session that was found, and who its user is to services."""

    session: Session
    identity: Identity


class SessionMethod(ABC):
    """Sessions by their cookie, wherever they are kept."""

    challenge = b'Session realm="passerelle"'
    rejection = b'Session realm="passerelle", error="invalid_session"'

    __slots__ = ("_cookies", "_origin")

    def __init__(self, cookies: SessionCookies, origin: OriginCheck) -> None:
        self._cookies = cookies
        self._origin = origin

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Whose session it is. :class:`RequestRefused` (403) where the request may be forged."""
        found = values(call, self._cookies.name)
        if not found:
            return None
        if len(found) > 1:
            raise CredentialRejected("more than one session cookie")
        digest = digest_of(found[0])
        if digest is None:
            raise CredentialRejected("no session by its form")
        credential = self._find_session(call, digest)
        if not isinstance(credential, KnownSession):
            return credential
        objection = self._origin.objection(call, found[0])
        if objection:
            raise RequestRefused(Kind.FORBIDDEN, f"a session of {credential.session.user!r}, but {objection}", [])
        self._record_use(digest, credential)
        return credential.identity

    def current_id(self, call: GuardedCall) -> bytes | PendingResult | None:
        """The id of a session that holds and that the request shows, else None.

        :class:`CredentialRejected` where it shows several.
        """
        found = values(call, self._cookies.name)
        if len(found) > 1:
            raise CredentialRejected("more than one session cookie")
        digest = digest_of(found[0]) if found else None
        if digest is None:
            return None
        try:
            credential = self._find_session(call, digest)
        except CredentialRejected:
            return None
        return found[0] if isinstance(credential, KnownSession) else credential

    @abstractmethod
    def forget(self, digest: bytes) -> None:
        """The session is about to be ended: nobody is let in by memory."""

    @abstractmethod
    def _find_session(self, call: GuardedCall, digest: bytes) -> KnownSession | PendingResult:
        """The session, where it holds; :class:`CredentialRejected` where not, :class:`Failure` where nobody knows."""

    @abstractmethod
    def _record_use(self, digest: bytes, credential: KnownSession) -> None:
        """It was used now."""


@dataclass(slots=True)
class _UsedSession(KnownSession):
    used: float


class FileSessionMethod(SessionMethod):
    """Sessions from the file of ``store``.

    What a look-up found is remembered until :meth:`refresh` sees that the file has changed. ``clock`` gives seconds
    since the epoch. ``used`` collects when sessions were used last (by digest), until somebody takes it.
    """

    __slots__ = ("_clock", "_known", "_lifetimes", "_store", "used")

    def __init__(
        self,
        store: SessionStore,
        cookies: SessionCookies,
        lifetimes: Lifetimes,
        origin: OriginCheck,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(cookies, origin)
        self._store = store
        self._lifetimes = lifetimes
        self._clock = clock
        self._known: BoundedMemo[_UsedSession] = BoundedMemo()
        self.used: dict[bytes, float] = {}

    def forget(self, digest: bytes) -> None:
        """The session is about to be revoked: nobody is let in by memory."""
        self._known.pop(digest, None)
        self.used.pop(digest, None)

    def refresh(self) -> None:
        """Forget everything if the file has changed, or cannot be read any more. Call it twice a second."""
        if self._store.changed():
            self._known.clear()

    def _find_session(self, call: GuardedCall, digest: bytes) -> _UsedSession:
        known = self._known.touch(digest) or self._read_session(digest)
        if self._lifetimes.ended(known.session.created, known.used, self._clock()):
            raise CredentialRejected(f"the session of {known.session.user!r} is over")
        return known

    def _record_use(self, digest: bytes, credential: KnownSession) -> None:
        self.used[digest] = cast(_UsedSession, credential).used = self._clock()

    def _read_session(self, digest: bytes) -> _UsedSession:
        try:
            session = self._store.find(digest)
        except sqlite3.Error as error:
            raise Failure(Kind.UNVERIFIABLE, f"the store of sessions: {error}") from error
        if session is None:
            raise CredentialRejected("unknown session")
        # What is not written yet counts as well.
        used = max(session.used, self.used.get(digest, 0.0))
        known = _UsedSession(session, identity_of(session), used)
        self._known.keep(digest, known, REMEMBERED_SESSIONS)
        return known


def identity_of(session: Session) -> Identity:
    """Who a session's user is. ValueError when name or roles are too long to be told to services."""
    roles = list(session.roles)
    return Identity(session.user, (), "session", claims={"roles": roles}, extra=[(ROLES, roles)])
