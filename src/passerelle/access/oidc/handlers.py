"""The routes of a login with an identity provider: ``/PREFIX/{step}``.

``login`` begins a login, and ``callback`` ends it. ``logout`` ends the session here and at the provider;
``backchannel`` and ``frontchannel`` are requests of the provider, or of its page, that end sessions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlencode

import orjson

from passerelle.access.interfaces import HandlerExchange
from passerelle.access.login import fail_exchange_on_error, refuse_forged, with_current_session
from passerelle.access.oidc.guard import PRIVATE, begin
from passerelle.access.oidc.provider import BEGIN_AGAIN, OidcProvider, Tokens
from passerelle.access.oidc.renewal import Renewals, user_of
from passerelle.access.sessions import SessionProvider, link_of
from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.guard import GuardedCall
from passerelle.security.oidc.metadata import Metadata
from passerelle.security.oidc.pending_login import LoginCookies, PendingLogin, is_own_path
from passerelle.security.oidc.tokens import (
    check_id_token,
    check_logout_token,
    signed_claims,
)

_MOST_PARAMETERS: Final = 20
_LONGEST_CODE: Final = 4096
_MOST_ENDING: Final = 64
"""The most logouts of each channel that wait for the store."""


def parameters(text: bytes) -> dict[str, str]:
    """Parse a query or form. Raises :class:`Failure` (400) if it is malformed, or a parameter occurs twice."""
    try:
        pairs = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        raise Failure(Kind.BAD_REQUEST, "malformed parameters") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Failure(Kind.BAD_REQUEST, "a parameter twice")
    return found


class _Channel:
    """The logouts over the front channel or over the back channel that wait for the store: ``waiting`` of them."""

    def __init__(self, name: str) -> None:
        self.waiting = 0
        self._name = name

    def take(self) -> None:
        """Take a place. Raises :class:`Failure` (503) if there is none."""
        if self.waiting >= _MOST_ENDING:
            raise Failure(Kind.OVERLOADED, f"{_MOST_ENDING} {self._name} logouts wait")
        self.waiting += 1


class OidcHandler:
    """Handles the requests of the route."""

    def __init__(
        self, provider: OidcProvider, sessions: SessionProvider, cookies: LoginCookies, renewals: Renewals | None
    ) -> None:
        self._renewals = renewals
        # A client needs no credential for the front channel: it may fill neither the queue of writes nor the places of
        # the back channel, whose requests the provider signs.
        self._front = _Channel("front-channel")
        self._back = _Channel("back-channel")
        self._provider = provider
        self._sessions = sessions
        self._cookies = cookies
        self._steps: dict[tuple[bytes, bytes], Callable[[HandlerExchange, GuardedCall], None]] = {
            (b"GET", b"login"): self._login,
            (b"GET", b"callback"): self._callback,
            (b"POST", b"logout"): self._logout,
            (b"POST", b"backchannel"): self._back_channel,
            (b"GET", b"frontchannel"): self._front_channel,
        }

    def __call__(self, exchange: HandlerExchange) -> None:
        """Handle a request.

        :raises Failure: if the step does not exist, or the request is refused.
        """
        call = exchange.guarded_call()
        step = self._steps.get((call.method, call.path.rpartition(b"/")[2]))
        if step is None:
            raise Failure(Kind.NO_ROUTE, "no step of a login with this method")
        step(exchange, call)

    def _login(self, exchange: HandlerExchange, call: GuardedCall) -> None:
        to = parameters(call.query[1:]).get("to", "/")
        if not is_own_path(to):
            raise Failure(Kind.BAD_REQUEST, "a login that would end at another host", public="Allowed is a path.")
        self._begin(exchange, call, to)

    def _begin(self, exchange: HandlerExchange, call: GuardedCall, to: str) -> None:
        found = begin(self._provider, self._cookies, call, to)
        if isinstance(found, Response):
            exchange.respond(found)
        else:
            found.add_done_callback(partial(fail_exchange_on_error, exchange, partial(self._begin, exchange, call, to)))

    # ---- the browser comes back

    def _callback(self, exchange: HandlerExchange, call: GuardedCall) -> None:
        given = parameters(call.query[1:])
        state = given.get("state", "")
        login = self._cookies.find(call, state, time.time())
        if login is None:
            raise Failure(Kind.BAD_REQUEST, "no login of this browser has this state", public=BEGIN_AGAIN)
        metadata = self._provider.metadata()
        if not isinstance(metadata, Metadata):
            again = partial(self._callback, exchange, call)
            metadata.add_done_callback(partial(fail_exchange_on_error, exchange, again))
            return
        # From here on, the login is tried once, however it ends.
        call.response_fields += self._cookies.clear_line(state)
        issuer = given.get("iss")  # RFC 9207 §2.4
        if issuer != self._provider.settings.issuer and (issuer is not None or metadata.sends_issuer):
            raise Failure(Kind.BAD_REQUEST, "the response to a login is that of another issuer", public=BEGIN_AGAIN)
        if "error" in given:
            raise Failure(Kind.FORBIDDEN, f"the provider refused a login: {given['error'][:64]!r}")
        code = given.get("code", "")
        if not 1 <= len(code) <= _LONGEST_CODE:
            raise Failure(Kind.BAD_REQUEST, "a response to a login without a code", public=BEGIN_AGAIN)
        self._sessions.check()

        def exchanged(tokens: Tokens | Failure) -> None:
            if isinstance(tokens, Failure):
                exchange.on_failure(tokens)
            else:
                fail_exchange_on_error(exchange, lambda: self._verify(exchange, call, login, tokens))

        self._provider.exchange(metadata, code, login, exchanged)

    def _verify(self, exchange: HandlerExchange, call: GuardedCall, login: PendingLogin, tokens: Tokens) -> None:
        if exchange.finished:
            return
        settings = self._provider.settings
        try:
            claims = signed_claims(tokens.id_token, self._provider.keys(), time.monotonic())
            if not isinstance(claims, dict):
                again = partial(self._verify, exchange, call, login, tokens)
                claims.add_done_callback(partial(fail_exchange_on_error, exchange, again))
                return
            check_id_token(claims, settings.issuer, settings.client, login.nonce, settings.leeway, time.time())
            user, roles = user_of(claims, settings)
        except CredentialRejected as reason:
            raise Failure(Kind.BAD_RESPONSE, f"an ID token of the provider: {reason}") from None
        links = self._links(claims.get("sub"), claims.get("sid"))
        with_current_session(
            exchange,
            self._sessions,
            call,
            lambda old: self._open(exchange, call, login.path, user, roles, links, tokens.refresh, claims["sub"], old),
        )

    def _open(
        self,
        exchange: HandlerExchange,
        call: GuardedCall,
        path: str,
        user: str,
        roles: tuple[str, ...],
        links: tuple[bytes, ...],
        refresh: str | None,
        subject: str,
        old: bytes | None,
    ) -> None:
        sessions = self._sessions

        def opened(failure: Failure | None) -> None:
            grant = self._renewals.grant(identity, refresh, subject) if self._renewals is not None else None
            if failure is not None or grant is None:
                done(failure)
            else:
                fail_exchange_on_error(exchange, lambda: sessions.keep_grant(identity, grant, done))

        def done(failure: Failure | None) -> None:
            if failure is not None:
                exchange.on_failure(failure)
                return
            seconds = max(1, int(sessions.lifetimes.absolute))
            call.response_fields += sessions.cookies.set_lines(identity, seconds)
            exchange.respond(Response(303, [(b"Location", path.encode("ascii")), *PRIVATE]))

        identity = sessions.open(user, roles, old, opened, links)

    # ---- the end of sessions

    def _logout(self, exchange: HandlerExchange, call: GuardedCall) -> None:
        with_current_session(exchange, self._sessions, call, partial(self._end, exchange, call))

    def _end(self, exchange: HandlerExchange, call: GuardedCall, identity: bytes | None) -> None:
        sessions = self._sessions

        def done(failure: Failure | None) -> None:
            if failure is not None:
                exchange.on_failure(failure)
                return
            call.response_fields += sessions.cookies.clear_lines()
            url = self._logout_url()
            if b"text/html" in (call.get(b"accept") or b"").lower():
                exchange.respond(Response(303, [(b"Location", url.encode("ascii")), *PRIVATE]))
                return
            body = orjson.dumps({"logout_url": url})
            exchange.respond(Response(200, [(b"Content-Type", b"application/json"), *PRIVATE], body))

        refuse_forged(sessions.origin.objection(call, identity))
        if identity is None:
            done(None)
        else:
            sessions.revoke(identity, done)

    def _logout_url(self) -> str:
        """Return where the browser ends its session at the provider (RP-Initiated Logout 1.0 §2)."""
        settings = self._provider.settings
        after = settings.origin + settings.after_logout
        try:
            metadata = self._provider.metadata()
        except Failure:
            return after
        endpoint = metadata.end_session if isinstance(metadata, Metadata) else None
        if endpoint is None:
            return after
        query = urlencode({"client_id": settings.client, "post_logout_redirect_uri": after})
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    def _back_channel(self, exchange: HandlerExchange, call: GuardedCall) -> None:
        body = exchange.buffered_body
        if body is None:
            raise Failure(Kind.BAD_REQUEST, "a back-channel logout without a body")
        body.when_complete(
            lambda data: fail_exchange_on_error(
                exchange, lambda: self._verify_logout(exchange, parameters(data).get("logout_token", ""))
            )
        )

    def _verify_logout(self, exchange: HandlerExchange, token: str) -> None:
        settings = self._provider.settings
        try:
            claims = signed_claims(token, self._provider.keys(), time.monotonic())
            if not isinstance(claims, dict):
                again = partial(self._verify_logout, exchange, token)
                claims.add_done_callback(partial(fail_exchange_on_error, exchange, again))
                return
            sub, sid = check_logout_token(claims, settings.issuer, settings.client, settings.leeway, time.time())
        except CredentialRejected as reason:
            raise Failure(Kind.BAD_REQUEST, f"a back-channel logout: {reason}") from None
        self._end_linked(exchange, self._links(None if sid is not None else sub, sid)[0], self._back)

    def _front_channel(self, exchange: HandlerExchange, call: GuardedCall) -> None:
        given = parameters(call.query[1:])
        sid = given.get("sid", "")
        if given.get("iss") != self._provider.settings.issuer or not sid:
            raise Failure(Kind.BAD_REQUEST, "a front-channel logout without the issuer or the session")
        self._end_linked(exchange, self._links(None, sid)[0], self._front)

    def _end_linked(self, exchange: HandlerExchange, link: bytes, channel: _Channel) -> None:
        channel.take()

        def done(failure: Failure | None) -> None:
            channel.waiting -= 1
            if failure is not None:
                exchange.on_failure(failure)
            else:
                exchange.respond(Response(200, list(PRIVATE)))

        try:
            self._sessions.end_linked(link, done)
        except Failure:
            channel.waiting -= 1
            raise

    def _links(self, sub: object, sid: object) -> tuple[bytes, ...]:
        """Return what sessions of the user and of the session at the provider are found by."""
        issuer = self._provider.settings.issuer
        named = [("sub", sub), ("sid", sid)]
        return tuple(link_of(issuer, kind, value) for kind, value in named if isinstance(value, str) and value)
