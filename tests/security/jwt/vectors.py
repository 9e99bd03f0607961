"""Interface of the verification for the public vectors: ``verify(jwk, token)``."""

from __future__ import annotations

from typing import Any

from passerelle.security.jwt.jose import parse, verification_key


def verify(jwk: dict[str, Any], token: str) -> bool:
    """Return whether the signature of ``token`` is valid under ``jwk``; raise ValueError if one of them is refused."""
    return verification_key(jwk).verifies(parse(token))
