"""Where secrets may stand in a configuration. Exports write references in their place.

A place is a sequence of keys; None is any key or index.
"""

from __future__ import annotations

import re
from typing import Final

from passerelle.config.problems import Loc

Place = tuple[str | None, ...]

SECRETS: Final[tuple[Place, ...]] = (
    ("admin", "token"),
    ("identity_token", "secret"),
    ("jwt", "secret"),
    ("oidc", "client_secret"),
    ("keys", "fixed", None, "key"),
    ("alerts", "webhook", "secret"),
    ("alerts", "webhook", "url"),
    ("tracing", "headers", None),
    ("tls", "auto", "external_account", "hmac_key"),
    ("backup", "s3", "secret_key"),
    ("services", None, "balance", "sticky", "secret"),
)
"""Values that are secrets."""

POSSIBLE_SECRETS: Final[tuple[Place, ...]] = (
    ("services", None, "health", "headers", None),
    ("backup", "databases", None),
    ("backup", "scratch"),
    *(("routes", None, f"{kind}_headers", rule, None) for kind in ("request", "response") for rule in ("set", "add")),
)
"""Header fields and addresses, which are secrets by their names, or because they have a password."""

SECRET_NAME: Final = re.compile(
    r"auth|cookie|key|token|secret|passw|passphrase|credential|signature|dsn", re.IGNORECASE
).search
"""Matches names of header fields and variables whose values may be secrets."""

_USER = re.compile(r"://([^/@\s]*)@").search  # the user and the password of a URL
_REFERENCE = re.compile(r"\$\{(?:file:[^{}]+|[A-Za-z_][A-Za-z0-9_]*)\}").fullmatch  # without a default


def may_be_secret(name: str, value: str) -> bool:
    """Whether the value of a variable or field may be a secret, by its name or because it has a password."""
    return bool(value) and (bool(SECRET_NAME(name)) or has_password(value))


def has_password(text: str) -> bool:
    """Whether a text is a URL with a password that is not a reference."""
    found = _USER(text)
    password = found[1].partition(":")[2] if found else ""
    return bool(password) and not _REFERENCE(password)


def is_one_of(loc: Loc, places: tuple[Place, ...]) -> bool:
    """Return whether ``loc`` is one of ``places``."""
    return any(
        len(loc) == len(place) and all(key in (None, step) for step, key in zip(loc, place, strict=True))
        for place in places
    )
