"""The state of automatic scaling of one service in the supervisor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from passerelle.config.models.instances import Instances
from passerelle.scaling.autoscaler import Autoscaler, Decision, Limits, Reason


@dataclass
class ServiceScaling:
    """Automatic scaling of a service with the range ``instances``.

    While ``manual``, the number that `passerelle scale` has set stays. ``changing`` is whether a change is being made.
    """

    instances: Instances
    manual: bool = False
    changing: bool = False
    autoscaler: Autoscaler = field(default_factory=Autoscaler)
    decision: Decision | None = None
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def limits(self) -> Limits:
        """The limits of decisions."""
        return Limits(self.instances.min, self.instances.max, self.instances.target_in_flight)

    def set_manually(self, number: int) -> None:
        """Keep ``number`` until :meth:`resume`."""
        self.manual = True
        self.decision = Decision(number, Reason.MANUAL, "set with `passerelle scale`")

    def resume(self) -> None:
        """Follow the load again, from the next samples on."""
        self.manual = False
        self.decision = None
        self.autoscaler = Autoscaler()

    def status(self) -> dict[str, Any]:
        """Return the part of ``/status``, as JSON-able values."""
        decision = self.decision
        return {
            "min": self.instances.min,
            "max": self.instances.max,
            "target_in_flight": self.instances.target_in_flight,
            "manual": self.manual,
            "wanted": decision.wanted if decision is not None else None,
            "reason": decision.reason.value if decision is not None else None,
            "text": decision.text if decision is not None else None,
        }

    def metrics(self) -> dict[str, Any]:
        """Return the part of the metrics."""
        wanted = {"wanted": self.decision.wanted} if self.decision is not None else {}
        return {**wanted, "changes": dict(self.counts)}
