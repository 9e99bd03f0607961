"""Names of query parameters whose values are probably secrets."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# Suspicious anywhere in a name ("access_token", "X-Amz-Signature", "newPassword") ...
_ANYWHERE = rb"token|secret|passw|signature|credential|session|jwt"
# ... or as a separate word of it, delimited by separators and capitals ("key", "api-key", "userPin", not "monkey").
_WORDS = ("key", "apikey", "auth", "authorization", "pass", "pwd", "pin", "otp", "sig", "code")
_SECRET_NAME = re.compile(
    rb"(?i:%b)|(?:^|[^A-Za-z0-9])(?i:%b)(?:$|[^A-Za-z0-9])|[a-z0-9](?:%b)(?:$|[^a-z])"
    % (_ANYWHERE, "|".join(_WORDS).encode(), "|".join(word.capitalize() for word in _WORDS).encode())
)


def is_secret_name(name: bytes) -> bool:
    """Return whether the value of the parameter ``name``, as sent, is probably a secret."""
    plain = unquote_to_bytes(name) if b"%" in name else name
    return _SECRET_NAME.search(plain) is not None
