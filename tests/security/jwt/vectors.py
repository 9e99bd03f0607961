"""Our verification as the public vectors ask for it: ``verify(jwk, token)``."""

from __future__ import annotations

from typing import Any

from passerelle.security.jwt.jose import parse, verification_key


def verify(jwk: dict[str, Any], token: str) -> bool:
    """Whether the signature of ``token`` holds under ``jwk``; ValueError where one of them is refused."""
    return verification_key(jwk).verifies(parse(token))
