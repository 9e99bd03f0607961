"""Refreshing of claims: a session keeps the refresh token of its login, and roles follow those of the provider.

The token is sealed with a key that is derived from the session id and ``client_secret``: neither the store nor the
configuration alone unseals it. A provider takes the second use of a rotating token for theft, so that one worker alone,
of all gateways, claims a token that is due (RFC 9700 §4.14.2). Requests of the session that come meanwhile go on with
the roles of before. A provider that does not respond changes nothing; one that refuses the token ends the session.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from math import inf
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from passerelle.access.oidc.provider import OidcProvider, OidcSettings, Tokens
from passerelle.access.sessions import SessionProvider, digest_of_valid
from passerelle.errors import Failure, Kind
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.credentials.session_store import Grant, Session
from passerelle.security.credentials.sessions import REMEMBERED_SESSIONS, SessionMethod, identity_of
from passerelle.security.guard import GuardedCall, PendingResult
from passerelle.security.identity import Identity
from passerelle.security.oidc.metadata import Metadata
from passerelle.security.oidc.tokens import check_renewed_token, claim_at, roles_of, signed_claims

# How long a claim is valid (seconds): longer than a request to the provider, with one for its keys, can take.
CLAIM: Final = 30.0
# The least time between two attempts while the provider does not respond (seconds).
PAUSE: Final = 60.0
# The longest time between two checks of whether another worker has refreshed a session (seconds).
LOOK: Final = 60.0
_NONCE_OCTETS: Final = 12


def user_of(claims: dict[str, Any], settings: OidcSettings) -> tuple[str, tuple[str, ...]]:
    """Return consumer and roles in the claims of an ID token; raise :class:`CredentialRejected` if they are unfit."""
    user, roles = claim_at(claims, settings.consumer_claim), roles_of(claims, settings.roles_claim)
    if not isinstance(user, str) or not user:
        raise CredentialRejected(f"it has no {settings.consumer_claim}")
    try:
        identity_of(Session(user, roles, 0.0, 0.0))
    except ValueError as error:
        raise CredentialRejected(str(error)) from None
    return user, roles


class Renewal:
    """A refresh that a request waits for."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once it has ended."""
        self._callbacks.append(callback)

    def finish(self) -> None:
        """Call the callbacks."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Renewals:
    """The refreshing of the sessions of ``provider``."""

    def __init__(self, provider: OidcProvider, sessions: SessionProvider) -> None:
        self._provider = provider
        self._sessions = sessions
        self._due: BoundedMemo[float] = BoundedMemo()
        self._running: set[bytes] = set()

    def grant(self, identity: bytes, refresh: str | None, subject: str) -> Grant | None:
        """Return what a session keeps of its login; None without a refresh token."""
        if refresh is None:
            return None
        nonce = os.urandom(_NONCE_OCTETS)
        sealed = nonce + self._cipher(identity).encrypt(nonce, orjson.dumps([refresh, subject]), None)
        return Grant(sealed, time.time() + self._provider.settings.refresh)

    def begin(self, identity: bytes) -> PendingResult | None:
        """Refresh the session with this id if that is due; None if the request need not wait."""
        now, digest = time.time(), digest_of_valid(identity)
        if now < (self._due.get(digest) or 0.0) or digest in self._running:
            return None
        renewal = Renewal()
        self._running.add(digest)

        def end(due: float) -> None:
            self._running.discard(digest)
            self._due.keep(digest, due, REMEMBERED_SESSIONS)
            renewal.finish()

        def claimed(grant: Grant | Failure | None) -> None:
            if grant is None:
                end(inf)
            elif isinstance(grant, Failure):
                end(time.time() + PAUSE)
            elif grant.due > now:
                end(min(grant.due, now + LOOK))
            else:
                self._refresh(identity, grant, end)

        try:
            self._sessions.claim_grant(identity, now, now + CLAIM, claimed)
        except Failure:
            end(now + PAUSE)
            return None
        return renewal if digest in self._running else None

    def _refresh(self, identity: bytes, grant: Grant, end: Callable[[float], None]) -> None:
        opened = self._open(identity, grant)
        if opened is None:  # sealed with another client_secret
            self._end_session(identity, end)
            return
        refresh, subject = opened

        def received(tokens: Tokens | Failure) -> None:
            if isinstance(tokens, Tokens):
                self._verify(identity, tokens, refresh, subject, end)
            elif tokens.kind is Kind.BAD_REQUEST:
                self._end_session(identity, end)
            else:
                end(time.time() + PAUSE)

        try:
            metadata = self._provider.metadata()
            if not isinstance(metadata, Metadata):
                end(time.time() + CLAIM)
                return
            self._provider.refresh(metadata, refresh, received)
        except Failure:
            end(time.time() + PAUSE)

    def _verify(self, identity: bytes, tokens: Tokens, old: str, subject: str, end: Callable[[float], None]) -> None:
        settings = self._provider.settings
        grant = self.grant(identity, tokens.refresh or old, subject)
        assert grant is not None, "there is a refresh token"
        try:
            if not tokens.id_token:  # allowed (OpenID Connect Core 1.0 §12.2): the provider still knows the user
                self._sessions.keep_grant(identity, grant, lambda _: end(grant.due))
                return
            claims = signed_claims(tokens.id_token, self._provider.keys(), time.monotonic())
            if not isinstance(claims, dict):
                claims.add_done_callback(lambda: self._verify(identity, tokens, old, subject, end))
                return
            check_renewed_token(claims, settings.issuer, settings.client, subject, settings.leeway, time.time())
            roles = user_of(claims, settings)[1]
            self._sessions.renew(identity, roles, grant, lambda _: end(grant.due))
        except CredentialRejected:
            self._end_session(identity, end)
        except Failure:
            self._keep(identity, grant, end)

    def _keep(self, identity: bytes, grant: Grant, end: Callable[[float], None]) -> None:
        """Keep the new token: the provider may take a second use of the old one for theft (RFC 9700 §4.14.2)."""
        later = time.time() + PAUSE
        try:
            self._sessions.keep_grant(identity, grant._replace(due=later), lambda _: end(later))
        except Failure:
            end(later)

    def _end_session(self, identity: bytes, end: Callable[[float], None]) -> None:
        try:
            self._sessions.revoke(identity, lambda _: end(inf))
        except Failure:
            end(time.time() + PAUSE)

    def _open(self, identity: bytes, grant: Grant) -> tuple[str, str] | None:
        sealed = grant.sealed
        try:
            data = self._cipher(identity).decrypt(sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:], None)
        except (ValueError, InvalidTag):
            return None
        refresh, subject = orjson.loads(data)
        return refresh, subject

    def _cipher(self, identity: bytes) -> AESGCM:
        secret = hashlib.sha256(self._provider.settings.secret.encode()).digest()
        return AESGCM(hashlib.blake2b(b"passerelle grant\0" + identity, key=secret, digest_size=32).digest())


class RenewedSessions:
    """Authentication by session cookies of ``sessions``, whose claims ``renewals`` keep current."""

    __slots__ = ("_renewals", "_sessions", "challenge", "rejection")

    def __init__(self, sessions: SessionMethod, renewals: Renewals) -> None:
        self._sessions = sessions
        self._renewals = renewals
        self.challenge = sessions.challenge
        self.rejection = sessions.rejection

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the identity of the user, or a refresh to wait for."""
        found = self._sessions.identify(call)
        if not isinstance(found, Identity):
            return found
        identity = self._sessions.current_id(call)
        if not isinstance(identity, bytes):
            return identity
        renewal = self._renewals.begin(identity)
        if renewal is None:
            return found
        call.pending = None  # what the store replied before is out of date afterwards
        return renewal
