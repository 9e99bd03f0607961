"""JSON web tokens as credentials (RFC 7519, RFC 6750, RFC 8725)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from passerelle.errors import Failure, Kind
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.guard import GuardedCall, PendingResult
from passerelle.security.identity import Identity
from passerelle.security.jwt.jose import InvalidToken, claims_of, parse
from passerelle.security.jwt.key_set import KeySource

# Maximum number of verified tokens cached per worker, 1 to 3 KB each. Beyond it, the oldest is verified again when
# used.
REMEMBERED_TOKENS = 10_000


@dataclass(frozen=True, slots=True)
class JwtRules:
    """Requirements for a token. ``leeway`` in seconds allows for clock skew; None and empty accept any value.

    ``consumer`` and ``scopes`` name the claims that become the identity; ``forward`` maps claims to the names of field
    lines for services (which begin with ``X-Consumer-``).
    """

    algorithms: frozenset[str]
    issuer: str | None = None
    audiences: frozenset[str] = frozenset()
    leeway: float = 10.0
    consumer: str = "sub"
    scopes: str = "scope"
    forward: Mapping[str, bytes] = field(default_factory=dict)


def check_claims(claims: Mapping[str, Any], rules: JwtRules, now: float) -> float:
    """Return until when the claims are valid (seconds since the epoch, including leeway).

    Raises :class:`CredentialRejected` if they are not valid. ``exp`` is required: a token without expiry could never be
    withdrawn.
    """
    expires = _date(claims, "exp")
    if expires is None:
        raise CredentialRejected("token without exp")
    until = expires + rules.leeway
    if until <= now:
        raise CredentialRejected(f"token expired {now - expires:.0f} s ago")
    starts = _date(claims, "nbf")
    if starts is not None and starts > now + rules.leeway:
        raise CredentialRejected(f"token not valid for another {starts - now:.0f} s")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise CredentialRejected("token from another issuer")
    if rules.audiences:
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(each, str) and each in rules.audiences for each in audiences):
            raise CredentialRejected("token for another audience")
    return until


def _date(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CredentialRejected(f"malformed {name}")
    return float(value)


def identity_of(claims: Mapping[str, Any], rules: JwtRules) -> Identity:
    """Return the identity in a verified token; raise :class:`CredentialRejected` if it has none."""
    consumer = claims.get(rules.consumer)
    if not isinstance(consumer, str) or not consumer:
        raise CredentialRejected(f"token without {rules.consumer}")
    scopes = claims.get(rules.scopes)
    if isinstance(scopes, str):
        scopes = scopes.split(" ")  # RFC 8693 §4.2; some issuers use a list
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        scopes = []
    extra = [(name, claims[claim]) for claim, name in rules.forward.items() if claims.get(claim) is not None]
    try:
        return Identity(consumer, [scope for scope in scopes if scope], "jwt", claims=claims, extra=extra)
    except ValueError as error:
        raise CredentialRejected(str(error)) from None


class JwtMethod:
    """Authentication by a token in ``Authorization: Bearer``, signed with a key of ``source``.

    A verified token is cached until it expires, or until a key of the source is removed. ``clock`` gives seconds since
    the epoch, ``steady`` is monotonic.
    """

    challenge = b'Bearer realm="passerelle"'
    rejection = b'Bearer realm="passerelle", error="invalid_token"'

    __slots__ = ("_clock", "_known", "_rules", "_source", "_steady", "_version")

    def __init__(
        self,
        rules: JwtRules,
        source: KeySource,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._source = source
        self._clock = clock
        self._steady = steady
        self._known: BoundedMemo[tuple[float, Identity]] = BoundedMemo()
        self._version = source.version

    def identify(self, call: GuardedCall) -> Identity | PendingResult | None:
        """Return the identity in the token."""
        lines = call.lines(b"authorization")
        if not lines:
            return None
        # Before the cache lookup: a second line would be forwarded unchecked.
        if len(lines) > 1:
            raise CredentialRejected("more than one Authorization field")
        value = lines[0].value
        known = self._known.get(value)
        if known is not None and known[0] > self._clock() and self._version == self._source.version:
            return known[1]
        if value[:7].lower() != b"bearer ":
            return None
        return self._verify(value)

    def _verify(self, value: bytes) -> Identity | PendingResult:
        source = self._source
        try:
            token = parse(value[7:].strip(b" ").decode("latin-1"))
        except InvalidToken as error:
            raise CredentialRejected(str(error)) from None
        if token.algorithm not in self._rules.algorithms:
            raise CredentialRejected("algorithm not allowed")
        keys = source.candidates(token.kid, token.algorithm)
        if not any(key.verifies(token) for key in keys):
            wait = source.refetch(self._steady())
            if wait is not None:
                return wait
            if not source.loaded:
                raise Failure(Kind.UNVERIFIABLE, "no keys fetched yet")
            raise CredentialRejected("invalid signature" if keys else "token signed with an unknown key")
        try:
            claims = claims_of(token)
        except InvalidToken as error:
            raise CredentialRejected(str(error)) from None
        until = check_claims(claims, self._rules, self._clock())
        identity = identity_of(claims, self._rules)
        self._remember(value, until, identity)
        return identity

    def _remember(self, value: bytes, until: float, identity: Identity) -> None:
        if self._version != self._source.version:
            self._version = self._source.version
            self._known.clear()
        self._known.keep(value, (until, identity), REMEMBERED_TOKENS)
