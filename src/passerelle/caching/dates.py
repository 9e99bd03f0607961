"""HTTP dates (RFC 9110 §5.6.7): parse the three accepted formats and format the preferred one."""

from __future__ import annotations

import calendar
import re
from email.utils import formatdate
from typing import Final

_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(b" "), start=1)
}
_DAY = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_LONG_DAY = rb"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"
_MONTH = rb"([a-z]{3})"
_TIME = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"

# Parsing ignores letter case: some origins get it wrong, and case never changes which date is meant. Everything else is
# strict: a value in none of these formats is an invalid date, which for Expires means "already expired" (RFC 9111
# §5.3).
_FIXDATE = re.compile(_DAY + rb", ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" gmt", re.IGNORECASE)
_RFC850 = re.compile(_LONG_DAY + rb", ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) " + _TIME + rb" gmt", re.IGNORECASE)
_ASCTIME = re.compile(_DAY + rb" " + _MONTH + rb" ([0-9]{2}| [0-9]) " + _TIME + rb" ([0-9]{4})", re.IGNORECASE)


# Responses generated within the same second share a Date, and a file's Last-Modified is the same in every response.
_REMEMBERED: Final = 512
_known: dict[bytes, float | None] = {}


def parse_date(value: bytes, now: float) -> float | None:
    """Return the date in seconds since the epoch, or None if ``value`` is not a valid HTTP date.

    ``now`` decides the century of the obsolete two-digit year: a year more than 50 years in the future is in the past
    (RFC 9110 §5.6.7).
    """
    if value in _known:
        return _known[value]
    date = _parse(value, now)
    if len(value) == 29:  # an IMF-fixdate or an invalid value: neither depends on `now`
        if len(_known) >= _REMEMBERED:
            _known.clear()
        _known[value] = date
    return date


def _parse(value: bytes, now: float) -> float | None:
    match = _FIXDATE.fullmatch(value)
    if match is not None:
        day, month, year, hour, minute, second = match.groups()
        return _timestamp(int(year), month, int(day), int(hour), int(minute), int(second))
    match = _ASCTIME.fullmatch(value)
    if match is not None:
        month, day, hour, minute, second, year = match.groups()
        return _timestamp(int(year), month, int(day), int(hour), int(minute), int(second))
    match = _RFC850.fullmatch(value)
    if match is None:
        return None
    day, month, year, hour, minute, second = match.groups()
    this_year = 1970 + int(now // 31_556_952)
    full = this_year - this_year % 100 + int(year)
    if full > this_year + 50:
        full -= 100
    return _timestamp(full, month, int(day), int(hour), int(minute), int(second))


def _timestamp(year: int, month_name: bytes, day: int, hour: int, minute: int, second: int) -> float | None:
    month = _MONTHS.get(month_name.lower())
    if month is None or year < 1900 or hour > 23 or minute > 59 or second > 60:
        return None
    if not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


def format_date(when: float) -> bytes:
    """Format ``when`` (seconds since the epoch) as an IMF-fixdate, the format that senders must use."""
    return formatdate(when, usegmt=True).encode("ascii")
