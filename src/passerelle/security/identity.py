"""Who a guard found the client to be, and how that is told to a service."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

# The fields that tell it. ``http1/field_lines.py`` drops every field of a client that begins with this, or that a CGI
# or WSGI environment would take for one, so that none of them can come from outside.
PREFIX = b"x-consumer"
CONSUMER, SCOPES, METHOD = b"X-Consumer", b"X-Consumer-Scopes", b"X-Consumer-Auth"

# Longest name of a consumer and longest value of a claim, in characters as sent; beyond, the credential is refused.
LONGEST = 1024

# Visible ASCII but "%": what a field value may hold as it is (RFC 9110 §5.5), and what marks the rest as encoded.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def value_text(value: Any) -> str:
    """A claim as a field value: text as it is, a list of plain texts joined with blanks, anything else as JSON.

    Whatever is not visible ASCII or a blank inside is percent-encoded UTF-8, and so is ``%``: it cannot end the line.
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
    """A consumer, established: ``method`` is ``jwt``, ``key`` or ``mtls``, ``key`` the API key's id (or empty).

    ``lines`` are the field lines for a service, with CRLF, made once. ValueError for a name or claim that is too long.
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
