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
    ("alerts", "webhook", "secret"),
    ("alerts", "webhook", "url"),
    ("tracing", "headers", None),
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

SECRET_NAME: Final = re.compile(r"auth|cookie|key|token|secret|passw|credential|signature", re.IGNORECASE).search
"""Matches names of header fields and variables whose values may be secrets."""


def is_one_of(loc: Loc, places: tuple[Place, ...]) -> bool:
    """Return whether ``loc`` is one of ``places``."""
    return any(
        len(loc) == len(place) and all(key in (None, step) for step, key in zip(loc, place, strict=True))
        for place in places
    )
