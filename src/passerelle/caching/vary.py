"""Select among a URI's responses by normalised request fields (RFC 9111 §4.1)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from passerelle.http.messages import Fields, combined, is_forwarding_field, list_members

# Pseudo field name (no field can have it) for the consumer that a guard established, if responses vary by consumer.
CONSUMER: Final = b"\x00consumer"
# Prefix of the fields that pass the consumer to services: the gateway sets them and overrides what a request sends.
CONSUMER_FIELD: Final = b"x-consumer"

# RFC 9111 §4.1: a response that varies by more fields than this is treated like `Vary: *`.
MAX_NAMES: Final = 16
_LONGEST: Final = 96

_WEIGHT = re.compile(rb"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")

# A value never contains these bytes (RFC 9110 §5.5), so the joined parts are unambiguous.
_SEPARATOR: Final = b"\x1f"
_ABSENT: Final = b"\x1e"


def vary_names(
    lines: list[bytes], more: Iterable[bytes] = (), identity_fields: frozenset[bytes] = frozenset()
) -> tuple[bytes, ...] | None:
    """Return the sorted lower-case field names of all ``Vary`` lines and ``more``; None for ``*`` or over MAX_NAMES.

    CONSUMER replaces each field that passes the client's identity to services, including those in ``identity_fields``.
    A response that varies by what only the gateway knows (the client's address, the request's id) cannot be selected:
    None.
    """
    names = {m.lower() for line in lines for m in list_members(line)}
    if b"*" in names or len(names) > MAX_NAMES:
        return None
    names.update(more)
    if not names:
        return ()
    if any(map(is_forwarding_field, names)):
        return None
    return tuple(
        sorted({CONSUMER if name.startswith(CONSUMER_FIELD) or name in identity_fields else name for name in names})
    )


def variant_key(names: Iterable[bytes], fields: Fields, consumer: bytes = b"") -> bytes:
    """Return the normalised values of ``names`` in a request, as one key part of at most 96 bytes."""
    parts = []
    for name in names:
        if name == CONSUMER:
            parts.append(consumer)
            continue
        value = combined(fields, name)
        parts.append(_ABSENT if value is None else normalise(name, value))
    key = _SEPARATOR.join(parts)
    return key if len(key) <= _LONGEST else b"#" + hashlib.blake2b(key, digest_size=24).hexdigest().encode("ascii")


def normalise(name: bytes, value: bytes) -> bytes:
    """Normalise ``value``, so that requests with the same meaning have the same value.

    Repeated lines are combined and whitespace around commas is removed (unless a quoted string could contain it).
    Members of Accept-Language and Accept-Encoding are case-insensitive and ordered by weight alone (RFC 9110 §12.5.3,
    §12.5.4), so their letter case and order are dropped as well.
    """
    if name in (b"accept-language", b"accept-encoding"):
        return b",".join(b"%b;%d" % (member, weight) for weight, member in weighted(value))
    value = value.strip(b" \t")
    return value if b'"' in value else b",".join([member.strip(b" \t") for member in value.split(b",")])


def weighted(value: bytes) -> list[tuple[int, bytes]]:
    """Return ``(weight in thousandths, lower-case member)`` for each member of an Accept-like list, by weight, then
    name."""
    found = []
    for member in list_members(value):
        name, _, parameter = member.partition(b";")
        weight = 1000
        if parameter:
            match = _WEIGHT.fullmatch(parameter.strip(b" \t"))
            # A parameter that is not a weight remains part of the name: it only matches the same parameter.
            if match is None:
                name = member
            else:
                weight = round(float(match[1]) * 1000)
        found.append((weight, name.strip(b" \t").lower()))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return found


def preferred_language(fields: Fields) -> bytes | None:
    """Return the one language that a request prefers over all others, or None."""
    value = combined(fields, b"accept-language")
    if value is None:
        return None
    languages = weighted(value)
    if not languages or languages[0][1] == b"*" or languages[0][0] == 0:
        return None
    if len(languages) > 1 and languages[1][0] == languages[0][0]:
        return None
    return languages[0][1]
