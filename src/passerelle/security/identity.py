"""Identity of a client as established by a guard, and the fields that pass it to a service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

# Fields with this prefix pass the identity. ``http1/field_lines.py`` drops every client field that begins with this
# prefix, or that a CGI or WSGI environment would not distinguish from it, so that clients cannot forge them.
PREFIX = b"x-consumer"
CONSUMER, SCOPES, METHOD = b"X-Consumer", b"X-Consumer-Scopes", b"X-Consumer-Auth"

# Maximum length of a consumer name or claim value, in characters as sent; credentials with longer ones are refused.
LONGEST = 1024

# Visible ASCII except "%": allowed unchanged in a field value (RFC 9110 §5.5); "%" marks encoded characters.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def value_text(value: Any) -> str:
    """Format a claim as a field value: text unchanged, a list of simple strings joined with spaces, other values as
    JSON.

    Everything except visible ASCII and inner spaces is percent-encoded UTF-8, including ``%``, so it cannot end the
    line.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and all(isinstance(item, str) and " " not in item for item in value):
        text = " ".join(value)
    else:
        text = json.dumps(value, separators=(",", ":"))
    quoted = quote(text, safe=_SAFE + " ")
    stripped = quoted.strip(" ")
    return stripped if len(stripped) == len(quoted) else quote(text, safe=_SAFE)


class Identity:
    """Established consumer: ``method`` is ``jwt``, ``key`` or ``mtls``; ``key`` is the API key's id (or empty).

    ``lines`` are the field lines for a service, with CRLF, built once. Raises ValueError if a name or claim is too
    long.
    """

    __slots__ = ("claims", "consumer", "key", "lines", "method", "scopes")

    def __init__(
        self,
        consumer: str,
        scopes: Iterable[str],
        method: str,
        *,
        key: str = "",
        claims: Mapping[str, Any] | None = None,
        extra: Iterable[tuple[bytes, Any]] = (),
    ) -> None:
        self.consumer = consumer
        self.scopes = frozenset(scopes)
        self.method = method
        self.key = key
        self.claims: Mapping[str, Any] = claims or {}
        pairs = [(CONSUMER, consumer), (SCOPES, " ".join(sorted(self.scopes))), (METHOD, method), *extra]
        lines = []
        for name, value in pairs:
            text = value_text(value)
            if len(text) > LONGEST:
                raise ValueError(f"{name.decode('ascii')} would be longer than {LONGEST} characters")
            lines.append(b"%b: %b\r\n" % (name, text.encode("ascii")))
        self.lines = b"".join(lines)

    def __repr__(self) -> str:
        return f"<Identity {self.consumer!r} by {self.method}>"
