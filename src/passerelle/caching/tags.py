"""Index of items by tag, for purging. The store counts the size of the index with its items, under one bound."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

# Limits per item: further tags are dropped and longer ones digested, so that a response cannot grow the index at will.
MAX_TAGS: Final = 64
MAX_TAG_BYTES: Final = 256

# Index overhead per tag of an item: its slot in the dict of tags (as in entry.SLOT_BYTES) and its slot in a set.
PAIR_BYTES: Final = 160


def stored_tag(tag: bytes) -> bytes:
    """Return ``tag`` in the form that is stored and purged: a digest if it is too long."""
    return tag if len(tag) <= MAX_TAG_BYTES else blake2b(tag, digest_size=24).hexdigest().encode("ascii")


def bounded_tags(tags: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the distinct ``tags`` in order, within the limits."""
    kept = dict.fromkeys(stored_tag(tag) for tag in tags if tag)
    return tuple(kept)[:MAX_TAGS]


class TagIndex:
    """Maps tags to keys. A tag with one item, the common case, holds the key itself instead of a set, which saves 216
    bytes."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[bytes, bytes | set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, tags: tuple[bytes, ...]) -> None:
        """Add ``tags`` to ``key``."""
        keys = self._keys
        for tag in tags:
            held = keys.get(tag)
            if held is None:
                keys[tag] = key
            elif isinstance(held, set):
                held.add(key)
            elif held != key:
                keys[tag] = {held, key}

    def discard(self, key: bytes, tags: tuple[bytes, ...]) -> None:
        """Remove ``tags`` from ``key``."""
        keys = self._keys
        for tag in tags:
            held = keys.get(tag)
            if isinstance(held, set):
                held.discard(key)
                if len(held) == 1:
                    keys[tag] = held.pop()
            elif held == key:
                del keys[tag]

    def keys(self, tag: bytes) -> tuple[bytes, ...]:
        """Return the keys that have ``tag``."""
        held = self._keys.get(tag)
        if held is None:
            return ()
        return tuple(held) if isinstance(held, set) else (held,)

    def starting(self, prefix: bytes) -> list[bytes]:
        """Return the tags that start with ``prefix``, by a linear search."""
        return [tag for tag in self._keys if tag.startswith(prefix)]

    def clear(self) -> None:
        """Remove all tags."""
        self._keys.clear()

    def measure(self) -> int:
        """Return the bytes held by the index itself (tests compare PAIR_BYTES with it)."""
        return sys.getsizeof(self._keys) + sum(sys.getsizeof(h) for h in self._keys.values() if isinstance(h, set))
