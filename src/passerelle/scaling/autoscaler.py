"""The wanted number of instances of a service, from samples of its load.

The load is the number of requests in flight at the service, in all workers. Two windows of it decide, as in Knative:
the stable window of 60 seconds, and the panic window of 6 seconds for bursts. A change must exceed a tolerance.
Instances are removed only after a full stable window without a change, and at most half of them at once. An increase is
judged by its effect: if the service neither serves more requests nor serves them faster, instances are not what it
lacks.

Nothing here reads a clock: samples carry their time, in seconds of any monotonic clock.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import NamedTuple

STABLE_WINDOW = 60.0  # seconds
PANIC_WINDOW = 6.0  # seconds
PANIC_RATIO = 2.0  # a burst needs this many times the instances
TOLERANCE = 0.1  # deviation from the target that changes nothing
MOST_GROWTH = 2  # a change at most doubles the number: its effect is seen before the next one
FEWEST_SAMPLES = 5  # since the last change, for a burst
FEWEST_STABLE = 30  # since the last change, for the stable window
COMPLETE = 0.9  # share of the samples of the stable window that a decrease needs
MISSING_GAIN = 0.2  # share of the ideal gain that an increase must bring
RETRY = 300.0  # seconds until an increase is tried again after one without a gain
CPU_IS_FULL = 0.95  # share of the CPU time of the machine
OWN_CPU = 0.25  # share of the CPU time of the machine from which the service itself counts as its cause
MOST_DOWN = 0.25  # share of the instances that may be starting or down while the number increases


class Reason(enum.Enum):
    """Why the wanted number is what it is. The value is its name in metrics and in the status."""

    BURST = "burst"  # the panic window needs more
    LOAD = "load"  # the stable window needs more
    IDLE = "idle"  # the stable window needs fewer
    BOUNDS = "bounds"  # the number was not between min and max
    STEADY = "steady"
    MISSING = "missing"  # samples are incomplete, or too few since the last change
    BACKLOG = "backlog"  # a queue of an earlier burst is becoming shorter
    MAXIMUM = "maximum"
    NOT_UP = "not_up"  # instances that were added are not up
    CPU = "cpu"  # the CPU of the machine is used up
    NO_GAIN = "no_gain"  # the last increase had no effect
    MANUAL = "manual"  # the number was set with `passerelle scale`


CHANGES = frozenset({Reason.BURST, Reason.LOAD, Reason.IDLE, Reason.BOUNDS})
"""The reasons of changes; all others keep the number."""


class Limits(NamedTuple):
    """The bounds of the number of instances, and the requests in flight that one instance should have."""

    least: int
    most: int
    target: float


class LoadSample(NamedTuple):
    """The load of a service at the time ``at``.

    ``in_flight`` is None if a worker did not reply. ``rate`` counts successful requests per second. ``machine_cpu`` and
    ``own_cpu`` are the shares of the machine's CPU time that everything, and the instances, have used; None if unknown.
    """

    at: float
    in_flight: float | None
    rate: float
    instances: int
    up: int
    machine_cpu: float | None = None
    own_cpu: float | None = None


class Decision(NamedTuple):
    """The wanted number of instances, why, and a sentence with the evidence."""

    wanted: int
    reason: Reason
    text: str


class _Step(NamedTuple):
    """An increase, with the load before it."""

    before: int
    after: int
    rate: float
    in_flight: float


class Autoscaler:
    """Decides for one service.

    Call :meth:`add` with each sample, then :meth:`decide` unless a change is being made, and :meth:`changed` when it
    is complete.
    """

    def __init__(self) -> None:
        self._samples: deque[LoadSample] = deque()
        self._since = -inf  # when the last change was complete
        self._panic_until = -inf
        self._step: _Step | None = None
        self._futile: str | None = None  # why the last increase had no effect
        self._retry_at = -inf

    def add(self, sample: LoadSample) -> None:
        """Add the latest sample."""
        if self._since == -inf:
            self._since = sample.at
        self._samples.append(sample)
        while self._samples[0].at <= sample.at - STABLE_WINDOW:
            self._samples.popleft()

    def decide(self, limits: Limits) -> Decision:
        """Return the number that is wanted after the latest sample."""
        now, number = self._samples[-1].at, self._samples[-1].instances
        if not limits.least <= number <= limits.most:
            wanted = min(max(number, limits.least), limits.most)
            return Decision(wanted, Reason.BOUNDS, f"allowed are {limits.least} to {limits.most} instances")
        window = [found for found in self._samples if found.at > self._since]
        recent = [found for found in window if found.at > now - PANIC_WINDOW]
        loads = _loads(recent)
        if len(loads) < len(recent) or len(loads) < FEWEST_SAMPLES:
            missing = "a worker did not reply" if len(loads) < len(recent) else "too few samples since the last change"
            return Decision(number, Reason.MISSING, missing)
        stable, short = _mean(_loads(window)), _mean(loads)
        capacity = number * limits.target
        if sum(loads) >= _bound(PANIC_RATIO * capacity * len(loads)):
            self._panic_until = now + STABLE_WINDOW
        panic = now < self._panic_until
        # In the short window, chance must not look like load: the counts of independent requests vary by their root.
        burst = panic and short - 2 * sqrt(short / len(loads)) > capacity * (1 + TOLERANCE)
        # The stable window has the backlog of a burst even when that is gone, so both windows must exceed the target.
        grown = len(window) >= FEWEST_STABLE and min(stable, short) > capacity * (1 + TOLERANCE)
        if burst or grown:
            demand, reason = (max(short, stable), Reason.BURST) if burst else (stable, Reason.LOAD)
            return self._increase(recent, demand, reason, limits)
        self._futile = None
        if not panic and self._is_full(window, now):
            return self._decrease(number, _upper_half(window), limits)
        return Decision(number, Reason.STEADY, _evidence(stable, number, limits))

    def changed(self, now: float, before: int, after: int) -> None:
        """Record that the number was changed from ``before`` to ``after``, and that this was complete at ``now``."""
        recent = [found for found in self._samples if found.at > max(now - PANIC_WINDOW, self._since)]
        loads = _loads(recent)
        self._since = now
        self._step = None
        if after > before and loads:
            # The highest rate: the window may begin before the load has grown.
            self._step = _Step(before, after, max(found.rate for found in recent), loads[-1])

    def _is_full(self, window: Sequence[LoadSample], now: float) -> bool:
        complete = len(_loads(window))
        return now - self._since >= STABLE_WINDOW and complete >= COMPLETE * STABLE_WINDOW

    def _decrease(self, number: int, load: float, limits: Limits) -> Decision:
        needed = max(1, ceil(load / (limits.target * (1 - TOLERANCE))))
        wanted = max(needed, limits.least, ceil(number / 2))
        reason = Reason.IDLE if wanted < number else Reason.STEADY
        return Decision(min(wanted, number), reason, _evidence(load, number, limits))

    def _increase(self, recent: Sequence[LoadSample], demand: float, reason: Reason, limits: Limits) -> Decision:
        """Decide about an increase that the load needs, unless something else is the bottleneck."""
        last = recent[-1]
        number = last.instances
        evidence = _evidence(demand, number, limits)
        if number >= limits.most:
            return Decision(number, Reason.MAXIMUM, f"{evidence}; {limits.most} is the maximum")
        down = number - last.up
        if down > MOST_DOWN * number:
            return Decision(number, Reason.NOT_UP, f"{evidence}; {down} of {number} are not up")
        machine, own = _known([s.machine_cpu for s in recent]), _known([s.own_cpu for s in recent])
        if machine >= CPU_IS_FULL and own >= OWN_CPU:
            text = f"{evidence}; the CPU of the machine is used up ({machine:.0%}, {own:.0%} by the instances)"
            return Decision(number, Reason.CPU, text)
        if self._step is not None:
            self._judge(self._step, recent)
        if self._futile is not None:
            if last.at < self._retry_at:
                return Decision(number, Reason.NO_GAIN, self._futile)
            self._futile = None
        loads = _loads(recent)
        if _mean(loads[-2:]) < 0.85 * _mean(loads[:2]):
            return Decision(number, Reason.BACKLOG, f"{evidence}; the backlog becomes shorter")
        wanted = min(max(ceil(demand / limits.target), number + 1), number * MOST_GROWTH, limits.most)
        return Decision(wanted, reason, evidence)

    def _judge(self, step: _Step, recent: Sequence[LoadSample]) -> None:
        """Compare the load after the last increase with that before it."""
        self._step = None
        rate, load = _mean([found.rate for found in recent]), _mean(_loads(recent))
        needed = 1 + MISSING_GAIN * (step.after / step.before - 1)
        # By Little's law, the time of a request is the number in flight divided by the rate.
        is_faster = rate > 0 and (step.rate == 0 or load / rate <= step.in_flight / step.rate / needed)
        if (rate > 0 and rate >= step.rate * needed) or is_faster:
            return
        self._retry_at = recent[-1].at + RETRY
        if rate == 0:
            effect = "no request succeeds"
        else:
            effect = f"{rate:.4g} requests/s at {load / rate * 1000:.3g} ms each"
            before = f"{step.rate:.4g}/s" + (f" at {step.in_flight / step.rate * 1000:.3g} ms" if step.rate else "")
            effect += f", with {step.before} it served {before}"
        self._futile = (
            f"more instances have no effect: with {step.after} instances {effect};"
            " the bottleneck is behind them or before them, such as a database"
        )


def _evidence(load: float, number: int, limits: Limits) -> str:
    return f"{load:.3g} requests in flight at {number} instance{'s' * (number != 1)}, {limits.target:g} each wanted"


def _loads(samples: Sequence[LoadSample]) -> list[float]:
    return [found.in_flight for found in samples if found.in_flight is not None]


def _upper_half(samples: Sequence[LoadSample]) -> float:
    """Return the mean load of the busier half of ``samples``, so that a load that comes and goes keeps its instances.

    Samples are taken in groups of the panic window: in single ones, chance would count as load.
    """
    loads, size = _loads(samples), int(PANIC_WINDOW)
    groups = sorted(_mean(loads[begin : begin + size]) for begin in range(0, len(loads), size))
    return _mean(groups[len(groups) // 2 :])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _known(values: Sequence[float | None]) -> float:
    """Return the mean of the known values; 0 if none is known."""
    return _mean([value for value in values if value is not None])


def _bound(count: float) -> float:
    """Return a count that one with the mean ``count`` does not reach by chance (three standard deviations)."""
    return count + 3 * sqrt(count)
