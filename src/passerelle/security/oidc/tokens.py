"""ID tokens (OpenID Connect Core 1.0 §3.1.3.7) and logout tokens (Back-Channel Logout 1.0 §2.6)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from passerelle.errors import Failure, Kind
from passerelle.security.credentials.authentication import CredentialRejected
from passerelle.security.guard import PendingResult
from passerelle.security.jwt.jose import ALGORITHMS, HMAC, InvalidToken, claims_of, parse
from passerelle.security.jwt.key_set import KeySource
from passerelle.security.jwt.verifier import JwtRules, check_claims

# Never HMAC: a token must have been signed by the provider, and not by any client that knows its own secret.
_SIGNED: Final = frozenset(ALGORITHMS) - frozenset(HMAC)
_LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
# A token of an older time than this (seconds) is a replayed one.
_OLDEST: Final = 300.0


def signed_claims(text: str, source: KeySource, steady: float) -> dict[str, Any] | PendingResult:
    """Return the claims of a token that the provider has signed, or a pending fetch of its keys.

    Raises :class:`CredentialRejected` if the signature is not that of the provider, :class:`.Failure` if its keys are
    not known. ``steady`` is monotonic.
    """
    try:
        token = parse(text)
        if token.algorithm not in _SIGNED:
            raise CredentialRejected("token with an algorithm that is not allowed")
        if not any(key.verifies(token) for key in source.candidates(token.kid, token.algorithm)):
            wait = source.refetch(steady)
            if wait is not None:
                return wait
            if not source.loaded:
                raise Failure(Kind.UNVERIFIABLE, "the identity provider: no keys fetched yet")
            raise CredentialRejected("token signed with another key than those of the provider")
        return claims_of(token)
    except InvalidToken as error:
        raise CredentialRejected(str(error)) from None


def check_id_token(claims: Mapping[str, Any], issuer: str, client: str, nonce: str, leeway: float, now: float) -> None:
    """Check the claims of an ID token. Raises :class:`CredentialRejected`. ``now`` is in seconds since the epoch."""
    _check_origin(claims, issuer, client, leeway, now)
    if not isinstance(claims.get("nonce"), str) or not hmac.compare_digest(claims["nonce"].encode(), nonce.encode()):
        raise CredentialRejected("ID token with another nonce")
    audience = claims.get("aud")
    party = claims.get("azp")
    if (isinstance(audience, list) and len(audience) > 1 and party is None) or (party is not None and party != client):
        raise CredentialRejected("ID token for another client")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise CredentialRejected("ID token without sub")


def check_renewed_token(
    claims: Mapping[str, Any], issuer: str, client: str, subject: str, leeway: float, now: float
) -> None:
    """Check an ID token of a refresh (OpenID Connect Core 1.0 §12.2): it is about the same user.

    Raises :class:`CredentialRejected`.
    """
    _check_origin(claims, issuer, client, leeway, now)
    if claims.get("sub") != subject or claims.get("azp", client) != client:
        raise CredentialRejected("ID token for another user or client")


def check_logout_token(
    claims: Mapping[str, Any], issuer: str, client: str, leeway: float, now: float
) -> tuple[str | None, str | None]:
    """Check the claims of a logout token; return ``sub`` and ``sid``, one of which may be None.

    Raises :class:`CredentialRejected`: also for an ID token, which lacks the event or has a nonce.
    """
    _check_origin(claims, issuer, client, leeway, now)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT_EVENT), dict) or "nonce" in claims:
        raise CredentialRejected("no logout token")
    sub, sid = claims.get("sub"), claims.get("sid")
    for value in (sub, sid):
        if value is not None and (not isinstance(value, str) or not value):
            raise CredentialRejected("logout token with a malformed sub or sid")
    if sub is None and sid is None:
        raise CredentialRejected("logout token without sub and sid")
    return sub, sid


def _check_origin(claims: Mapping[str, Any], issuer: str, client: str, leeway: float, now: float) -> None:
    check_claims(claims, JwtRules(_SIGNED, issuer, frozenset({client}), leeway), now)
    issued = claims.get("iat")
    if isinstance(issued, bool) or not isinstance(issued, int | float):
        raise CredentialRejected("token without iat")
    if not now - _OLDEST - leeway <= issued <= now + leeway:
        raise CredentialRejected("token that was not issued now")


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim called ``path``, or the one at this path of names with dots; None without it."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def roles_of(claims: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """Return the roles in a claim: a list of words, or words separated by blanks. Others are left out."""
    found = claim_at(claims, path)
    names = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name and len(name.split()) == 1))
