"""Stored items: a stored response (:class:`Entry`), or the variants record of a URI (:class:`Variants`).

Only the store that holds an entry modifies ``freq`` and ``queue``; for all other code an entry is immutable. An entry
keeps its header section in wire format, without the fields that are generated for every response (Age, Cache-Status),
and parses only what a hit needs: with a million entries, each slot takes eight megabytes.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import floor, isfinite
from typing import Final

from passerelle.http.messages import Field, Fields

# Properties of a request that can exclude an entry: `view.needs & entry.needs_excluded` tests all of them at once.
COOKIE: Final = 1
AUTHORIZATION: Final = 2
# Conditional requests, ranges and HEAD never use the fast path.
SPECIAL: Final = 4
# Requests with cache directives use the fast path only on routes that ignore client directives.
DIRECTIVES: Final = 8
IDENTITY: Final = COOKIE | AUTHORIZATION

NEVER: Final = float("-inf")

# Store overhead per item, beside the item's own objects: its slot in the index (a dict two thirds full: 16 bytes of
# hash table and up to 72 bytes of entries after growth) and its place in a queue.
SLOT_BYTES: Final = 96


class StoredItem(ABC):
    """Item of a store. ``key`` is unique in the store; ``size`` is set by the store and counts every byte held for the
    item."""

    __slots__ = ("freq", "key", "queue", "size", "tags")

    key: bytes
    size: int
    freq: int
    queue: int
    tags: tuple[bytes, ...]

    @abstractmethod
    def measure(self) -> int:
        """Return the bytes held for this item, including the store's overhead."""


class EncodedForms:
    """Encoded representations of an entry: maps a content coding (empty for identity) to the entry that is served.

    ``by`` is the compression rule that produced them. They are created and removed together with their entry, and their
    size counts towards the entry's size.
    """

    __slots__ = ("by", "made")

    def __init__(self, by: object) -> None:
        self.by = by
        self.made: dict[bytes, Entry] = {}

    def measure(self, body: bytes) -> int:
        """Return the bytes held for the encoded representations, not counting a ``body`` shared with the original
        entry."""
        getsizeof = sys.getsizeof
        size = getsizeof(self) + getsizeof(self.made)
        for form in {id(form): form for form in self.made.values()}.values():
            size += getsizeof(form) + getsizeof(form.head) + (getsizeof(form.etag) if form.etag is not None else 0)
            size += getsizeof(form.body) if form.body is not body else 0
        return size


# Recently used timestamps. Entries of the same moment share one float object, which then stays in the CPU caches: with
# a million entries a hit takes 0.2 us less of 2.6 us, and an entry takes up to 48 bytes less.
_moments: dict[float, float] = {}
_MOST_MOMENTS: Final = 1024


def _moment(seconds: float) -> float:
    """Round ``seconds`` down to a multiple of 1/64 and return the float object shared by entries of that moment."""
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
    """Stored response.

    Times are seconds since the epoch, rounded down to multiples of 1/64. ``born`` is when the origin generated the
    response, so its age is ``now - born``. ``fresh_until`` is NEVER if every use requires validation (no-cache).
    ``stale_while_revalidate`` and ``stale_if_error`` are windows in seconds after ``fresh_until`` (RFC 5861).
    ``strict`` forbids every stale use (must-revalidate and similar directives).

    ``needs_excluded`` has the bits (COOKIE, AUTHORIZATION) of the requests that this entry must not serve. It always
    has SPECIAL, and has DIRECTIVES unless the route ignores client directives. ``owner`` and ``encodings`` are for the
    caller, which keeps there what it needs again on a hit. ``head`` is the status line and the stored field lines, each
    with CRLF, without the final empty line.
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
        needs_excluded: int = SPECIAL,
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
        self.needs_excluded = needs_excluded | SPECIAL | DIRECTIVES
        self.owner: object = None
        self.etag = etag
        self.encodings: EncodedForms | None = None
        self.tags = tags
        self.freq = 0
        self.queue = 0
        self.size = 0

    def measure(self) -> int:
        """Return the bytes held for this entry, including the store's overhead."""
        getsizeof = sys.getsizeof
        size = SLOT_BYTES + getsizeof(self) + getsizeof(self.key) + getsizeof(self.head) + getsizeof(self.body)
        size += getsizeof(self.born) + getsizeof(self.fresh_until)
        for window in (self.stale_while_revalidate, self.stale_if_error):
            if window > 256:  # CPython shares smaller integers
                size += getsizeof(window)
        if self.etag is not None:
            size += getsizeof(self.etag)
        if self.tags:
            size += getsizeof(self.tags) + sum(map(getsizeof, self.tags))
        if self.encodings is not None:
            size += self.encodings.measure(self.body)
        return size

    def age(self, now: float) -> int:
        """Return the age in whole seconds (RFC 9111 §4.2.3)."""
        return max(int(now - self.born), 0)

    @property
    def fields(self) -> Fields:
        """The stored fields, with lower-case names."""
        return [(name, value) for name, value, _ in head_lines(self.head)]

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the stored field ``name`` (lower case), or None."""
        for key, value, _ in head_lines(self.head):
            if key == name:
                return value
        return None

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} {self.status} {len(self.body)} bytes>"


class Variants(StoredItem):
    """Variants record: stored under a URI's key if request fields select among its responses (RFC 9111 §4.1).

    The responses are separate entries, keyed by the ``salt`` of this record and the values of ``names``. Invalidating
    the record therefore makes all of them unreachable at once, however many there are. ``languages`` maps a
    Content-Language to the key of the variant in that language.
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
        """Return the bytes held for this record, including the store's overhead. Field names are counted although most
        are shared."""
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
    """Yield ``(lower-case name, value, line)`` for each field line of ``head``, in order; ``line`` is without CRLF."""
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            yield name.lower(), value.strip(b" \t"), line


def status_line(head: bytes) -> bytes:
    """Return the first line of ``head``, without CRLF."""
    return head.partition(b"\r\n")[0]


def build_head(status: bytes, lines: list[bytes]) -> bytes:
    """Build a head from a status line and field lines, all without CRLF."""
    return b"\r\n".join([status, *lines, b""])


_UPPER: Final = {b"etag": b"ETag", b"te": b"TE", b"dnt": b"DNT", b"www-authenticate": b"WWW-Authenticate"}


def field_line(field: Field) -> bytes:
    """Format a field as a line without CRLF, its name in the usual capitalization; used for fields without an original
    line."""
    name = field[0]
    return (_UPPER.get(name) or name.title()) + b": " + field[1]
