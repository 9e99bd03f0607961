"""Issue signed identity tokens for services (RFC 7519). A token replayed to another service, or later, is invalid
there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key, OctKey, OKPKey

from passerelle.security.credentials.bounded_memo import BoundedMemo
from passerelle.security.guard import GuardedCall
from passerelle.security.identity import Identity
from passerelle.security.jwt.jose import silence_warnings

# Maximum number of cached tokens per route and worker, about 1 KB each. Signing takes 50 us with EdDSA.
REMEMBERED = 10_000


class Signer:
    """Key with its signature algorithm; ``kid`` is the key's thumbprint (RFC 7638), None for a secret."""

    __slots__ = ("_algorithm", "_header", "_key", "kid")

    def __init__(self, key: Key, algorithm: str, kid: str | None) -> None:
        self._key = key
        self._algorithm = algorithm
        self._header = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid is not None else {})}
        self.kid = kid

    def sign(self, claims: dict[str, Any]) -> bytes:
        """Sign ``claims``; return the token in compact form (RFC 7515 §7.1)."""
        with silence_warnings():
            text = jws.serialize_compact(self._header, orjson.dumps(claims), self._key, algorithms=[self._algorithm])
        return text.encode("ascii")


def signer_of_pem(pem: bytes) -> Signer:
    """Load a private Ed25519 key in PEM. Raises ValueError for anything else."""
    try:
        with silence_warnings():
            key = OKPKey.import_key(pem)
    except (JoseError, ValueError, TypeError, AttributeError):
        raise ValueError("no Ed25519 key in PEM") from None
    if key.curve_name != "Ed25519" or not key.is_private:
        raise ValueError("no private Ed25519 key in PEM")
    return Signer(key, "EdDSA", key.thumbprint())


def signer_of_secret(secret: bytes) -> Signer:
    """Create a signer from a shared secret of at least 32 octets."""
    with silence_warnings():
        return Signer(OctKey.import_key(secret), "HS256", None)


class SendIdentity:
    """Guard that adds a token in the field ``header`` to forwarded requests whose client was identified.

    ``lifetime`` is in seconds. A token is reused for half of its lifetime, so that services have time left. ``clock``
    gives seconds since the epoch.
    """

    __slots__ = ("_audience", "_clock", "_header", "_issuer", "_known", "_lifetime", "_signer")

    def __init__(
        self,
        signer: Signer,
        header: bytes,
        issuer: str,
        audience: Sequence[str],
        lifetime: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._header = header
        self._issuer = issuer
        self._audience = audience[0] if len(audience) == 1 else list(audience)
        self._lifetime = int(lifetime)
        self._clock = clock
        self._known: BoundedMemo[tuple[float, bytes]] = BoundedMemo()

    def __call__(self, call: GuardedCall) -> None:
        """Add the field."""
        identity = call.identity
        if identity is None:
            return
        now = self._clock()
        # The identity's field lines contain everything that the token states, so they are the cache key.
        known = self._known.get(identity.lines)
        if known is None or not known[0] <= now < known[0] + self._lifetime / 2:
            known = self._sign(identity, now)
        call.upstream_fields += known[1]

    def _sign(self, identity: Identity, now: float) -> tuple[float, bytes]:
        issued = int(now)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": identity.consumer,
            "aud": self._audience,
            "iat": issued,
            "exp": issued + self._lifetime,
            "scope": " ".join(sorted(identity.scopes)),
            "auth": identity.method,
        }
        roles = identity.claims.get("roles")
        if identity.method == "session" and roles:
            claims["roles"] = roles
        line = b"%b: %b\r\n" % (self._header, self._signer.sign(claims))
        made = (float(issued), line)
        self._known.keep(identity.lines, made, REMEMBERED)
        return made
