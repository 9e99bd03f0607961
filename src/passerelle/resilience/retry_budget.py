"""When and how soon to try again: budget, back-off, ``Retry-After``.

A retry helps against a failure of one instance and hurts in a failure of all: with ``n`` attempts each, a service in
trouble gets ``n`` times its load just then. So retries have a budget in proportion to requests, and wait a random time.
Whether a request *may* be repeated at all (method, replayable body, nothing sent) is for whoever sends it.
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from collections.abc import Callable

from passerelle.resilience.sliding_window import SlidingWindow


class RetryBudget:
    """Retries of the last ``window`` seconds (5) are at most ``ratio`` (20 %) of its requests, or ``floor`` a second.

    The floor (3) lets services with little traffic retry at all. Worst case on a service that fails for everybody:
    1.2 times its load over any window, all of it perhaps in the window's first second (twice the load, with 5 s): in
    simulation a window of 10 s prolongs an overload and one of 2 s does no better than 5 (``docs/reference``).
    One for each service and worker; ``now`` in seconds.
    """

    __slots__ = ("_floor", "_ratio", "_window")

    def __init__(self, ratio: float = 0.2, floor: float = 3.0, window: float = 5.0) -> None:
        """Raises ValueError for a negative ratio or floor, or a window that is not positive."""
        if ratio < 0 or floor < 0:
            raise ValueError("a retry budget is not negative")
        self._ratio = ratio
        self._floor = floor * window
        self._window = SlidingWindow(window)

    def record_requests(self, now: float, number: int = 1) -> None:
        """Count a request (its first attempt), or several that came since the last call."""
        self._window.add(now, first=number)

    def withdraw(self, now: float, part: float = 1.0) -> bool:
        """Count a retry if ``part`` of the budget allows it; False if it does not."""
        window = self._window
        window.advance(now)
        if window.second + 1 > part * max(self._ratio * window.first, self._floor):
            return False
        window.add(now, second=1)
        return True

    @property
    def available(self) -> int:
        """Retries that could be made at once, as of the last call."""
        return max(0, int(max(self._ratio * self._window.first, self._floor)) - self._window.second)


def backoff(
    attempt: int,
    random: Callable[[], float],
    *,
    left: float,
    retry_after: float | None = None,
    base: float = 0.025,
    most: float = 1.0,
) -> float | None:
    """Seconds to wait before the retry after ``attempt`` (1 was the first), or None: no time is left to try.

    Full jitter: uniform between 0 and ``base * 2 ** (attempt - 1)``, that at most ``most``. ``left`` is the time until
    the route's deadline. ``retry_after`` is what the instance that is to be tried again asked for, and comes on top;
    another instance did not ask for anything.
    """
    ceiling = min(most, base * 2.0 ** min(attempt - 1, 32))
    wait = random() * ceiling
    if retry_after is not None:
        wait += retry_after  # jittered too, or all clients that were told the same time come back together
    return wait if wait < left else None


# RFC 9110 §5.6.7: IMF-fixdate, and the two obsolete forms that must be accepted.
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_CLOCK = rb"(?P<time>\d\d:\d\d:\d\d)"
_DATES = (
    re.compile(_DAY + rb", (?P<day>\d\d) (?P<month>\w{3}) (?P<year>\d{4}) " + _CLOCK + rb" GMT"),
    re.compile(_LONG_DAY + rb", (?P<day>\d\d)-(?P<month>\w{3})-(?P<year>\d\d) " + _CLOCK + rb" GMT"),
    re.compile(_DAY + rb" (?P<month>\w{3}) (?P<day>[ \d]\d) " + _CLOCK + rb" (?P<year>\d{4})"),
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_TIME = re.compile(rb"([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)")


def parse_date(value: bytes, now: float) -> int | None:
    """An HTTP-date (RFC 9110 §5.6.7) as seconds since 1970, or None. ``now`` (same unit) places two-digit years."""
    match = next((found for form in _DATES if (found := form.fullmatch(value))), None)
    if match is None or match["month"] not in _MONTHS:
        return None
    time = _TIME.fullmatch(match["time"])
    month = _MONTHS.index(match["month"]) + 1
    year = int(match["year"])
    if len(match["year"]) == 2:
        # the latest such year that is not more than 50 years ahead
        this_year = 1970 + int(now // 31_556_952)
        year += (this_year + 50 - year) // 100 * 100
    day = int(match["day"])
    if time is None or year < 1 or not 1 <= day <= monthrange(year, month)[1]:
        return None
    return timegm((year, month, day, *(int(part) for part in time.groups())))


def retry_after(value: bytes, now: float, most: float = 60.0) -> float | None:
    """Seconds to wait by a ``Retry-After`` field value (RFC 9110 §10.2.3), 0 to ``most``; None if it is malformed.

    ``now`` is seconds since 1970, for the form that is a date. A date in the past is 0.
    """
    if value.isdigit():
        # more digits than any sensible number has: int() would take quadratic time
        return min(float(value), most) if len(value) <= 10 else most
    date = parse_date(value, now)
    return None if date is None else min(max(0.0, date - now), most)
