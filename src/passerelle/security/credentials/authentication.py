"""Who asks: the guard that tries each accepted kind of credential, and the one for API keys."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from passerelle.errors import Failure, Kind
from passerelle.security.credentials.api_keys import ApiKey, KeyStore, digest_of
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.guard import GuardedCall, PendingResult, RequestRefused
from passerelle.security.identity import Identity

# Keys that a worker remembers, about 600 bytes each. Beyond, the one that was not used for the longest time is looked
# up again when it comes.
REMEMBERED_KEYS = 10_000


class CredentialRejected(Exception):
    """A credential that does not hold; the text is for the log and never holds the credential."""


class AuthenticationMethod(Protocol):
    """One kind of credential."""

    challenge: bytes
    """Its WWW-Authenticate where it was not used (RFC 9110 §11.6.1)."""
    rejection: bytes
    """The same where it was used and does not hold."""

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Who shows such a credential; None where there is none; :class:`CredentialRejected` where it does not hold.

        :raises Failure: when that cannot be found out now.
        """


class Authenticate:
    """The guard: any of ``methods`` is enough, tried in their order. Without one that holds: 401 (RFC 9110 §15.5.2).

    ``hidden`` names the field (lower case) that holds the gateway's own credential: it never goes upstream.
    """

    __slots__ = ("_hidden", "_methods")

    def __init__(self, methods: Sequence[AuthenticationMethod], hidden: bytes | None = None) -> None:
        self._methods = tuple(methods)
        self._hidden = hidden

    def __call__(self, call: GuardedCall) -> PendingResult | None:
        """Establish ``asked.identity``."""
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
        if self._hidden is not None:
            call.hidden_lines = [field.line for field in call.fields if field.name == self._hidden]


class KeyMethod:
    """API keys in the field ``header`` (lower case), wherever they are kept.

    ``clock`` gives seconds since the epoch.
    """

    challenge = b'ApiKey realm="passerelle"'
    rejection = b'ApiKey realm="passerelle", error="invalid_key"'

    __slots__ = ("_clock", "_header")

    def __init__(self, header: bytes, clock: Callable[[], float] = time.time) -> None:
        self._header = header
        self._clock = clock

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """The owner of the key."""
        lines = call.lines(self._header)
        if not lines:
            return None
        if len(lines) > 1:
            raise CredentialRejected("more than one API key")
        digest = digest_of(lines[0].value)
        if digest is None:
            raise CredentialRejected("no API key by its form")
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
        """The key, whether it holds or not; :class:`CredentialRejected` where there is none, :class:`Failure` where
        nobody knows."""
        raise NotImplementedError

    def _record_use(self, key: ApiKey, now: float) -> None:
        """It was used."""


@dataclass(slots=True)
class KnownKey:
    """A key that was found, and who its owner is to services."""

    key: ApiKey
    identity: Identity

    @classmethod
    def of(cls, key: ApiKey) -> KnownKey:
        """``key`` with its owner. ValueError where that is too long to be told to services."""
        return cls(key, Identity(key.owner, key.scopes, "key", key=key.id))


class FileKeyMethod(KeyMethod):
    """API keys from the file of ``store``.

    What a lookup found is remembered until :meth:`refresh` sees that the file has changed. ``used`` collects when keys
    were used last, until somebody takes it.
    """

    __slots__ = ("_known", "_store", "used")

    def __init__(self, store: KeyStore, header: bytes, clock: Callable[[], float] = time.time) -> None:
        super().__init__(header, clock)
        self._store = store
        self._known: BoundedMemo[KnownKey] = BoundedMemo()
        self.used: dict[str, int] = {}

    def refresh(self) -> None:
        """Forget everything if the file has changed, or cannot be read any more. Call it twice a second."""
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
