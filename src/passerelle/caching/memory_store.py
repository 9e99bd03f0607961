"""Memory store, bounded in bytes and resistant to scans (S3-FIFO; docs/decisions/006-memory-store.md).

New items enter a small queue with a tenth of the capacity. An item that is requested again while in the small queue
moves to the main queue. Any other item is evicted, and its key's hash is remembered for a while in the ghost queue: a
key that returns meanwhile enters the main queue directly. A hit moves nothing; it only increments a counter, up to 3.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from passerelle.caching.entry import StoredItem
from passerelle.caching.gc_untrack import untrack
from passerelle.caching.ghost_queue import GhostQueue
from passerelle.caching.keys import key_path
from passerelle.caching.tags import PAIR_BYTES, TagIndex, bounded_tags

_SMALL: Final = 1
_MAIN: Final = 2

SMALL_SHARE: Final = 0.1
_MAX_FREQ: Final = 3

# Number of deleted keys that are remembered, so that a response that was in flight when its URI was invalidated is not
# stored afterwards. Only hashes are kept, since a key may be 30 KB long; after a hash collision a response is merely
# not stored. Beyond this number, a response requested before the oldest remembered deletion is refused, whatever its
# key.
_RECENT: Final = 4096


class MemoryStore:
    """Store in memory. ``capacity`` is in bytes and includes all overhead of the items.

    ``epoch`` grows with each deletion and purge. A fetch notes the epoch when its request is forwarded and passes it to
    :meth:`put_since`. Stored items are not tracked by the garbage collector (:mod:`.gc_untrack`), so a store must be
    cleared before it is dropped. ``keys`` is a view of the keys held now.
    """

    __slots__ = (
        "_deleted",
        "_floor",
        "_ghost",
        "_ghost_bytes",
        "_index",
        "_main",
        "_main_bytes",
        "_small",
        "_small_bytes",
        "_small_capacity",
        "_tags",
        "_unlinked",
        "_unlinked_bytes",
        "capacity",
        "epoch",
        "evictions",
        "keys",
        "largest",
    )

    def __init__(self, capacity: int) -> None:
        self.resize(capacity)
        self.epoch = 0
        self.evictions = 0
        self._index: dict[bytes, StoredItem] = {}
        self.keys = self._index.keys()
        self._small: deque[bytes] = deque()
        self._main: deque[bytes] = deque()
        self._small_bytes = 0
        self._main_bytes = 0
        self._ghost = GhostQueue()
        self._ghost_bytes = self._ghost.measure()
        # Maps deleted keys that are still in a queue to that queue's number (removing them from its middle would take a
        # search).
        self._unlinked: dict[bytes, int] = {}
        self._unlinked_bytes = 0  # bytes of those keys, not included in `held_bytes`
        self._tags = TagIndex()
        self._deleted: OrderedDict[int, int] = OrderedDict()
        self._floor = 0

    def __len__(self) -> int:
        return len(self._index)

    def resize(self, capacity: int) -> None:
        """Set the capacity to ``capacity`` bytes; excess items are evicted when the next item is stored."""
        self.capacity = capacity
        self.largest = capacity // 16  # of one item: a single response must not displace all others
        self._small_capacity = int(capacity * SMALL_SHARE)

    def close(self) -> None:
        """Remove everything and store nothing from now on."""
        self.clear()
        self.resize(0)

    @property
    def held_bytes(self) -> int:
        """Bytes held now, including the store's overhead."""
        return self._small_bytes + self._main_bytes + self._ghost_bytes

    def get(self, key: bytes) -> StoredItem | None:
        """Return the item under ``key``, and count a use of it."""
        item = self._index.get(key)
        if item is not None and item.freq < _MAX_FREQ:
            item.freq += 1
        return item

    def peek(self, key: bytes) -> StoredItem | None:
        """Return the item under ``key`` without counting a use."""
        return self._index.get(key)

    def put(self, item: StoredItem) -> bool:
        """Store ``item``, replacing the item under the same key; return whether the item is held afterwards."""
        key = item.key
        if item.tags:
            item.tags = bounded_tags(item.tags)
        item.size = _measure(item)
        if item.size > self.largest:
            self.delete(key)
            return False
        old = self._index.get(key)
        if old is not None:
            # The newer response takes the older one's place in its queue and its frequency.
            item.queue = old.queue
            item.freq = old.freq
            self._count(old, -1)
            if old.tags:
                self._tags.discard(key, old.tags)
        else:
            item.freq = 0
            linked = self._forget_deletion(key)
            if linked:
                item.queue = linked
            elif key in self._ghost:
                self._ghost.discard(key)
                item.queue = _MAIN
                self._main.append(key)
            else:
                item.queue = _SMALL
                self._small.append(key)
        self._index[key] = item
        untrack(item)
        self._count(item, 1)
        if item.tags:
            self._tags.add(key, item.tags)
        while self.held_bytes > self.capacity and self._index:
            self._evict()
        return key in self._index

    def put_since(self, item: StoredItem, epoch: int) -> bool:
        """Store ``item`` unless its key was deleted, or anything purged, after ``epoch`` (RFC 9111 §4.4)."""
        return self.put(item) if self.is_current(_primary(item.key), epoch) else False

    def is_current(self, key: bytes, epoch: int) -> bool:
        """Return whether, since ``epoch``, neither the URI's ``key`` was deleted nor anything purged."""
        return epoch == self.epoch or (epoch >= self._floor and self._deleted.get(hash(key), 0) <= epoch)

    def resized(self, item: StoredItem) -> None:
        """Update the recorded size of a held ``item`` that has grown or shrunk."""
        self._count(item, -1)
        item.size = _measure(item)
        self._count(item, 1)
        while self.held_bytes > self.capacity and self._index:
            self._evict()

    def delete(self, key: bytes) -> bool:
        """Delete the item under ``key``; return whether there was one."""
        self.epoch += 1
        hashed = hash(key)
        self._deleted.pop(hashed, None)
        self._deleted[hashed] = self.epoch
        if len(self._deleted) > _RECENT:
            self._floor = max(self._floor, self._deleted.popitem(last=False)[1])
        return self._remove(key)

    def purge_tag(self, tag: bytes) -> int:
        """Delete every item with ``tag``; return how many there were."""
        self._purged()
        return sum(self._remove(key) for key in self._tags.keys(tag))

    def tags_starting(self, prefix: bytes) -> list[bytes]:
        """Return the held tags that start with ``prefix``, by a linear search."""
        return self._tags.starting(prefix)

    def purge_path(self, path: bytes) -> int:
        """Delete every item with this path (a trailing ``*`` matches any suffix); return how many there were."""
        return sum(self.purging_path(path))

    def purging_path(self, path: bytes, step: int = 5000) -> Iterator[int]:
        """Purge a path like :meth:`purge_path`, in steps of ``step`` keys, so that other work can run between the
        steps.

        Yields the number of items that each step deleted. Paths are not indexed: the search takes 0.3 us per key.
        """
        self._purged()
        prefix = path[:-1] if path.endswith(b"*") else None
        keys = list(self._index)
        for start in range(0, len(keys), step):
            count = 0
            for key in keys[start : start + step]:
                found = key_path(key)
                if found == path or (prefix is not None and found.startswith(prefix)):
                    count += self._remove(key)
            yield count

    def clear(self) -> int:
        """Delete everything; return how many items there were."""
        self._purged()
        count = len(self._index)
        self._index = {}
        self.keys = self._index.keys()
        self._small.clear()
        self._main.clear()
        self._ghost = GhostQueue()
        self._unlinked.clear()
        self._unlinked_bytes = 0
        self._tags.clear()
        self._small_bytes = self._main_bytes = 0
        self._ghost_bytes = self._ghost.measure()
        return count

    def _purged(self) -> None:
        self.epoch += 1
        # A response in flight may have the purged tag or path, which is unknown until it arrives.
        self._floor = self.epoch
        self._deleted.clear()

    def _count(self, item: StoredItem, sign: int) -> None:
        if item.queue == _SMALL:
            self._small_bytes += sign * item.size
        else:
            self._main_bytes += sign * item.size

    def _remove(self, key: bytes) -> bool:
        item = self._index.pop(key, None)
        if item is None:
            return False
        self._unlinked[key] = item.queue
        self._unlinked_bytes += len(key)
        self._forget(item)
        # Deleted keys remain in their queue until they reach its head. They must not outnumber the held items or take a
        # significant part of the memory.
        if len(self._unlinked) > 1024 + 2 * len(self._index) or self._unlinked_bytes > self.capacity >> 5:
            self._compact_deletions()
        return True

    def _forget(self, item: StoredItem) -> None:
        self._count(item, -1)
        if item.tags:
            self._tags.discard(item.key, item.tags)

    def _forget_deletion(self, key: bytes) -> int:
        """Forget that ``key`` was deleted; return the number of the queue that contains it, or 0 for other keys."""
        queue = self._unlinked.pop(key, 0)
        if queue:
            self._unlinked_bytes -= len(key)
        return queue

    def _compact_deletions(self) -> None:
        unlinked = self._unlinked
        self._small = deque(key for key in self._small if key not in unlinked)
        self._main = deque(key for key in self._main if key not in unlinked)
        unlinked.clear()
        self._unlinked_bytes = 0

    def _evict(self) -> None:
        """Evict or requeue the item at the head of one queue."""
        if self._small_bytes > self._small_capacity or not self._main:
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        key = self._small.popleft()
        if self._forget_deletion(key):
            return
        item = self._index[key]
        if item.freq > 0:
            self._small_bytes -= item.size
            item.freq = 0
            item.queue = _MAIN
            self._main_bytes += item.size
            self._main.append(key)
            return
        del self._index[key]
        self._forget(item)
        if not self.evictions & 0x3FF:
            self._ghost.fit(len(self._main))
            self._ghost_bytes = self._ghost.measure()
        self.evictions += 1
        self._ghost.add(key)

    def _evict_main(self) -> None:
        key = self._main.popleft()
        if self._forget_deletion(key):
            return
        item = self._index[key]
        if item.freq > 0:
            item.freq -= 1
            self._main.append(key)
            return
        del self._index[key]
        self._forget(item)
        self.evictions += 1


def _measure(item: StoredItem) -> int:
    return item.measure() + PAIR_BYTES * len(item.tags)


def _primary(key: bytes) -> bytes:
    """Return the primary key, given the key of a variant or a primary key."""
    return key.partition(b"\x00")[0]
