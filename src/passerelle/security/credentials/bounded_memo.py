"""What was found out about credentials and clients, by what stands for them: bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

V = TypeVar("V")


class BoundedMemo(OrderedDict[bytes, V]):
    """By key. What was kept, or used, the longest time ago is the first to go."""

    def touch(self, key: bytes) -> V | None:
        """What is remembered under ``key``, now the last to go."""
        found = self.get(key)
        if found is not None:
            self.move_to_end(key)
        return found

    def keep(self, key: bytes, value: V, most: int) -> None:
        """Remember ``value`` among ``most``, as the last to go."""
        if len(self) >= most and key not in self:
            self.popitem(last=False)
        self[key] = value
        self.move_to_end(key)
