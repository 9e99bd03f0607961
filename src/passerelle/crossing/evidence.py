"""Evidence that the new side of a split is worse than the old one, valid however often one looks at it.

Each bad event (a failed or a slow request) is of one side. If the new side is no worse, and has the share ``theta`` of
the requests, an event is the new side's with a probability of at most ``theta``. The alternative is that the new side
has ``k`` times the rate of bad events. The likelihood ratio, mixed over several ``k``, is a non-negative martingale
under "no worse", so it exceeds ``1 / alpha`` at any time with a probability of at most ``alpha`` (Ville's inequality).
This is the mixture sequential probability ratio test for counts: Lindon, Sanden and Shirikian, "Rapid Regression
Detection in Software Deployments through Sequential Testing", KDD 2022, arXiv 2205.14762. Its state is two integers.

The events must be independent: count one event per user and minute, because one user in a retry loop causes many.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Final

_FACTORS: Final = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How many times the rate of the old side the alternatives assume; equal weights."""


@dataclass(slots=True)
class Counts:
    """Bad events since the share of the new side was last changed."""

    old: int = 0
    new: int = 0


def log_evidence(counts: Counts, theta: float) -> float:
    """Return the natural logarithm of the evidence that the new side is worse.

    ``theta`` is the new side's share of the requests. Without requests on both sides there is no evidence, and the
    result is 0.
    """
    if not 0.0 < theta < 1.0:
        return 0.0
    ratios = []
    for factor in _FACTORS:
        # The probability that an event is the new side's if its rate is `factor` times that of the old side.
        wrong = factor * theta / (1.0 - theta + factor * theta)
        ratios.append(counts.new * log(wrong / theta) + counts.old * log((1.0 - wrong) / (1.0 - theta)))
    highest = max(ratios)
    return highest + log(sum(exp(ratio - highest) for ratio in ratios) / len(ratios))


def is_worse(counts: Counts, theta: float, alpha: float) -> bool:
    """Return whether the new side is worse; wrong with a probability of at most ``alpha``, whenever one looks."""
    return log_evidence(counts, theta) > -log(alpha)


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of a rate: the Wilson score interval, 95 % two-sided by default.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927. Without trials
    the rate is unknown: 0 to 1.
    """
    if trials <= 0:
        return 0.0, 1.0
    rate = hits / trials
    square = z * z
    middle = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * sqrt(rate * (1 - rate) / trials + square / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


class FirstPerUser:
    """Finds the first bad event of each user in each minute, in bounded memory.

    One object serves both sides, so that its bounds take from both alike. ``most`` bounds the users of a minute, and
    ``per_address`` those of one address: a client may invent any number of cookies.
    """

    __slots__ = ("_addresses", "_minute", "_most", "_per_address", "_users")

    def __init__(self, most: int = 10_000, per_address: int = 100) -> None:
        self._most = most
        self._per_address = per_address
        self._minute = -1
        self._users: set[bytes] = set()
        self._addresses: dict[bytes, int] = {}

    def is_first(self, user: bytes, now: float, address: bytes = b"") -> bool:
        """Return whether the event of ``user`` at ``now`` (seconds) counts. Beyond the bounds, none counts.

        ``address`` is that of the client, or empty where it is not known.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._users.clear()
            self._addresses.clear()
        seen = self._addresses.get(address, 0)
        if user in self._users or len(self._users) >= self._most or (address and seen >= self._per_address):
            return False
        self._users.add(user)
        self._addresses[address] = seen + 1
        return True


class SlowThreshold:
    """The time from which a request counts as slow: a multiple of the old side's median.

    The median is that of the first ``sample`` requests of the old side after each start; then the threshold is fixed,
    so that all events are judged by the same one.
    """

    __slots__ = ("_factor", "_sample", "_seen", "seconds")

    def __init__(self, factor: float = 1.5, sample: int = 100) -> None:
        self._factor = factor
        self._sample = sample
        self._seen: list[float] = []
        self.seconds = inf

    def is_slow(self, seconds: float, *, of_old: bool) -> bool:
        """Return whether a request that took ``seconds`` counts as slow; none does before the threshold is known."""
        if self.seconds != inf:
            return seconds > self.seconds
        if of_old:
            self._seen.append(seconds)
            if len(self._seen) >= self._sample:
                self.seconds = self._factor * sorted(self._seen)[len(self._seen) // 2]
                self._seen.clear()
        return False
