"""The handlers of login and logout routes (docs/reference/sessions.md).

A login reads the body and asks the service to verify user name and password. If they are right it opens a session, and
sends its cookies once the session is written. The previous session of the client ends at the same moment, so that a
session id planted or intercepted before the login is useless after it (session fixation).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from urllib.parse import parse_qsl

import orjson

from passerelle.access.interfaces import HandlerExchange
from passerelle.access.sessions import SessionProvider
from passerelle.errors import Failure, Kind
from passerelle.http.messages import Fields, Response
from passerelle.http1.head import ResponseHead
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.login_throttle import LoginThrottle
from passerelle.security.credentials.redis_login_throttle import RedisLoginThrottle
from passerelle.security.credentials.session_store import Session
from passerelle.security.credentials.sessions import SessionMethod, csrf_token, identity_of
from passerelle.security.guard import GuardedCall, RequestRefused
from passerelle.upstream.request_headers import VIA
from passerelle.upstream.subrequest import Subrequest

# The largest body of a login in bytes, and the longest user name and password in characters.
MAX_BODY = 16_384
LONGEST = 1024

# The statuses by which a service rejects a password; any other status than 200 is a failure of the service.
_WRONG = frozenset({401, 403, 404, 422})
_NOT_STORED: Fields = [(b"Cache-Control", b"no-store")]
_CHALLENGE: Fields = [(b"WWW-Authenticate", SessionMethod.challenge)]


class LoginHandler:
    """Handles the requests of one login route.

    ``path`` is that of the verification request, which ``subrequest`` sends. ``subscriber`` maps an address to the key
    under which attempts from it are counted (for IPv6, its /64).
    """

    def __init__(
        self,
        sessions: SessionProvider,
        logins: LoginThrottle | RedisLoginThrottle,
        subrequest: Subrequest,
        path: bytes,
        subscriber: Callable[[bytes], bytes],
    ) -> None:
        self._sessions = sessions
        self._logins = logins
        self._subrequest = subrequest
        self._path = path
        self._subscriber = subscriber

    def __call__(self, exchange: HandlerExchange) -> None:
        """Start the login.

        :raises Failure: if the request is forged or has no body.
        """
        call = exchange.guarded_call()
        refuse_forged(self._sessions.origin.objection(call, None))
        body = exchange.buffered_body
        if body is None:
            raise Failure(Kind.BAD_REQUEST, "a login without a body", public=_EXPECTED)
        body.when_complete(lambda data: fail_exchange_on_error(exchange, lambda: self._read(exchange, call, data)))

    def _read(self, exchange: HandlerExchange, call: GuardedCall, data: bytes) -> None:
        name, password = credentials(call.get(b"content-type") or b"", data)
        self._sessions.check()
        address = self._subscriber(call.address)

        def counted(wait: int) -> None:
            fail_exchange_on_error(exchange, lambda: self._verify(exchange, call, name, password, address, wait))

        self._logins.take_async(name, address, counted)

    def _verify(
        self, exchange: HandlerExchange, call: GuardedCall, name: str, password: str, address: bytes, wait: int
    ) -> None:
        if wait:
            fields: Fields = [(b"Retry-After", b"%d" % wait)]
            raise RequestRefused(
                Kind.RATE_LIMITED, f"too many wrong passwords for {name!r}, or from its address", fields
            )
        if exchange.finished:
            self._logins.restore(name, address)
            return

        def on_success(head: ResponseHead, body: bytes) -> None:
            fail_exchange_on_error(exchange, lambda: self._on_verdict(exchange, call, name, address, head.status, body))

        def on_error(failure: Failure) -> None:
            self._logins.restore(name, address)
            exchange.on_failure(failure)

        credentials_json = orjson.dumps({"username": name, "password": password})
        field_lines = self._fields(exchange, call, len(credentials_json))
        message = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (self._path, field_lines, credentials_json)
        request = self._subrequest.request(message, perf_counter(), on_success, on_error)
        exchange.attach_request(request)
        request.start()

    def _fields(self, exchange: HandlerExchange, call: GuardedCall, length: int) -> bytes:
        return (
            b"Host: %b\r\n%bX-Forwarded-For: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Accept: application/json\r\nAccept-Encoding: identity\r\nX-Request-Id: %b\r\n%b"
        ) % (call.get(b"host") or b"", VIA, call.address, length, exchange.request_id, call.trace_lines)

    def _on_verdict(
        self, exchange: HandlerExchange, call: GuardedCall, name: str, address: bytes, status: int, body: bytes
    ) -> None:
        if status in _WRONG:
            raise RequestRefused(Kind.UNAUTHENTICATED, f"the wrong password for {name!r}, or no such user", _CHALLENGE)
        self._logins.restore(name, address)
        user, roles = parse_verdict(status, body)
        with_current_session(exchange, self._sessions, call, lambda old: self._open(exchange, call, user, roles, old))

    def _open(
        self, exchange: HandlerExchange, call: GuardedCall, user: str, roles: list[str], old: bytes | None
    ) -> None:
        sessions = self._sessions

        def done(failure: Failure | None) -> None:
            if failure is not None:
                exchange.on_failure(failure)
                return
            seconds = max(1, int(sessions.lifetimes.absolute))
            call.response_fields += sessions.cookies.set_lines(identity, seconds)
            document = {
                "user": user,
                "roles": roles,
                "csrf_token": csrf_token(identity).decode(),
                "expires_in": seconds,
            }
            fields: Fields = [(b"Content-Type", b"application/json"), *_NOT_STORED]
            exchange.respond(Response(200, fields, orjson.dumps(document)))

        identity = sessions.open(user, tuple(roles), old, done)


class LogoutHandler:
    """Handles the requests of one logout route: it ends the session and clears its cookies."""

    def __init__(self, sessions: SessionProvider) -> None:
        self._sessions = sessions

    def __call__(self, exchange: HandlerExchange) -> None:
        """Start the logout.

        :raises Failure: if the request may be forged.
        """
        sessions = self._sessions
        call = exchange.guarded_call()
        with_current_session(exchange, sessions, call, lambda identity: self._end(exchange, call, identity))

    def _end(self, exchange: HandlerExchange, call: GuardedCall, identity: bytes | None) -> None:
        sessions = self._sessions

        def done(failure: Failure | None) -> None:
            if failure is not None:
                exchange.on_failure(failure)
                return
            call.response_fields += sessions.cookies.clear_lines()
            exchange.respond(Response(204, list(_NOT_STORED)))

        refuse_forged(sessions.origin.objection(call, identity))
        if identity is None:
            done(None)
        else:
            sessions.revoke(identity, done)


def with_current_session(
    exchange: HandlerExchange, sessions: SessionProvider, call: GuardedCall, callback: Callable[[bytes | None], None]
) -> None:
    """Call ``callback`` with the id of the client's session, or None, once it is known."""
    try:
        found = sessions.method.current_id(call)
    except CredentialRejected as reason:
        raise RequestRefused(Kind.UNAUTHENTICATED, str(reason), _CHALLENGE) from None
    if found is None or isinstance(found, bytes):
        callback(found)
    else:
        found.add_done_callback(
            lambda: fail_exchange_on_error(exchange, lambda: with_current_session(exchange, sessions, call, callback))
        )


def refuse_forged(objection: str) -> None:
    """Refuse a request that may be forged (403), for the reason of :meth:`.OriginCheck.objection`."""
    if objection:
        raise RequestRefused(Kind.FORBIDDEN, objection, [])


def fail_exchange_on_error(exchange: HandlerExchange, step: Callable[[], None]) -> None:
    """Run a later ``step``, and let a failure end the exchange."""
    try:
        step()
    except Failure as failure:
        exchange.on_failure(failure)


_EXPECTED = "Expected: username and password, as application/json or application/x-www-form-urlencoded."


def credentials(content_type: bytes, body: bytes) -> tuple[str, str]:
    """Return user name and password of a login, from JSON or a form.

    :raises Failure: (400) if they are missing.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    found: dict[object, object]
    try:
        if media_type == b"application/json":
            document = orjson.loads(body)
            found = document if isinstance(document, dict) else {}
        elif media_type == b"application/x-www-form-urlencoded":
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=20
            )
            found = dict(pairs)
            if len(found) != len(pairs):
                raise ValueError("a field twice")
        else:
            raise ValueError("another media type")
        name, password = found.get("username"), found.get("password")
        if not isinstance(name, str) or not isinstance(password, str):
            raise ValueError("no username or no password")
        if not 1 <= len(name) <= LONGEST or not 1 <= len(password) <= LONGEST:
            raise ValueError(f"empty, or longer than {LONGEST} characters")
    except ValueError as error:
        # Only the reason: the unreadable body may contain a password.
        why = "not readable" if isinstance(error, orjson.JSONDecodeError | UnicodeError) else str(error)
        raise Failure(Kind.BAD_REQUEST, f"a login: {why}", public=_EXPECTED) from None
    return name, password


def parse_verdict(status: int, body: bytes) -> tuple[str, list[str]]:
    """Return the id and roles of the user from the response of the service.

    :raises Failure: (502) if the response does not contain them.
    """
    if status != 200:
        raise Failure(Kind.BAD_RESPONSE, f"status {status} in the response about a password")
    try:
        document = orjson.loads(body)
        user, roles = document["user_id"], document.get("roles", [])
        if isinstance(user, int) and not isinstance(user, bool):
            user = str(user)
        if not isinstance(user, str) or not user or not isinstance(roles, list):
            raise ValueError
        if not all(isinstance(role, str) and role and " " not in role for role in roles):
            raise ValueError
        identity_of(Session(user, tuple(roles), 0.0, 0.0))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failure(Kind.BAD_RESPONSE, "no user_id and roles in the response about a password") from None
    return user, roles
