"""Freshness lifetime and age of a response (RFC 9111 §4.2)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from passerelle.caching.dates import parse_date
from passerelle.caching.directives import MAX_SECONDS, Directives
from passerelle.caching.response import OriginResponse

# RFC 9110 §15.1: status codes that are heuristically cacheable. 206 is one of them but is never stored here.
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})

# RFC 9111 §4.2.2 suggests a tenth of the time since Last-Modified. The lifetime is capped at a day, so that a file last
# modified years ago is revalidated the next day.
HEURISTIC_FRACTION: Final = 0.1
HEURISTIC_CAP: Final = 86_400.0

_FIRST_NUMBER = re.compile(rb"[ \t]*([0-9]+)[ \t]*(?:,|\Z)")


class FreshnessLifetime(NamedTuple):
    """Freshness lifetime in ``seconds``; ``explicit`` if the response itself declared it (RFC 9111 §4.2)."""

    seconds: float
    explicit: bool


def response_date(response: OriginResponse) -> float:
    """Return the Date of the response, or its arrival time if Date is absent or malformed (RFC 9110 §6.6.1)."""
    value = response.get(b"date")
    date = parse_date(value, response.response_time) if value is not None else None
    return response.response_time if date is None else date


def freshness_lifetime(
    response: OriginResponse, directives: Directives, targeted: bool, heuristic: bool
) -> FreshnessLifetime:
    """Return the freshness lifetime for a shared cache (RFC 9111 §4.2.1, §4.2.2).

    The sources, in order: s-maxage, max-age, Expires, and (if ``heuristic``) a tenth of the time since Last-Modified.
    ``targeted`` is true if ``directives`` come from a targeted field, in which case Expires is ignored (RFC 9213 §2.2).
    """
    seconds = directives.seconds(b"s-maxage")
    if seconds is None:
        seconds = directives.seconds(b"max-age")
    if seconds is not None:
        return FreshnessLifetime(float(seconds), True)
    date = response_date(response)
    if not targeted:
        expires = response.get_all(b"expires")
        if expires:
            # RFC 9111 §4.2.1 and §5.3: an Expires that is malformed, or given twice with different values, has expired.
            when = parse_date(expires[0], response.response_time) if len(set(expires)) == 1 else None
            return FreshnessLifetime(0.0 if when is None else min(when - date, float(MAX_SECONDS)), True)
    if heuristic and (response.status in HEURISTIC_STATUSES or b"public" in directives):
        value = response.get(b"last-modified")
        modified = parse_date(value, response.response_time) if value is not None else None
        if modified is not None and modified < date:
            return FreshnessLifetime(min((date - modified) * HEURISTIC_FRACTION, HEURISTIC_CAP), False)
    return FreshnessLifetime(0.0, False)


def age_seconds(value: bytes) -> int | None:
    """Return the first member of an Age field in seconds, at most MAX_SECONDS; None if it is malformed."""
    match = _FIRST_NUMBER.match(value)
    if match is None:
        return None
    digits = match[1].lstrip(b"0") or b"0"
    return MAX_SECONDS if len(digits) > 10 else min(int(digits), MAX_SECONDS)


def initial_age(response: OriginResponse) -> float:
    """Return corrected_initial_age in seconds (RFC 9111 §4.2.3).

    The first member of the first Age line counts; a member that is not a number is ignored (RFC 9111 §5.1). Date has
    whole seconds, so the fraction of the arrival time does not count as age.
    """
    apparent = max(0.0, response.response_time // 1 - response_date(response))
    value = response.get(b"age")
    if value is None:
        return max(apparent, response.response_time - response.request_time)
    return max(apparent, float(age_seconds(value) or 0) + max(0.0, response.response_time - response.request_time))
