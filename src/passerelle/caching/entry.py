"""What a store holds: a stored response, or the note that a URI's responses vary.

An entry is immutable to everybody but the store that holds it (``freq`` and ``queue`` are the store's). It keeps its
header section as the bytes that go out, without the fields that every answer makes anew (Age, Cache-Status), and
nothing parsed beyond what a hit asks for: at a million entries each slot is eight megabytes.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import floor, isfinite
from typing import Final

from passerelle.http.messages import Field, Fields

# What a request brings along that an entry may have to refuse: `facts.needs & entry.refuses` is one test for all.
COOKIE: Final = 1
AUTHORIZATION: Final = 2
# Conditions, ranges, HEAD: never answered by the short way.
SPECIAL: Final = 4
# Request directives: answered by the short way only where the route passes them over.
DIRECTIVES: Final = 8
IDENTITY: Final = COOKIE | AUTHORIZATION

NEVER: Final = float("-inf")

# What the store itself spends on an item beside the objects that the item holds: its slot in the index (a dict at two
# thirds load: 16 bytes of table and up to 72 of entries, after growth), and its place in a queue.
SLOT_BYTES: Final = 96


class StoredItem(ABC):
    """An item of a store. ``key`` is unique in it; ``size``, set by the store, counts every byte held for it."""

    __slots__ = ("freq", "key", "queue", "size", "tags")

    key: bytes
    size: int
    freq: int
    queue: int
    tags: tuple[bytes, ...]

    @abstractmethod
    def measure(self) -> int:
        """Bytes held for this item, the store's own included."""


class EncodedForms:
    """An entry as it goes out in other content codings: coding (empty for none) to what is sent. ``by`` is what they
    were made by. They come and go with their entry, and are counted with it."""

    __slots__ = ("by", "made")

    def __init__(self, by: object) -> None:
        self.by = by
        self.made: dict[bytes, Entry] = {}

    def measure(self, body: bytes) -> int:
        """Bytes held for them beside the entry's own ``body``."""
        getsizeof = sys.getsizeof
        size = getsizeof(self) + getsizeof(self.made)
        for form in {id(form): form for form in self.made.values()}.values():
            size += getsizeof(form) + getsizeof(form.head) + (getsizeof(form.etag) if form.etag is not None else 0)
            size += getsizeof(form.body) if form.body is not body else 0
        return size


# The moments of the last entries. Where many share a number's object it stays in the CPU's caches: a hit among a
# million takes 0.2 us less of 2.6, and an entry up to 48 bytes less.
_moments: dict[float, float] = {}
_MOST_MOMENTS: Final = 1024


def _moment(seconds: float) -> float:
    """``seconds`` cut to whole sixty-fourths: the object that other entries of that moment have."""
    if not isfinite(seconds):
        return seconds
    cut = floor(seconds * 64) / 64
    known = _moments.get(cut)
    if known is None:
        if len(_moments) >= _MOST_MOMENTS:
            _moments.clear()
        known = _moments[cut] = cut
    return known


class Entry(StoredItem):
    """A stored response.

    Times are seconds since the epoch, cut to whole sixty-fourths. ``born`` is when the origin made it (so age is
    ``now - born``); ``fresh_until`` is NEVER where each use needs validation (no-cache). ``stale_while_revalidate`` and
    ``stale_if_error`` are windows in seconds after ``fresh_until`` (RFC 5861). ``strict`` forbids every stale use
    (must-revalidate and its like).
    ``needs_excluded`` has the bits (COOKIE, AUTHORIZATION) of the requests that it may not answer, SPECIAL always, and
    DIRECTIVES unless that is taken out. ``owner`` and ``encodings`` are the driver's: what it wants to find again with
    a hit. ``head`` is the status line and the stored field lines, each with CRLF, without the empty line.
    """

    __slots__ = (
        "body",
        "born",
        "encodings",
        "etag",
        "fresh_until",
        "head",
        "needs_excluded",
        "owner",
        "stale_if_error",
        "stale_while_revalidate",
        "status",
        "strict",
    )

    def __init__(
        self,
        key: bytes,
        status: int,
        head: bytes,
        body: bytes,
        *,
        born: float,
        fresh_until: float,
        stale_while_revalidate: int = 0,
        stale_if_error: int = 0,
        strict: bool = False,
        refuses: int = SPECIAL,
        etag: bytes | None = None,
        tags: tuple[bytes, ...] = (),
    ) -> None:
        self.key = key
        self.status = status
        self.head = head
        self.body = body
        self.born = _moment(born)
        self.fresh_until = _moment(fresh_until)
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.strict = strict
        self.needs_excluded = refuses | SPECIAL | DIRECTIVES
        self.owner: object = None
        self.etag = etag
        self.encodings: EncodedForms | None = None
        self.tags = tags
        self.freq = 0
        self.queue = 0
        self.size = 0

    def measure(self) -> int:
        """Bytes held for this entry, the store's own included."""
        getsizeof = sys.getsizeof
        size = SLOT_BYTES + getsizeof(self) + getsizeof(self.key) + getsizeof(self.head) + getsizeof(self.body)
        size += getsizeof(self.born) + getsizeof(self.fresh_until)
        for window in (self.stale_while_revalidate, self.stale_if_error):
            if window > 256:  # smaller integers are shared by the whole interpreter
                size += getsizeof(window)
        if self.etag is not None:
            size += getsizeof(self.etag)
        if self.tags:
            size += getsizeof(self.tags) + sum(map(getsizeof, self.tags))
        if self.encodings is not None:
            size += self.encodings.measure(self.body)
        return size

    def age(self, now: float) -> int:
        """Whole seconds since the origin made it (RFC 9111 §4.2.3)."""
        return max(int(now - self.born), 0)

    @property
    def fields(self) -> Fields:
        """The stored fields, names in lower case."""
        return [(name, value) for name, value, _ in head_lines(self.head)]

    def get(self, name: bytes) -> bytes | None:
        """The first value of the stored field called ``name`` (lower case), or None."""
        for key, value, _ in head_lines(self.head):
            if key == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} {self.status} {len(self.body)} bytes>"


class Variants(StoredItem):
    """The note under a URI's key that its responses are chosen by request fields (RFC 9111 §4.1).

    The responses themselves are entries of their own, keyed by this note's ``salt`` and the values of ``names``; so
    taking the note away (invalidation) makes all of them unreachable at once, however many there are.
    ``languages`` leads from a Content-Language to the variant that has it.
    """

    __slots__ = ("languages", "names", "salt")

    def __init__(self, key: bytes, names: tuple[bytes, ...], salt: bytes, tags: tuple[bytes, ...] = ()) -> None:
        self.key = key
        self.names = names
        self.salt = salt
        self.languages: dict[bytes, bytes] | None = None
        self.tags = tags
        self.freq = 0
        self.queue = 0
        self.size = 0

    def measure(self) -> int:
        """Bytes held for this note, the store's own included; names are few and mostly shared, yet counted."""
        getsizeof = sys.getsizeof
        size = SLOT_BYTES + getsizeof(self) + getsizeof(self.key) + getsizeof(self.salt)
        size += getsizeof(self.names) + sum(map(getsizeof, self.names))
        if self.tags:
            size += getsizeof(self.tags) + sum(map(getsizeof, self.tags))
        if self.languages is not None:
            size += getsizeof(self.languages)
            size += sum(getsizeof(a) + getsizeof(b) for a, b in self.languages.items())
        return size

    def __repr__(self) -> str:
        return f"<Variants {self.key!r} by {self.names!r}>"


def head_lines(head: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """``(lower-case name, value, line)`` of each field line of a head, in order; ``line`` is without CRLF."""
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            yield name.lower(), value.strip(b" \t"), line


def status_line(head: bytes) -> bytes:
    """The first line of a head, without CRLF."""
    return head.partition(b"\r\n")[0]


def build_head(status: bytes, lines: list[bytes]) -> bytes:
    """A head from its status line and field lines, all without CRLF."""
    return b"\r\n".join([status, *lines, b""])


_UPPER: Final = {b"etag": b"ETag", b"te": b"TE", b"dnt": b"DNT", b"www-authenticate": b"WWW-Authenticate"}


def field_line(field: Field) -> bytes:
    """A field as a line without CRLF, its name in the usual capitals, for fields that have no line of their own."""
    name = field[0]
    return (_UPPER.get(name) or name.title()) + b": " + field[1]
