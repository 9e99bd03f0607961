"""The Universal Scalability Law (Gunther, *Guerrilla Capacity Planning*, 2007) fitted to measurements.

X(N) = λN / (1 + σ(N - 1) + κN(N - 1)): throughput X at N requests in flight. λ is the throughput without contention, σ
the share of the work that cannot run in parallel, κ the cost of each pair of requests for each other. By Little's law
N/X is the time of a request, which is linear in 1/λ, σ/λ and κ/λ: the fit is a linear least squares problem in relative
errors, with the bounds σ, κ >= 0. It has one solution and needs no start values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import ceil, inf, sqrt
from typing import NamedTuple

LEAST_SPAN = 4.0  # highest concurrency divided by the lowest
FEWEST_POINTS = 4
WIDEST_INTERVAL = 1.6  # upper bound of the peak divided by the lower one
_RESAMPLES = 200
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
    """The law, the peak throughput and the throughput at the knee."""

    law: Law
    peak: Interval
    comfortable: Interval

    def instances_for(self, rate: float, instances: int) -> Interval:
        """Return how many instances serve ``rate`` requests per second at the knee.

        ``instances`` were measured. The result assumes that capacity is proportional to their number.
        """
        low, high = self.comfortable.high, self.comfortable.low
        return Interval(*(float(ceil(instances * rate / each - 1e-9)) for each in (self.comfortable.value, low, high)))


def capacity(points: Sequence[Point], seed: int = 0) -> Capacity:
    """Fit the law to ``points``.

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
    if law.peak == inf:
        raise Undetermined("the throughput rises in proportion to the concurrency: no limit is in sight")
    # With n points and three parameters, residuals are too small by the square root of (n - 3) / n.
    scale = sqrt(len(points) / max(1, len(points) - 3))
    errors = [(p.throughput / law.throughput(p.concurrency) - 1) * scale for p in points]
    rng = random.Random(seed)
    peaks, knees = [], []
    for _ in range(_RESAMPLES):
        drawn = [
            Point(p.concurrency, law.throughput(p.concurrency) * max(0.05, 1 + rng.choice(errors))) for p in points
        ]
        other = fit(drawn)
        peaks.append(other.peak)
        knees.append(other.throughput(other.knee) if other.knee < inf else inf)
    peak = _interval(law.peak, peaks)
    if peak.high > WIDEST_INTERVAL * peak.low:
        raise Undetermined(
            f"the points leave the peak open: it is from {peak.low:.4g} to {peak.high:.4g} requests/s;"
            " measure longer, or at higher concurrencies"
        )
    return Capacity(law, peak, _interval(law.throughput(law.knee), knees))


def _interval(value: float, values: list[float]) -> Interval:
    values = sorted(values)
    last = len(values) - 1
    return Interval(value, min(value, values[round(_TAIL * last)]), max(value, values[round((1 - _TAIL) * last)]))


def fit(points: Sequence[Point]) -> Law:
    """Return the law with the least squares of relative errors. At least two different concurrencies are needed."""
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
