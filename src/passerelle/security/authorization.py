"""Authorization: the guard that checks scopes, consumers and claims."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from passerelle.errors import Kind
from passerelle.http.messages import Fields
from passerelle.security.guard import GuardedCall, RequestRefused

# RFC 6750 §3.1. The missing scope is not disclosed to a client that lacks it.
_INSUFFICIENT: Fields = [(b"WWW-Authenticate", b'Bearer realm="passerelle", error="insufficient_scope"')]


class Require:
    """Guard that requires all ``scopes``, one of ``consumers`` (None: any), and one of the values of each claim; else
    403.

    A claim that is a list matches a value if the list contains the value. Values are compared as JSON: 1 is not true.
    """

    __slots__ = ("_claims", "_consumers", "_scopes")

    def __init__(
        self, scopes: Iterable[str], consumers: Iterable[str] | None, claims: Mapping[str, Iterable[Any]]
    ) -> None:
        self._scopes = frozenset(scopes)
        self._consumers = frozenset(consumers) if consumers is not None else None
        self._claims = {name: frozenset(map(json.dumps, values)) for name, values in claims.items()}

    def __call__(self, call: GuardedCall) -> None:
        """Admit the request, or raise :class:`RequestRefused`."""
        identity = call.identity
        if identity is None:
            raise RequestRefused(Kind.FORBIDDEN, "no client was authenticated", [])
        if not self._scopes <= identity.scopes:
            missing = ", ".join(sorted(self._scopes - identity.scopes))
            fields = _INSUFFICIENT if identity.method == "jwt" else []
            raise RequestRefused(Kind.FORBIDDEN, f"{identity.consumer!r} lacks the scope {missing}", fields)
        if self._consumers is not None and identity.consumer not in self._consumers:
            raise RequestRefused(Kind.FORBIDDEN, f"{identity.consumer!r} is not an allowed consumer", [])
        for name, allowed in self._claims.items():
            found = identity.claims.get(name)
            values = found if isinstance(found, list) else [found]
            if name not in identity.claims or not any(json.dumps(value) in allowed for value in values):
                raise RequestRefused(Kind.FORBIDDEN, f"{identity.consumer!r} lacks the claim {name}", [])
