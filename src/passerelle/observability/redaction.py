"""Redact secrets from logs: values of query parameters with suspicious names, and user information in a target.

Secrets do not belong in a URL (RFC 9110 §17.9), but they occur there: signed links, download tokens, passwords from a
form that uses GET. Only the value is replaced; the name remains, so that a line still shows what was requested.
"""

from __future__ import annotations

import re

from passerelle.http.secret_names import is_secret_name

REDACTED = b"[redacted]"

_USERINFO = re.compile(rb"^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*@")

# Verdicts about parameter names: an API has a few dozen. Cleared if clients invent many names.
_verdicts: dict[bytes, bool] = {}
_MOST_VERDICTS = 4096


def redact(target: bytes, most: int) -> bytes:
    """Redact the values of suspicious parameters and user information in a request target (any form of RFC 9112 §3.2).

    ``&`` and ``;`` separate parameters. Names are compared after decoding: ``%74oken`` is ``token``. Only the first
    ``most`` bytes are inspected and returned, since a long query of invented names would cost milliseconds.
    """
    if 64 in target:  # "@": the test takes a tenth of the time with an int
        target = _USERINFO.sub(lambda match: (match[1] or b"") + b"//" + REDACTED + b"@", target)
    path, mark, query = target[:most].partition(b"?")
    if _may_be_secret(query.decode("latin-1").lower()):
        query = b";".join([_redact_pairs(part) for part in query.split(b";")])
    return path + mark + query


def _may_be_secret(query: str) -> bool:
    """Return whether a name in the lower-case query could be suspicious; unrolled, this costs 0.3 µs instead of 1.2."""
    return (
        "key" in query
        or "token" in query
        or "sig" in query
        or "pass" in query
        or "secret" in query
        or "auth" in query
        or "code" in query
        or "session" in query
        or "cred" in query
        or "jwt" in query
        or "pwd" in query
        or "pin" in query
        or "otp" in query
        or "%" in query
    )


def _redact_pairs(query: bytes) -> bytes:
    pairs = query.split(b"&")
    changed = False
    for index, pair in enumerate(pairs):
        name, equals, _ = pair.partition(b"=")
        is_secret = _verdicts.get(name)
        if is_secret is None:
            is_secret = _is_secret_name(name)
        if is_secret and equals:
            pairs[index] = name + b"=" + REDACTED
            changed = True
    return b"&".join(pairs) if changed else query


def _is_secret_name(name: bytes) -> bool:
    if len(_verdicts) >= _MOST_VERDICTS:
        _verdicts.clear()
    is_secret = _verdicts[name] = is_secret_name(name)
    return is_secret
