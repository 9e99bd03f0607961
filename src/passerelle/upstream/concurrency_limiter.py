"""The adaptive limit of a service, and the queue in front of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from passerelle.resilience.adaptive_limit import AdaptiveLimit
from passerelle.resilience.admission import Admission, Gate, retry_after

if TYPE_CHECKING:
    from passerelle.upstream.limiting import LimitedForward


class Limiter:
    """The limit of one service in this worker, and who waits for it. ``limit`` is read again after each request."""

    __slots__ = ("_admitting", "_gate", "_next", "_waiting", "adaptive")

    def __init__(self, adaptive: AdaptiveLimit, most_waiting: int) -> None:
        self.adaptive = adaptive
        self._gate = Gate(adaptive.limit, most_waiting)
        self._waiting: dict[LimitedForward, None] = {}  # in their order
        self._next: deque[LimitedForward] = deque()  # have a place and do not know it yet
        self._admitting = False

    def enter(self, forward: LimitedForward) -> Admission:
        """``forward`` wants a place. One that waits is told by ``on_admitted``, or takes itself away (:meth:`drop`)."""
        admission = self._gate.enter()
        if admission is Admission.WAIT:
            self._waiting[forward] = None
        return admission

    def drop(self, forward: LimitedForward) -> None:
        """``forward`` waits no more."""
        if forward in self._waiting:
            del self._waiting[forward]
            self._gate.abandon()
        else:
            self._next.remove(forward)
            self._free()

    def leave(self, seconds: float, ok: bool | None, now: float) -> None:
        """One that had a place needs it no more; for the others see :meth:`AdaptiveLimit.observe`."""
        self.adaptive.observe(seconds, self._gate.running, ok, now)
        self._gate.limit = self.adaptive.limit
        self._free()

    def _free(self) -> None:
        gate = self._gate
        moved = gate.leave()
        while moved:
            forward = next(iter(self._waiting))
            del self._waiting[forward]
            self._next.append(forward)
            moved = gate.promote()
        if self._admitting:
            return  # one that was just admitted has ended at once: its successor comes after it, not within it
        self._admitting = True
        try:
            while self._next:
                self._next.popleft().on_admitted()
        finally:
            self._admitting = False

    def retry_after(self, seconds: float) -> int:
        """For a refusal, when one request takes ``seconds``."""
        return retry_after(self._gate.waiting, self._gate.limit, seconds)

    def told(self) -> dict[str, int]:
        """The limit, who has a place and who waits for one."""
        return {"limit": self._gate.limit, "running": self._gate.running, "waiting": self._gate.waiting}
