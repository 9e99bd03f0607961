"""Authentication: the guard that tries each accepted method, and the method for API keys."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from passerelle.errors import Failure, Kind
from passerelle.http.messages import Response
from passerelle.security.credentials.api_keys import ApiKey, KeyStore, digest_of
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.guard import GuardedCall, PendingResult, RequestRefused
from passerelle.security.identity import Identity

QUERY_KEY_FIELD: Final = b"passerelle-query-key"
"""The field (lower case) in which an API key of the query reaches the guards. No service receives it."""

# Maximum number of keys cached per worker, about 600 bytes each. Beyond it, the least recently used is looked up again.
REMEMBERED_KEYS = 10_000


class CredentialRejected(Exception):
    """Invalid credential; the message is for the log and never contains the credential."""


class AuthenticationMethod(Protocol):
    """One kind of credential."""

    challenge: bytes
    """WWW-Authenticate if the request has no such credential (RFC 9110 §11.6.1)."""
    rejection: bytes
    """WWW-Authenticate if the request has an invalid credential."""

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the client's identity, or None without such a credential; raise :class:`CredentialRejected` if it is
        invalid.

        :raises Failure: if the credential cannot be verified now.
        """


class Authenticate:
    """Guard that requires a valid credential of any of ``methods``, tried in order; otherwise 401 (RFC 9110 §15.5.2).

    ``hidden`` names the fields (lower case) with the gateway's own credential, which are never forwarded.
    """

    __slots__ = ("_hidden", "_methods")

    def __init__(self, methods: Sequence[AuthenticationMethod], hidden: Sequence[bytes] = ()) -> None:
        self._methods = tuple(methods)
        self._hidden = hidden

    def __call__(self, call: GuardedCall) -> Response | PendingResult | None:
        """Establish ``call.identity``."""
        reasons: list[str] = []
        challenges: list[tuple[bytes, bytes]] = []
        unverifiable: Failure | None = None
        for method in self._methods:
            challenge = method.challenge
            try:
                found = method.identify(call)
            except CredentialRejected as reason:
                reasons.append(str(reason))
                challenge = method.rejection
            except Failure as failure:
                unverifiable = failure
            else:
                if isinstance(found, Identity):
                    self._establish(call, found)
                    return None
                if found is not None:
                    return found
            challenges.append((b"WWW-Authenticate", challenge))
        if unverifiable is not None:
            raise unverifiable
        raise RequestRefused(Kind.UNAUTHENTICATED, "; ".join(reasons) or "no credentials", challenges)

    def _establish(self, call: GuardedCall, identity: Identity) -> None:
        call.identity = identity
        call.pending = None
        call.upstream_fields += identity.lines
        for name in self._hidden:
            call.hidden_lines = [*call.hidden_lines, *(field.line for field in call.lines(name))]


class KeyMethod:
    """Authentication by API keys in the field ``header`` (lower case), for any store; by itself without a store.

    ``clock`` gives seconds since the epoch.
    """

    challenge = b'ApiKey realm="passerelle"'
    rejection = b'ApiKey realm="passerelle", error="invalid_key"'

    __slots__ = ("_clock", "_fixed", "_header", "_in_query")

    def __init__(self, header: bytes, clock: Callable[[], float] = time.time) -> None:
        self._header = header
        self._clock = clock
        self._fixed: Mapping[bytes, KnownKey] | None = None
        self._in_query: bytes | None = None

    def extend(self, fixed: Mapping[bytes, KnownKey], in_query: bytes | None) -> None:
        """Accept keys of the configuration, by the SHA-256 of each, and keys in the field ``in_query`` as well."""
        self._fixed = fixed or None
        self._in_query = in_query

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the identity of the key's owner."""
        lines = call.lines(self._header)
        if self._in_query is not None:
            lines = [*lines, *call.lines(self._in_query)]
        if not lines:
            return None
        if len(lines) > 1:
            raise CredentialRejected("more than one API key")
        if self._fixed is not None:
            known = self._fixed.get(hashlib.sha256(lines[0].value).digest())
            if known is not None:
                return known.identity
        digest = digest_of(lines[0].value)
        if digest is None:
            raise CredentialRejected("malformed API key")
        credential = self._look_up(call, digest)
        if not isinstance(credential, KnownKey):
            return credential
        key, now = credential.key, self._clock()
        refusal = key.refusal(now)
        if refusal:
            raise CredentialRejected(f"API key {key.id} is {refusal}")
        self._record_use(key, now)
        return credential.identity

    def _look_up(self, call: GuardedCall, digest: bytes) -> KnownKey | PendingResult:
        """Return the key, valid or not.

        Raises :class:`CredentialRejected` if there is no such key, :class:`Failure` if the store cannot be read.
        """
        raise CredentialRejected("unknown API key")

    def _record_use(self, key: ApiKey, now: float) -> None:
        """Record a use of the key."""


@dataclass(slots=True)
class KnownKey:
    """Stored key, with its owner's identity for services."""

    key: ApiKey
    identity: Identity

    @classmethod
    def of(cls, key: ApiKey) -> KnownKey:
        """Add the owner's identity to ``key``. Raises ValueError if the owner's name is too long for a field."""
        return cls(key, Identity(key.owner, key.scopes, "key", key=key.id))


class FileKeyMethod(KeyMethod):
    """Authentication by API keys in the file of ``store``.

    Lookups are cached until :meth:`refresh` notices a change of the file. ``used`` collects when keys were last used,
    until the caller takes the collected times.
    """

    __slots__ = ("_known", "_store", "used")

    def __init__(self, store: KeyStore, header: bytes, clock: Callable[[], float] = time.time) -> None:
        super().__init__(header, clock)
        self._store = store
        self._known: BoundedMemo[KnownKey] = BoundedMemo()
        self.used: dict[str, int] = {}

    def refresh(self) -> None:
        """Clear the cache if the file has changed or can no longer be read. Call this twice a second."""
        if self._store.changed():
            self._known.clear()

    def _record_use(self, key: ApiKey, now: float) -> None:
        self.used[key.id] = int(now)

    def _look_up(self, call: GuardedCall, digest: bytes) -> KnownKey:
        credential = self._known.touch(digest)
        if credential is not None:
            return credential
        try:
            key = self._store.find(digest)
        except sqlite3.Error as error:
            raise Failure(Kind.UNVERIFIABLE, f"the store of API keys: {error}") from error
        if key is None:
            raise CredentialRejected("unknown API key")
        credential = KnownKey.of(key)
        self._known.keep(digest, credential, REMEMBERED_KEYS)
        return credential
