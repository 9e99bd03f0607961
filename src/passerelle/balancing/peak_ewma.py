"""Load metrics, which make one instance a better choice than another.

A metric is independent of the policy: any metric works with :class:`.policies.PowerOfTwo` and
:class:`.policies.LeastLoaded` (round robin and hashing do not compare loads). The default metric, requests in flight
per weight, is inlined in :mod:`.instance` because it is computed for every request.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, log
from time import monotonic

from passerelle.balancing.instance import Instance

# Above every measured load: an instance without a measurement takes one request first, and more only when all others
# have none either. At the default decay, measured loads stay below this value for 300,000 years of clock time.
UNMEASURED = 1e12


class PeakEwma:
    """The expected time for one more request: a moving average of latency, times requests in flight per weight.

    A sample has weight ``1 - exp(-dt / decay)`` in the latency ``c``, except that a sample above ``c`` replaces it at
    once (hence *peak*). Without samples ``c`` decays by ``exp(-dt / decay)``, so that an instance that was slow is
    tried again. A failure counts as at least ``failure_cost`` seconds: an instance that fails fast must not attract
    requests.

    All latencies decay alike, so decay never changes which of two instances is better. ``load`` is therefore kept as
    ``log(c * (in_flight + 1) / weight) + t / decay``, where ``t`` is the time of the last sample. This value stays
    valid for comparison without an update, so that a pick reads no clock.
    """

    __slots__ = ("_clock", "_decay", "_failure_cost")

    def __init__(
        self, clock: Callable[[], float] = monotonic, *, decay: float = 10.0, failure_cost: float = 1.0
    ) -> None:
        """``decay`` is the time in seconds after which a latency has decayed to 37 %. ``clock`` is in seconds."""
        self._clock = clock
        self._decay = decay
        self._failure_cost = failure_cost

    def acquired(self, instance: Instance) -> None:
        """See :class:`.instance.LoadMetric`."""
        self.reweighed(instance)

    def released(self, instance: Instance, ok: bool | None, seconds: float) -> None:
        """See :class:`.instance.LoadMetric`. A request with ``ok=None`` is no sample."""
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
