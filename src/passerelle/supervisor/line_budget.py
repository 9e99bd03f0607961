"""A bound on the rate of lines of one kind: a token bucket."""

from __future__ import annotations

import enum


class Admitted(enum.Enum):
    """Whether a line may be written. After ``LAST``, lines are left out until the bucket is half full again."""

    YES = "yes"
    LAST = "last"
    NO = "no"


class LineBudget:
    """Admits ``most`` lines at once, and one more every ``seconds``."""

    def __init__(self, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._left = float(most)
        self._since = 0.0
        self._spent = False

    def admit(self, now: float) -> Admitted:
        """Take one line from the budget at the time ``now``, in seconds."""
        self._left = min(self._most, self._left + (now - self._since) / self._seconds)
        self._since = now
        if self._spent and self._left < self._most / 2:
            return Admitted.NO
        self._left -= 1
        self._spent = self._left < 1
        return Admitted.LAST if self._spent else Admitted.YES
