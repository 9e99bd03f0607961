"""How long a response is fresh and how old it is (RFC 9111 §4.2)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from passerelle.caching.dates import parse_date
from passerelle.caching.directives import MAX_SECONDS, Directives
from passerelle.caching.response import OriginResponse

# RFC 9110 §15.1: status codes that are cacheable without a word from the origin; 206 is not stored here.
HEURISTIC_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})

# RFC 9111 §4.2.2 suggests a tenth of the time since Last-Modified; a day at most, so that a file of years ago is
# looked at again tomorrow.
HEURISTIC_FRACTION: Final = 0.1
HEURISTIC_CAP: Final = 86_400.0

_FIRST_NUMBER = re.compile(rb"[ \t]*([0-9]+)[ \t]*(?:,|\Z)")


class FreshnessLifetime(NamedTuple):
    """``seconds`` of freshness; ``explicit`` when the response itself said so (RFC 9111 §4.2)."""

    seconds: float
    explicit: bool


def response_date(response: OriginResponse) -> float:
    """The Date of the response, or when it arrived if it has none or a malformed one (RFC 9110 §6.6.1)."""
    value = response.get(b"date")
    date = parse_date(value, response.response_time) if value is not None else None
    return response.response_time if date is None else date


def freshness_lifetime(
    response: OriginResponse, directives: Directives, targeted: bool, heuristic: bool
) -> FreshnessLifetime:
    """The freshness lifetime for a shared cache (RFC 9111 §4.2.1, §4.2.2).

    s-maxage, then max-age, then Expires, then (if ``heuristic``) a tenth of the time since Last-Modified. ``targeted``
    tells that ``directives`` come from a targeted field, beside which Expires does not count (RFC 9213 §2.2).
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
            # RFC 9111 §4.2.1 and §5.3: malformed, or given twice with different values, is already expired.
            when = parse_date(expires[0], response.response_time) if len(set(expires)) == 1 else None
            return FreshnessLifetime(0.0 if when is None else min(when - date, float(MAX_SECONDS)), True)
    if heuristic and (response.status in HEURISTIC_STATUSES or b"public" in directives):
        value = response.get(b"last-modified")
        modified = parse_date(value, response.response_time) if value is not None else None
        if modified is not None and modified < date:
            return FreshnessLifetime(min((date - modified) * HEURISTIC_FRACTION, HEURISTIC_CAP), False)
    return FreshnessLifetime(0.0, False)


def initial_age(response: OriginResponse) -> float:
    """corrected_initial_age in seconds (RFC 9111 §4.2.3).

    Age is the first member of its first line; one that is no number is ignored (RFC 9111 §5.1). Date has whole
    seconds, so what is left of the arrival's second is not taken for age.
    """
    apparent = max(0.0, response.response_time // 1 - response_date(response))
    value = response.get(b"age")
    if value is None:
        return max(apparent, response.response_time - response.request_time)
    match = _FIRST_NUMBER.match(value)
    digits = match[1].lstrip(b"0") if match is not None else b""
    age = float(MAX_SECONDS if len(digits) > 10 else min(int(digits or b"0"), MAX_SECONDS))
    return max(apparent, age + max(0.0, response.response_time - response.request_time))
