"""Sessions as credentials: the cookie, its user, and protection against cross-site request forgery.

A browser sends a cookie with every request to its host, even if a page of another site caused the request. A method
that changes something therefore needs more than the cookie. If the browser reports the origin of the request
(``Sec-Fetch-Site``, ``Origin``), it must be the same origin. Unless disabled, the request must also have the CSRF
token, which only pages of this origin can read.
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

# Maximum number of sessions cached per worker, about 1 KB each. Beyond it, the least recently used is looked up again.
REMEMBERED_SESSIONS = 10_000

# Maximum number of session cookies of a request that are looked up; further ones are ignored.
MOST_COOKIES = 8

TOKEN_FIELD = b"x-csrf-token"
ROLES = b"X-Consumer-Roles"


def csrf_token(identity: bytes) -> bytes:
    """Derive the CSRF token of a session from its id: it need not be stored, and it does not reveal the id."""
    mac = hmac.digest(identity, b"passerelle csrf token", "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=")


@dataclass(frozen=True, slots=True)
class SessionCookies:
    """The two cookies of a session: ``name`` holds its id, ``token`` its CSRF token, which scripts can read.

    With ``secure``, they are sent over TLS only, and their prefix prevents other hosts and pages over plain HTTP from
    setting them (RFC 6265bis §4.1.3.2).
    """

    name: bytes
    token: bytes
    secure: bool

    @classmethod
    def named(cls, name: str, *, secure: bool) -> SessionCookies:
        """Create the cookies for the configured session name ``name``."""
        full = f"__Host-{name}" if secure else name
        return cls(full.encode("ascii"), f"{full}-csrf".encode("ascii"), secure)

    def set_lines(self, identity: bytes, seconds: int) -> bytes:
        """Return the lines that set the cookies for at most ``seconds``."""
        own = set_line(self.name, identity, secure=self.secure, scripts=False, seconds=seconds)
        return own + set_line(self.token, csrf_token(identity), secure=self.secure, scripts=True, seconds=seconds)

    def clear_lines(self) -> bytes:
        """Return the lines that delete the cookies."""
        own = set_line(self.name, b"", secure=self.secure, scripts=False, seconds=0)
        return own + set_line(self.token, b"", secure=self.secure, scripts=True, seconds=0)


class OriginCheck:
    """Check that a request was sent by a page of the gateway's own origin, or of one of ``origins``.

    ``token``: the session's CSRF token is required too. ``secure``: pages are served over TLS.
    """

    __slots__ = ("_origins", "_schemes", "_token")

    def __init__(self, origins: Collection[str], *, token: bool, secure: bool) -> None:
        self._origins = frozenset(origin.lower().encode("ascii") for origin in origins)
        self._schemes = (b"https://",) if secure else (b"http://", b"https://")
        self._token = token

    def objection(self, call: GuardedCall, identity: bytes | None) -> str:
        """Return why the request may be forged, or an empty string.

        ``identity`` is the session's id, None at a login.
        """
        safe = call.method in SAFE_METHODS
        # A WebSocket begins with GET, and may then carry any message (RFC 6455 §10.2).
        if safe and call.get(b"upgrade") is None:
            return ""
        has_origin = call.get(b"sec-fetch-site") is not None or call.get(b"origin") is not None
        if has_origin and not self._is_same_origin(call):
            return "it was sent by a page of another origin"
        if safe or identity is None:
            return ""
        if not self._token:
            return "" if has_origin else "it has neither Origin nor Sec-Fetch-Site"
        tokens = call.lines(TOKEN_FIELD)
        if len(tokens) != 1:
            return "it has more than one CSRF token" if tokens else "it has no CSRF token"
        return "" if hmac.compare_digest(tokens[0].value, csrf_token(identity)) else "its CSRF token is wrong"

    def _is_same_origin(self, call: GuardedCall) -> bool:
        origins = [field.value.lower() for field in call.lines(b"origin")]
        if len(origins) == 1 and origins[0] in self._origins:
            return True
        sites = [field.value for field in call.lines(b"sec-fetch-site")]
        if sites:
            # Pages cannot set this field; "none" means that the user initiated the request (W3C Fetch Metadata, §2.4).
            return sites in ([b"same-origin"], [b"none"])
        host = (call.get(b"host") or b"").lower()
        return len(origins) == 1 and bool(host) and origins[0] in [scheme + host for scheme in self._schemes]


@dataclass(slots=True)
class KnownSession:
    """Session found in the store, with its user's identity for services."""

    session: Session
    identity: Identity


class SessionMethod(ABC):
    """Authentication by session cookies, for any store."""

    challenge = b'Session realm="passerelle"'
    rejection = b'Session realm="passerelle", error="invalid_session"'

    __slots__ = ("_cookies", "_origin")

    def __init__(self, cookies: SessionCookies, origin: OriginCheck) -> None:
        self._cookies = cookies
        self._origin = origin

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the session user's identity; raise :class:`RequestRefused` (403) if the request may be forged."""
        found = self._first_valid(call)
        if not isinstance(found, tuple):
            return found
        identity, digest, credential = found
        objection = self._origin.objection(call, identity)
        if objection:
            raise RequestRefused(Kind.FORBIDDEN, f"a session of {credential.session.user!r}, but {objection}", [])
        self._record_use(digest, credential)
        return credential.identity

    def current_id(self, call: GuardedCall) -> bytes | PendingResult | None:
        """Return the id of the first valid session of the request, or None."""
        try:
            found = self._first_valid(call)
        except CredentialRejected:
            return None
        return found[0] if isinstance(found, tuple) else found

    def _first_valid(self, call: GuardedCall) -> tuple[bytes, bytes, KnownSession] | PendingResult | None:
        """Return the first valid session with its id and digest, or None if the request has no session cookie.

        A client may send an old cookie beside the valid one, in any order (RFC 6265 §5.4).

        Raises :class:`CredentialRejected` if none of the cookies is a valid session.
        """
        found = values(call, self._cookies.name)
        if not found:
            return None
        rejected = CredentialRejected("malformed session cookie")
        known = [(identity, digest) for identity in dict.fromkeys(found) if (digest := digest_of(identity)) is not None]
        for identity, digest in known[:MOST_COOKIES]:
            try:
                credential = self._find_session(call, digest)
            except CredentialRejected as reason:
                rejected = reason
                continue
            return (identity, digest, credential) if isinstance(credential, KnownSession) else credential
        raise rejected

    @abstractmethod
    def forget(self, digest: bytes) -> None:
        """Remove a session that is about to end from the cache, so that it is not accepted from memory."""

    @abstractmethod
    def _find_session(self, call: GuardedCall, digest: bytes) -> KnownSession | PendingResult:
        """Return the session if it is valid.

        Raises :class:`CredentialRejected` if it is not valid, :class:`Failure` if the store cannot be read.
        """

    @abstractmethod
    def _record_use(self, digest: bytes, credential: KnownSession) -> None:
        """Record a use of the session."""


@dataclass(slots=True)
class _UsedSession(KnownSession):
    used: float


class FileSessionMethod(SessionMethod):
    """Authentication by session cookies, with the file of ``store``.

    Lookups are cached until :meth:`refresh` notices a change of the file. ``clock`` gives seconds since the epoch.
    ``used`` collects when sessions (by digest) were last used, until the caller takes the collected times.
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
        """Remove a session that is about to be revoked from the cache, so that it is not accepted from memory."""
        self._known.pop(digest, None)
        self.used.pop(digest, None)

    def refresh(self) -> None:
        """Clear the cache if the file has changed or can no longer be read. Call this twice a second."""
        if self._store.changed():
            self._known.clear()

    def _find_session(self, call: GuardedCall, digest: bytes) -> _UsedSession:
        known = self._known.touch(digest) or self._read_session(digest)
        if self._lifetimes.ended(known.session.created, known.used, self._clock()):
            raise CredentialRejected(f"the session of {known.session.user!r} has expired")
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
        # Uses that are not written to the file yet count as well.
        used = max(session.used, self.used.get(digest, 0.0))
        known = _UsedSession(session, identity_of(session), used)
        self._known.keep(digest, known, REMEMBERED_SESSIONS)
        return known


def identity_of(session: Session) -> Identity:
    """Return the identity of a session's user. Raises ValueError if name or roles are too long for fields."""
    roles = list(session.roles)
    return Identity(session.user, (), "session", claims={"roles": roles}, extra=[(ROLES, roles)])
