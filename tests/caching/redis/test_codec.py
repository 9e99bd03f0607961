"""Serialization of stored items."""

from __future__ import annotations

from math import inf, nan
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.caching.entry import NEVER, Entry, Variants
from passerelle.caching.redis.codec import decode, encode

SLOTS = [*Entry.__slots__, "key", "tags"]


def same(one: object, other: object) -> bool:
    return all(getattr(one, slot) == getattr(other, slot) for slot in SLOTS)


_TIMES = st.one_of(st.just(NEVER), st.floats(min_value=0, max_value=9e10))
_WINDOWS = st.integers(min_value=0, max_value=2**31)


@given(
    st.binary(min_size=1, max_size=40),
    st.binary(max_size=100),
    st.binary(max_size=100),
    _TIMES,
    _WINDOWS,
    st.sampled_from([None, b'"a"', b'W/"\xff"']),
    st.lists(st.binary(min_size=1, max_size=256), max_size=5).map(tuple),
    st.booleans(),
)
def test_an_entry_survives(
    key: bytes,
    head: bytes,
    body: bytes,
    when: float,
    window: int,
    etag: bytes | None,
    tags: tuple[bytes, ...],
    strict: bool,
) -> None:
    entry = Entry(
        key,
        599,
        head,
        body,
        born=max(when, 0.0),
        fresh_until=when,
        stale_while_revalidate=window,
        stale_if_error=window,
        strict=strict,
        needs_excluded=7,
        etag=etag,
        tags=tags,
    )
    data = encode(entry)
    found = decode(data, key)
    assert found is not None and same(entry, found)
    assert decode(data, key + b"x") is None, "another key's"
    for cut in range(len(data)):
        assert decode(data[:cut], key) is None
    assert decode(data + b"x", key) is None


@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_an_altered_entry_is_none(at: int, change: int, note: bool) -> None:
    item = (
        Variants(b"gw /", (b"accept",), b"salt", (b"t",))
        if note
        else Entry(b"gw /", 200, b"head", b"body", born=1.0, fresh_until=2.0, tags=(b"t",))
    )
    data = bytearray(encode(item))
    assert decode(bytes(data), b"gw /") is not None
    data[at % len(data)] ^= change
    assert decode(bytes(data), b"gw /") is None


@pytest.mark.parametrize(
    ("born", "fresh_until"), [(inf, 1.0), (-inf, 1.0), (nan, 1.0), (1.0, nan), (1e308, 1.0), (1.0, 1e308), (1.0, inf)]
)
def test_an_entry_with_invalid_times_is_none(born: float, fresh_until: float) -> None:
    """Each hit computes the age from these times."""
    entry = Entry(b"gw /", 200, b"", b"", born=0.0, fresh_until=0.0)
    entry.born, entry.fresh_until = born, fresh_until
    assert decode(encode(entry), b"gw /") is None


@given(st.lists(st.binary(max_size=30), max_size=16).map(tuple), st.binary(min_size=1, max_size=8))
def test_a_note_survives(names: tuple[bytes, ...], salt: bytes) -> None:
    note = Variants(b"gw /", names, salt, (b"t",))
    found = decode(encode(note), b"gw /")
    assert isinstance(found, Variants)
    assert (found.names, found.salt, found.tags) == (names, salt, (b"t",))


@pytest.mark.parametrize("data", [b"", b"PE2\n", b"PV2\n\0\0", b"PE1\n" + bytes(100), b"\x80\x04pickle", bytes(500)])
def test_foreign_bytes_are_no_entry(data: bytes) -> None:
    assert decode(data, b"") is None


@given(st.binary(max_size=120))
def test_nothing_raises(data: bytes) -> None:
    decode(data, b"")
    for name in b"PE2\n", b"PV2\n":
        decode(name + data, b"")
        decode(name + crc32(data).to_bytes(4, "little") + data, b"")
