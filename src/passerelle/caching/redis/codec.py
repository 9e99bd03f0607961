"""Serialize stored items, for a store outside the process.

The first bytes name the format; the next four are the CRC-32 of the rest. Data without this header, truncated data and
altered data decode to None. A change of layout gets a new format name, so that gateways of two versions can share one
Redis: each reads only its own items.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

from passerelle.caching.entry import Entry, StoredItem, Variants

_ENTRY: Final = b"PE2\n"
_VARIANTS: Final = b"PV2\n"
_SUM: Final = struct.Struct("<I")
_BEGIN: Final = len(_ENTRY) + _SUM.size

# born, fresh_until, status, strict, needs_excluded, stale_while_revalidate, stale_if_error, lengths of key, etag (0:
# none), head and body, number of tags. The tags follow, each preceded by its length.
_FIXED: Final = struct.Struct("<ddHBBIIIIIIH")
# The year 5138, in seconds: later times, and NaN, are invalid.
_LATEST: Final = 1e11
_SHORT: Final = struct.Struct("<H")
_VARIANTS_FIXED: Final = struct.Struct("<IHHH")


def encode(item: StoredItem) -> bytes:
    """Serialize ``item``."""
    if isinstance(item, Entry):
        etag = item.etag or b""
        fixed = _FIXED.pack(
            item.born,
            item.fresh_until,
            item.status,
            item.strict,
            item.needs_excluded,
            item.stale_while_revalidate,
            item.stale_if_error,
            len(item.key),
            len(etag),
            len(item.head),
            len(item.body),
            len(item.tags),
        )
        return _sealed(_ENTRY, [fixed, item.key, etag, item.head, item.body, *_packed(item.tags)])
    assert isinstance(item, Variants)
    fixed = _VARIANTS_FIXED.pack(len(item.key), len(item.salt), len(item.names), len(item.tags))
    return _sealed(_VARIANTS, [fixed, item.key, item.salt, *_packed(item.names), *_packed(item.tags)])


def _sealed(name: bytes, pieces: list[bytes]) -> bytes:
    found = 0
    for piece in pieces:
        found = crc32(piece, found)
    return b"".join([name, _SUM.pack(found), *pieces])


def decode(data: bytes, key: bytes) -> StoredItem | None:
    """Return the item in ``data`` if it is complete, has this format and belongs to ``key``; otherwise None. Never
    raises."""
    try:
        if crc32(memoryview(data)[_BEGIN:]) != _SUM.unpack_from(data, len(_ENTRY))[0]:
            return None
        if data.startswith(_ENTRY):
            return _entry(data, key)
        if data.startswith(_VARIANTS):
            return _variants(data, key)
    except (struct.error, ValueError):
        return None
    return None


def _packed(parts: tuple[bytes, ...]) -> list[bytes]:
    return [piece for part in parts for piece in (_SHORT.pack(len(part)), part)]


class _ByteReader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise ValueError("truncated")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def parts(self, count: int) -> tuple[bytes, ...]:
        return tuple(self.take(_SHORT.unpack(self.take(2))[0]) for _ in range(count))


def _entry(data: bytes, key: bytes) -> Entry | None:
    fixed = _FIXED.unpack_from(data, _BEGIN)
    born, fresh_until, status, strict, needs_excluded, swr, sie, *lengths, tags = fixed
    reader = _ByteReader(data, _BEGIN + _FIXED.size)
    if reader.take(lengths[0]) != key:
        return None
    if not -_LATEST < born < _LATEST or not fresh_until < _LATEST:
        raise ValueError("invalid time")
    etag, head, body = (reader.take(length) for length in lengths[1:])
    return Entry(
        key,
        status,
        head,
        body,
        born=born,
        fresh_until=fresh_until,
        stale_while_revalidate=swr,
        stale_if_error=sie,
        strict=bool(strict),
        needs_excluded=needs_excluded,
        etag=etag or None,
        tags=reader.parts(tags),
    )


def _variants(data: bytes, key: bytes) -> Variants | None:
    key_length, salt_length, names, tags = _VARIANTS_FIXED.unpack_from(data, _BEGIN)
    reader = _ByteReader(data, _BEGIN + _VARIANTS_FIXED.size)
    if reader.take(key_length) != key:
        return None
    salt = reader.take(salt_length)
    return Variants(key, reader.parts(names), salt, reader.parts(tags))
