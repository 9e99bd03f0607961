"""Names for systems that allow less than the configuration: DNS labels (RFC 1123 §2.1) without collisions."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

LONGEST = 63
"""Most characters of a label."""

_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?").fullmatch
_DIGEST = 8  # characters


def labels(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Map each name to a label of its own: small letters, digits and dashes, beginning with a letter.

    A name that is a label already stays, unless it is ``taken``. Where names would get the same label, and where a name
    is too long, the label ends with a part of the digest of the name. So a label depends neither on the order of the
    names nor on how often the function is called.
    """
    names = list(dict.fromkeys(names))
    used = set(taken)
    found = {name: name for name in names if _LABEL(name) and len(name) <= LONGEST and name not in used}
    used |= found.keys()
    close = {name: _closest(name) for name in names if name not in found}
    shared = Counter(close.values())
    for name, label in close.items():
        if label in used or shared[label] > 1 or len(label) > LONGEST:
            label = _with_digest(label, name, used)
        found[name] = label
        used.add(label)
    return {name: found[name] for name in names}


def _closest(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return label if label[:1].isalpha() else f"x-{label}".rstrip("-")


def _with_digest(label: str, name: str, used: set[str]) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    for length in range(_DIGEST, len(digest) + 1):
        wanted = f"{label[: LONGEST - length - 1].rstrip('-')}-{digest[:length]}"
        if wanted not in used:
            return wanted
    raise AssertionError("two names have the same digest")
