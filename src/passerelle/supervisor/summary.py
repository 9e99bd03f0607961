"""What several workers know of one service, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any


def combined_status(told: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What workers say of one service, as one: how many have its breaker in which state, the sum of their limits."""
    breaker: Counter[str] = Counter()
    concurrency: Counter[str] = Counter()
    for each in told:
        if each["breaker"] is not None:
            breaker[each["breaker"]] += 1
        concurrency.update(each["concurrency"] or {})
    return {"breaker": dict(breaker) or None, "concurrency": dict(concurrency) or None}
