"""What was looked up of credentials, by their digests: bounded, and who comes often stays."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

V = TypeVar("V")


class Remembered(OrderedDict[bytes, V]):
    """By digest; the one that was not used for the longest time is the first to go."""

    def use(self, digest: bytes) -> V | None:
        """What is remembered under ``digest``, now the last to go."""
        found = self.get(digest)
        if found is not None:
            self.move_to_end(digest)
        return found

    def keep(self, digest: bytes, value: V, most: int) -> None:
        """Remember ``value`` among ``most``, as the last to go."""
        if len(self) >= most and digest not in self:
            self.popitem(last=False)
        self[digest] = value
        self.move_to_end(digest)
