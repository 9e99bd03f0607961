"""Which items have which tag, for purging. What the index takes is counted with the items: one bound for both."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

# Of one item; more are cut off, and longer ones digested: a response must not make the index grow at will.
MAX_TAGS: Final = 64
MAX_TAG_BYTES: Final = 256

# What one tag of one item takes in the index: its slot in the dict of tags (as in entry.SLOT_BYTES), and in a set.
PAIR_BYTES: Final = 160


def stored_tag(tag: bytes) -> bytes:
    """``tag`` as it is held, and so purged by: its digest where it is too long."""
    return tag if len(tag) <= MAX_TAG_BYTES else blake2b(tag, digest_size=24).hexdigest().encode("ascii")


def bounded_tags(tags: Iterable[bytes]) -> tuple[bytes, ...]:
    """``tags`` within the bounds, each once, in order."""
    kept = dict.fromkeys(stored_tag(tag) for tag in tags if tag)
    return tuple(kept)[:MAX_TAGS]


class TagIndex:
    """Tag -> keys. A tag of one item, which most are, holds its key itself and no set: 216 bytes less."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[bytes, bytes | set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: bytes, tags: tuple[bytes, ...]) -> None:
        """``key`` has ``tags``."""
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
        """``key`` no longer has ``tags``."""
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
        """The keys that have ``tag``."""
        held = self._keys.get(tag)
        if held is None:
            return ()
        return tuple(held) if isinstance(held, set) else (held,)

    def starting(self, prefix: bytes) -> list[bytes]:
        """The tags that start so. They are looked through."""
        return [tag for tag in self._keys if tag.startswith(prefix)]

    def clear(self) -> None:
        """Forget everything."""
        self._keys.clear()

    def measure(self) -> int:
        """Bytes held by the index itself (tests hold PAIR_BYTES against it)."""
        return sys.getsizeof(self._keys) + sum(sys.getsizeof(h) for h in self._keys.values() if isinstance(h, set))
