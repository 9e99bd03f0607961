"""Which backups a rule keeps: pure functions of their times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Keep:
    """The number of days, weeks and months of which the last backup is kept."""

    daily: int = 0
    weekly: int = 0
    monthly: int = 0


# Days, ISO weeks and months in UTC, where each day has 24 hours.
_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "daily": lambda time: (time.year, time.month, time.day),
    "weekly": lambda time: tuple(time.isocalendar()[:2]),
    "monthly": lambda time: (time.year, time.month),
}


def kept(times: Iterable[datetime], rule: Keep) -> set[datetime]:
    """Return which of the backups made at ``times`` the rule keeps.

    The last backup is always kept. Only days, weeks and months that have a backup count: after a gap, old backups stay
    until newer ones have taken their places.
    """
    ordered = sorted((time.astimezone(UTC) for time in times), reverse=True)
    result = set(ordered[:1])
    for name, period in _PERIODS.items():
        seen: set[tuple[int, ...]] = set()
        for time in ordered:
            if len(seen) == getattr(rule, name):
                break
            if period(time) not in seen:
                seen.add(period(time))
                result.add(time)
    return result
