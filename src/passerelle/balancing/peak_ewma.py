"""Load metrics: what makes one instance a better choice than another.

A metric and a policy are two separate axes: any metric here goes with :class:`.policies.PowerOfTwo` and
:class:`.policies.LeastLoaded` (round robin and hashing do not compare loads). The default metric, requests in flight
per weight, is written out in :mod:`.instance` because every request pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, log
from time import monotonic

from passerelle.balancing.instance import Instance

# Above every measured load: an instance nobody has heard from takes one request first, and more only when all others
# are as unknown. Measured loads are below it for 300,000 years of clock at the default decay.
UNMEASURED = 1e12


class PeakEwma:
    """Expected seconds for one more request: latency, averaged but quick to rise, times requests in flight per weight.

    Latency ``c`` follows its samples with weight ``1 - exp(-dt / decay)``, but a sample above it replaces it at once
    (hence *peak*), and it fades by ``exp(-dt / decay)`` while nothing is heard, so that an instance that was slow is
    tried again. A failure counts as at least ``failure_cost`` seconds: failing fast must not attract requests.

    All latencies fade alike, so fading never changes which of two instances is better. ``load`` is therefore kept as
    ``log(c * (in_flight + 1) / weight) + t / decay`` with ``t`` the time of the last sample: what a comparison needs,
    true without being touched again. No clock is read to pick.
    """

    __slots__ = ("_clock", "_decay", "_failure_cost")

    def __init__(
        self, clock: Callable[[], float] = monotonic, *, decay: float = 10.0, failure_cost: float = 1.0
    ) -> None:
        """``decay`` in seconds: after so long without news 37 % of the old latency is left. ``clock`` in seconds."""
        self._clock = clock
        self._decay = decay
        self._failure_cost = failure_cost

    def acquired(self, instance: Instance) -> None:
        """See :class:`.instance.LoadMetric`."""
        self.reweighed(instance)

    def released(self, instance: Instance, ok: bool | None, seconds: float) -> None:
        """See :class:`.instance.LoadMetric`; ``ok=None`` is no sample."""
        if ok is not None:
            sample = max(seconds, 1e-6) if ok else max(seconds, self._failure_cost)
            now = self._clock()
            cost = instance.cost
            if sample < cost:
                kept = exp((instance.cost_at - now) / self._decay)
                sample = cost * kept + sample * (1.0 - kept)
            instance.cost = sample
            instance.cost_at = now
        self.reweighed(instance)

    def reweighed(self, instance: Instance) -> None:
        """See :class:`.instance.LoadMetric`."""
        cost = instance.cost
        if cost > 0.0:
            instance.load = log(cost * (instance.in_flight + 1) * instance.unit) + instance.cost_at / self._decay
        else:
            instance.load = UNMEASURED + instance.in_flight if instance.in_flight else -inf
