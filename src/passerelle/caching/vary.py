"""Choosing among a URI's responses by request fields (RFC 9111 §4.1), with values normalised first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from passerelle.http.messages import Fields, combined, is_forwarding_field, list_members

# A name that no field can have: who asks, as a guard established it, where answers are chosen by that.
CONSUMER: Final = b"\x00consumer"
# What services are told of it by: these fields are the gateway's, whatever a request says under their names.
CONSUMER_FIELD: Final = b"x-consumer"

# RFC 9111 §4.1: what would choose among more fields than this is as good as `Vary: *`.
MAX_NAMES: Final = 16
_LONGEST: Final = 96

_COMMA = re.compile(rb"[ \t]*,[ \t]*")
_WEIGHT = re.compile(rb"[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")

# A value never holds these bytes (RFC 9110 §5.5), so joined parts cannot be confused.
_SEPARATOR: Final = b"\x1f"
_ABSENT: Final = b"\x1e"


def vary_names(
    lines: list[bytes], more: Iterable[bytes] = (), identity_fields: frozenset[bytes] = frozenset()
) -> tuple[bytes, ...] | None:
    """The lower-case, sorted field names of all ``Vary`` lines, and ``more``; None for ``*`` or for over MAX_NAMES.

    CONSUMER stands for each field that tells services who asks, also for those that ``identity_fields`` names. By what
    only the gateway knows of a request (the client's address, the request's id) no stored response can be chosen: None.
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
    """The normalised values of ``names`` in a request, as one key part of at most 96 bytes."""
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
    """``value`` in the form in which requests of the same meaning agree.

    Repeated lines are combined and blanks round commas dropped (not where a quoted string could hold them). For
    Accept-Language and Accept-Encoding, whose members are case-insensitive and ordered by weight alone (RFC 9110
    §12.5.3, §12.5.4), letter case and order are dropped as well.
    """
    if name in (b"accept-language", b"accept-encoding"):
        return b",".join(b"%b;%d" % (member, weight) for weight, member in weighted(value))
    value = value.strip(b" \t")
    return value if b'"' in value else _COMMA.sub(b",", value)


def weighted(value: bytes) -> list[tuple[int, bytes]]:
    """``(weight in thousandths, lower-case member)`` of an Accept-like list, the best first, equal ones by name."""
    found = []
    for member in list_members(value):
        name, _, parameter = member.partition(b";")
        weight = 1000
        if parameter:
            match = _WEIGHT.fullmatch(parameter.strip(b" \t"))
            # What is no weight is kept as part of the name: it matches only its like.
            if match is None:
                name = member
            else:
                weight = round(float(match[1]) * 1000)
        found.append((weight, name.strip(b" \t").lower()))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return found


def preferred_language(fields: Fields) -> bytes | None:
    """The one language that a request prefers to all others, or None."""
    value = combined(fields, b"accept-language")
    if value is None:
        return None
    languages = weighted(value)
    if not languages or languages[0][1] == b"*" or languages[0][0] == 0:
        return None
    if len(languages) > 1 and languages[1][0] == languages[0][0]:
        return None
    return languages[0][1]
