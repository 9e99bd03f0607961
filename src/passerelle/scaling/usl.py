"""The Universal Scalability Law (Gunther, *Guerrilla Capacity Planning*, 2007) fitted to measurements.

X(N) = λN / (1 + σ(N - 1) + κN(N - 1)): throughput X at N requests in flight. λ is the throughput without contention, σ
the share of the work that cannot run in parallel, κ the cost of each pair of requests for each other. By Little's law
N/X is the time of a request, which is linear in 1/λ, σ/λ and κ/λ: the fit is a linear least squares problem in relative
errors, with the bounds σ, κ >= 0. It has one solution and needs no start values.

The law knows nothing of the number of CPUs. Where the CPU time of a request is known, so is the throughput at which all
CPUs are busy, and the fit is bounded by it as well: see :func:`cpu_limit`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import NamedTuple

LEAST_SPAN = 4.0  # highest concurrency divided by the lowest
FEWEST_POINTS = 4
WIDEST_INTERVAL = 1.6  # upper bound of the peak divided by the lower one
LEAST_BUSY = 0.25  # part of the CPUs that the busiest measurement must use for a limit by the CPUs
_RESAMPLES = 200
_FARTHEST, _STEP = 50.0, 1.08  # how far beyond the points a peak is looked for, and in what steps
_TAIL = 0.05  # on each side: an interval of 90 %


class Point(NamedTuple):
    """A measurement: mean number of requests in flight, and requests per second."""

    concurrency: float
    throughput: float


class Undetermined(Exception):
    """The points do not determine the law; the message states what is missing."""


class Interval(NamedTuple):
    """A value, and the interval that contains it with 90 % confidence."""

    value: float
    low: float
    high: float


class Law(NamedTuple):
    """The parameters λ (requests per second), σ and κ."""

    rate: float
    contention: float
    coherency: float

    def throughput(self, concurrency: float) -> float:
        """Return the requests per second at ``concurrency`` requests in flight."""
        n = concurrency
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def peak_concurrency(self) -> float:
        """The concurrency of the highest throughput; infinite if the throughput only approaches a limit."""
        if self.contention >= 1:
            return 1.0
        return sqrt((1 - self.contention) / self.coherency) if self.coherency > 0 else inf

    @property
    def peak(self) -> float:
        """The highest throughput, or the limit that it approaches; infinite if there is none."""
        if (at := self.peak_concurrency) < inf:
            return self.throughput(at)
        return self.rate / self.contention if self.contention > 0 else inf

    @property
    def knee(self) -> float:
        """The concurrency with the most throughput for the time of a request (the highest X²/N; Kleinrock, 1979)."""
        free, slope, square = 1 - self.contention, self.contention - self.coherency, 3 * self.coherency
        if free <= 0:
            return 1.0
        if square > 0:
            return max(1.0, (sqrt(slope * slope + 4 * square * free) - slope) / (2 * square))
        return max(1.0, free / slope) if slope > 0 else inf


class Capacity(NamedTuple):
    """The law, the peak throughput and the throughput at the knee.

    ``by_cpus`` is true if the points alone leave a higher peak possible than the CPUs.
    """

    law: Law
    peak: Interval
    comfortable: Interval
    by_cpus: bool = False

    def instances_for(self, rate: float, instances: int) -> Interval:
        """Return how many instances serve ``rate`` requests per second at the knee.

        ``instances`` were measured. The result assumes that capacity is proportional to their number.
        """
        low, high = self.comfortable.high, self.comfortable.low
        return Interval(*(float(ceil(instances * rate / each - 1e-9)) for each in (self.comfortable.value, low, high)))


class CpuUse(NamedTuple):
    """A measurement: requests per second, and the mean number of CPUs that were busy meanwhile."""

    throughput: float
    cpus: float


def cpu_limit(uses: Sequence[CpuUse], cpus: int, seed: int = 0) -> Interval | None:
    """Return the throughput at which all ``cpus`` are busy (the utilisation law); None if ``uses`` do not show it.

    The use is a line: a part that does not depend on requests, and the CPU time of a request. Since that time falls a
    little as the load grows, only measurements with at least half of the highest throughput are part of the fit, or the
    four highest. The interval of 90 % comes from a bootstrap of the residuals.
    """
    uses = sorted(uses, reverse=True)
    if len(uses) < FEWEST_POINTS or max(use.cpus for use in uses) < LEAST_BUSY * cpus:
        return None
    uses = [use for place, use in enumerate(uses) if place < FEWEST_POINTS or use.throughput >= uses[0].throughput / 2]
    found = _line(uses)
    if found is None:
        return None
    fixed, each = found
    errors = [use.cpus - fixed - each * use.throughput for use in uses]
    rng = random.Random(seed)
    limits = []
    for _ in range(_RESAMPLES):
        drawn = [CpuUse(use.throughput, fixed + each * use.throughput + rng.choice(errors)) for use in uses]
        if (other := _line(drawn)) is None:
            return None
        limits.append((cpus - other[0]) / other[1])
    return _interval((cpus - fixed) / each, limits)


def _line(uses: Sequence[CpuUse]) -> tuple[float, float] | None:
    """Return the CPUs without requests (at least 0) and the CPU seconds of a request, by least squares."""
    count = len(uses)
    mean_rate, mean_cpus = sum(use.throughput for use in uses) / count, sum(use.cpus for use in uses) / count
    spread = sum((use.throughput - mean_rate) ** 2 for use in uses)
    each = sum((use.throughput - mean_rate) * (use.cpus - mean_cpus) for use in uses) / spread if spread else 0.0
    fixed = mean_cpus - each * mean_rate
    if fixed < 0:
        fixed = 0.0
        each = sum(use.throughput * use.cpus for use in uses) / sum(use.throughput**2 for use in uses)
    return (fixed, each) if each > 0 else None


def capacity(points: Sequence[Point], seed: int = 0, limit: Interval | None = None) -> Capacity:
    """Fit the law to ``points``. ``limit`` is the throughput that the CPUs allow, if it is known.

    The intervals come from a bootstrap of the residuals, which is the same for the same ``seed``.

    :raises Undetermined: if the points are too few, span too little, or leave the peak open.
    """
    points = [point for point in points if point.concurrency > 0 and point.throughput > 0]
    if len({point.concurrency for point in points}) < FEWEST_POINTS:
        raise Undetermined(f"{len(points)} points are too few; the law needs {FEWEST_POINTS} different concurrencies")
    lowest, highest = min(points).concurrency, max(points).concurrency
    if highest < LEAST_SPAN * lowest:
        raise Undetermined(
            f"the concurrency spans a factor of {highest / lowest:.3g}, from {lowest:.3g} to {highest:.3g};"
            f" the law needs {LEAST_SPAN:g}"
        )
    law = fit(points)
    best = max(point.throughput for point in points)
    by_cpus = limit is not None and law.peak > limit.value
    if limit is not None and by_cpus:
        if limit.high > WIDEST_INTERVAL * best:
            raise Undetermined(
                f"the points show no limit below that of the CPUs, {limit.value:.4g} requests/s, and reach"
                f" {best:.4g} requests/s: something else may be the limit before; measure at higher concurrencies"
            )
        law = fit(points, max(best, limit.value))
    elif law.peak == inf:
        raise Undetermined("the throughput rises in proportion to the concurrency: no limit is in sight")
    # With n points and three parameters, residuals are too small by the square root of (n - 3) / n.
    scale = sqrt(len(points) / max(1, len(points) - 3))
    errors = [(p.throughput / law.throughput(p.concurrency) - 1) * scale for p in points]
    rng, of_limit = random.Random(seed), random.Random(seed)
    peaks, knees = [], []
    for _ in range(_RESAMPLES):
        drawn = [
            Point(p.concurrency, law.throughput(p.concurrency) * max(0.05, 1 + rng.choice(errors))) for p in points
        ]
        bound = max(best, of_limit.triangular(limit.low, limit.high, limit.value)) if limit is not None else inf
        other = fit(drawn, bound)
        peaks.append(other.peak)
        knees.append(other.throughput(other.knee) if other.knee < inf else inf)
    peak = _interval(law.peak, peaks)
    if by_cpus:  # what the CPUs allow is reached only if nothing else is the limit before
        peak = peak._replace(low=min(peak.low, best))
    if peak.high > WIDEST_INTERVAL * peak.low:
        raise Undetermined(
            f"the points leave the peak open: it is from {peak.low:.4g} to {peak.high:.4g} requests/s;"
            " measure longer, or at higher concurrencies"
        )
    return Capacity(law, peak, _interval(law.throughput(law.knee), knees), by_cpus)


def _interval(value: float, values: list[float]) -> Interval:
    values = sorted(values)
    last = len(values) - 1
    return Interval(value, min(value, values[round(_TAIL * last)]), max(value, values[round((1 - _TAIL) * last)]))


def fit(points: Sequence[Point], limit: float = inf) -> Law:
    """Return the law with the least squares of relative errors, whose peak is at most ``limit``.

    At least two different concurrencies are needed.
    """
    best, least = Law(1.0, 0.0, 0.0), inf
    # With two bounded parameters, the best solution within the bounds is that of one of four problems without bounds.
    for columns in ((0, 1, 2), (0, 1), (0, 2), (0,)):
        found = _solve(points, columns)
        if found is None or found[0] <= 0 or min(found[1:]) < 0:
            continue
        law = Law(1 / found[0], found[1] / found[0], found[2] / found[0])
        error = sum((_time(found, p.concurrency) * p.throughput / p.concurrency - 1) ** 2 for p in points)
        if error < least - 1e-15:
            best, least = law, error
    return best if best.peak <= limit else _fit_to_limit(points, limit)


def _fit_to_limit(points: Sequence[Point], limit: float) -> Law:
    """Return the best law among those whose peak is ``limit``.

    With the peak L at N = m, the time of a request is N/L + c(N - m)²: for each m, one parameter is to be found, in the
    bounds 0 <= c <= 1/(L(2m - 1)), from which σ, κ >= 0 follow.
    """
    best, least = Law(limit, 1.0, 0.0), inf
    highest = max(point.concurrency for point in points)
    at = 1.0
    while at < _FARTHEST * highest:
        rows = [((n - at) ** 2 * x / n, 1 - x / limit) for n, x in points]
        squares = sum(a * a for a, _ in rows)
        most = 1 / (limit * (2 * at - 1))
        c = min(most, max(0.0, sum(a * b for a, b in rows) / squares)) if squares else 0.0
        error = sum((c * a - b) ** 2 for a, b in rows)
        if error < least:
            rate = 1 / (1 / limit + c * (at - 1) ** 2)
            best, least = Law(rate, max(0.0, 1 / limit - c * (2 * at - 1)) * rate, c * rate), error
        at *= _STEP
    return best


def _time(parameters: Sequence[float], n: float) -> float:
    return parameters[0] + parameters[1] * (n - 1) + parameters[2] * n * (n - 1)


def _solve(points: Sequence[Point], columns: tuple[int, ...]) -> list[float] | None:
    """Solve the weighted normal equations with only the parameters ``columns``; None if they are singular."""
    size = len(columns)
    matrix = [[0.0] * (size + 1) for _ in range(size)]
    for n, rate in points:
        weight = rate / n  # divides the time of a request by itself
        terms = (weight, (n - 1) * weight, n * (n - 1) * weight)
        row = [terms[column] for column in columns]
        for i in range(size):
            for j in range(size):
                matrix[i][j] += row[i] * row[j]
            matrix[i][size] += row[i]
    for i in range(size):  # elimination with the largest pivot
        pivot = max(range(i, size), key=lambda r: abs(matrix[r][i]))
        if abs(matrix[pivot][i]) < 1e-12 * max(1.0, *(abs(v) for v in matrix[pivot])):
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for r in range(size):
            if r != i:
                factor = matrix[r][i] / matrix[i][i]
                matrix[r] = [a - factor * b for a, b in zip(matrix[r], matrix[i], strict=True)]
    result = [0.0, 0.0, 0.0]
    for i, column in enumerate(columns):
        result[column] = matrix[i][size] / matrix[i][i]
    return result
