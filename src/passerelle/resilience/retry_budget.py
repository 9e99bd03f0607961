"""Limits and delays of retries: budget, backoff, ``Retry-After``.

Retries help when one instance fails, and do harm when all instances fail: with ``n`` attempts per request, a failing
service gets ``n`` times its load. So retries have a budget in proportion to the requests, and wait for a random time.
The caller decides whether a request *may* be repeated (method, replayable body, nothing sent).
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from collections.abc import Callable

from passerelle.resilience.sliding_window import SlidingWindow


class RetryBudget:
    """A limit of retries: in the last ``window`` seconds (5) ``ratio`` (20 %) of the requests, or ``floor`` a second.

    The floor (3) allows retries to services with little traffic. In the worst case, when all requests to a service
    fail, the load over any window is 1.2 times that without retries. The retries may all fall in the first second of
    the window, which doubles the load of that second with a window of 5 s. In simulation, a window of 10 s prolongs an
    overload, and one of 2 s is no better than one of 5 s (``docs/reference``).

    There is one budget for each service and worker. ``now`` is in seconds.
    """

    __slots__ = ("_floor", "_ratio", "_window")

    def __init__(self, ratio: float = 0.2, floor: float = 3.0, window: float = 5.0) -> None:
        """Raises ValueError if the ratio or the floor is negative, or the window is not positive."""
        if ratio < 0 or floor < 0:
            raise ValueError("a retry budget is not negative")
        self._ratio = ratio
        self._floor = floor * window
        self._window = SlidingWindow(window)

    def record_requests(self, now: float, number: int = 1) -> None:
        """Count ``number`` new requests (their first attempts)."""
        self._window.add(now, first=number)

    def withdraw(self, now: float, part: float = 1.0) -> bool:
        """Count a retry if ``part`` of the budget allows it; otherwise return False."""
        window = self._window
        window.advance(now)
        if window.second + 1 > part * max(self._ratio * window.first, self._floor):
            return False
        window.add(now, second=1)
        return True

    @property
    def available(self) -> int:
        """The number of retries left in the budget, as of the last call."""
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
    """Return the delay in seconds before the retry after ``attempt`` (from 1), or None if not enough time is left.

    The delay has full jitter: it is uniform between 0 and ``base * 2 ** (attempt - 1)``, at most ``most``. ``left`` is
    the time until the deadline of the route. ``retry_after`` is the Retry-After of the instance that the retry goes to,
    and is added; it does not apply to other instances.
    """
    ceiling = min(most, base * 2.0 ** min(attempt - 1, 32))
    wait = random() * ceiling
    if retry_after is not None:
        wait += retry_after  # with jitter too, so that requests with the same Retry-After do not all come back at once
    return wait if wait < left else None


# RFC 9110 §5.6.7: IMF-fixdate, and the two obsolete formats, which must be accepted.
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
    """Parse an HTTP-date (RFC 9110 §5.6.7) to seconds since 1970; None if malformed.

    ``now``, in the same unit, decides the century of two-digit years.
    """
    match = next((found for form in _DATES if (found := form.fullmatch(value))), None)
    if match is None or match["month"] not in _MONTHS:
        return None
    time = _TIME.fullmatch(match["time"])
    month = _MONTHS.index(match["month"]) + 1
    year = int(match["year"])
    if len(match["year"]) == 2:
        # the latest year with these digits that is at most 50 years ahead
        this_year = 1970 + int(now // 31_556_952)
        year += (this_year + 50 - year) // 100 * 100
    day = int(match["day"])
    if time is None or year < 1 or not 1 <= day <= monthrange(year, month)[1]:
        return None
    return timegm((year, month, day, *(int(part) for part in time.groups())))


def retry_after(value: bytes, now: float, most: float = 60.0) -> float | None:
    """Parse a ``Retry-After`` field value (RFC 9110 §10.2.3) to seconds, 0 to ``most``; None if malformed.

    ``now`` is in seconds since 1970, for values that are dates. A date in the past is 0.
    """
    if value.isdigit():
        # a number with more digits is over `most` anyway, and parsing it would take quadratic time
        return min(float(value), most) if len(value) <= 10 else most
    date = parse_date(value, now)
    return None if date is None else min(max(0.0, date - now), most)
