"""What a diagnosis consists of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Verdict(NamedTuple):
    """One cause. ``evidence`` has the numbers that it is based on; ``confidence`` is over 0 to 1.

    ``is_bottleneck`` is false for what is worth knowing but limits nothing. ``weight`` ranks causes: how close to the
    root they are.
    """

    component: str
    resource: str
    text: str
    evidence: Mapping[str, Any]
    confidence: float
    next_step: str
    weight: float
    is_bottleneck: bool = True
    estimate: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        values = self._asdict()
        del values["weight"]
        return {**values, "confidence": round(self.confidence, 2), "evidence": dict(self.evidence)}


def ms(seconds: float) -> str:
    """Write a time: ``38 ms``."""
    value = seconds * 1000
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 0.1 else f"{value:.2f} ms"


def percent(share: float) -> str:
    """Write a share: ``42 %``."""
    return f"{share * 100:.0f} %"


def plural(count: int, noun: str) -> str:
    """Write a number with its noun: ``5 instances``."""
    return f"{count} {noun}{'s' * (count != 1)}"
