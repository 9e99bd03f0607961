"""When a certificate is renewed, and when a failed order is tried again. All times are in seconds since 1970."""

from __future__ import annotations

import random
import zlib
from typing import Final, NamedTuple

FIRST_PAUSE: Final = 120.0
"""Seconds after the first failure. With a factor of 3, an hour has at most four orders: Let's Encrypt allows five
failed validations of a name in an hour.
"""
LONGEST_PAUSE: Final = 86_400.0
LONGEST_WAIT: Final = 7 * 86_400.0
"""The longest ``Retry-After`` that is followed."""


class Attempt(NamedTuple):
    """What is known about the orders for one name.

    ``directory`` is that of the certificate in use, empty without one. ``failures`` are those since then; ``error`` is
    the last one. No order is made before ``next_at``.
    """

    directory: str = ""
    failures: int = 0
    next_at: float = 0.0
    error: str = ""


def renewal_time(name: str, start: float, end: float) -> float:
    """Return when the certificate of ``name``, which is valid from ``start`` until ``end``, is to be renewed.

    A third of the lifetime is left then. Certificates of one day are spread over a thirtieth of it before, by name, so
    that all gateways find the same time.
    """
    lifetime = end - start
    return end - lifetime / 3 - lifetime / 30 * (zlib.crc32(name.encode()) % 1000) / 1000


def pause(failures: int, retry_after: float | None, rng: random.Random) -> float:
    """Return the seconds until the next order after ``failures`` in a row, with jitter of a quarter.

    The authority's ``retry_after`` (seconds) is the least.
    """
    wait = min(FIRST_PAUSE * 3.0 ** min(failures - 1, 20), LONGEST_PAUSE) * rng.uniform(0.75, 1.25)
    return max(wait, min(retry_after or 0.0, LONGEST_WAIT) * rng.uniform(1.0, 1.05))
