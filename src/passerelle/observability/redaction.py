"""Keeps secrets out of logs: values of query parameters with telling names, and user information in a target.

Secrets do not belong in a URL (RFC 9110 §17.9), but they are there: signed links, tokens for downloads, passwords typed
into a form that uses GET. What is replaced is the value; the name stays, so that a line still says what was asked.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

REDACTED = b"[redacted]"

# Telling wherever they stand in a name ("access_token", "X-Amz-Signature", "newPassword") ...
_ANYWHERE = rb"token|secret|passw|signature|credential|session|jwt"
# ... or as a word of it, as separators and capitals cut it ("key", "api-key", "userPin", not "monkey" or "spinach").
_WORDS = ("key", "apikey", "auth", "authorization", "pass", "pwd", "pin", "otp", "sig", "code")
_TELLING = re.compile(
    rb"(?i:%b)|(?:^|[^A-Za-z0-9])(?i:%b)(?:$|[^A-Za-z0-9])|[a-z0-9](?:%b)(?:$|[^a-z])"
    % (_ANYWHERE, "|".join(_WORDS).encode(), "|".join(word.capitalize() for word in _WORDS).encode())
)
_USERINFO = re.compile(rb"^([A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*@")

# Verdicts about names seen: an API has a few dozen. Emptied when somebody makes names up.
_verdicts: dict[bytes, bool] = {}
_MOST_VERDICTS = 4096


def redact(target: bytes, most: int) -> bytes:
    """The request target (any form of RFC 9112 §3.2) with the values of telling parameters and user info replaced.

    Parameters are what ``&`` and ``;`` separate. Their names count as they are decoded: ``%74oken`` is ``token``.
    Only ``most`` bytes are looked at and returned, or a long query of made-up names would cost milliseconds.
    """
    if 64 in target:  # "@": as an int, the test takes a tenth of the time that bytes take
        target = _USERINFO.sub(lambda match: (match[1] or b"") + b"//" + REDACTED + b"@", target)
    path, mark, query = target[:most].partition(b"?")
    if _may_be_secret(query.decode("latin-1").lower()):
        query = b";".join([_redact_pairs(part) for part in query.split(b";")])
    return path + mark + query


def _may_be_secret(query: str) -> bool:
    """Whether a name in the lower-case query could be telling; written out, it costs 0.3 µs instead of 1.2."""
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
        telling = _verdicts.get(name)
        if telling is None:
            telling = _is_secret_name(name)
        if telling and equals:
            pairs[index] = name + b"=" + REDACTED
            changed = True
    return b"&".join(pairs) if changed else query


def _is_secret_name(name: bytes) -> bool:
    if len(_verdicts) >= _MOST_VERDICTS:
        _verdicts.clear()
    plain = unquote_to_bytes(name) if b"%" in name else name
    telling = _verdicts[name] = _TELLING.search(plain) is not None
    return telling
