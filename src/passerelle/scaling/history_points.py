"""Points for the Universal Scalability Law from what a running system has served: pure functions over its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log
from typing import Any, NamedTuple

from passerelle.scaling.usl import Point, Undetermined

MOST_ERRORS = 0.01  # share of the requests of a second; seconds with more are left out
STEP = 1.25  # seconds whose concurrencies differ by less than this factor become one point
FEWEST_SECONDS = 5  # of a point: one second is too short for a mean


class HistoryPoints(NamedTuple):
    """The points; how many ``seconds`` they are made of, and how many ``instances`` there were in each of them."""

    points: list[Point]
    seconds: int
    instances: int


def history_points(service: Mapping[str, Any]) -> HistoryPoints:
    """Return the points of a service in ``/history``: mean concurrency and throughput of seconds that are alike.

    Only seconds with the same number of instances as the last one count; the others describe another system.

    :raises Undetermined: if no second counts.
    """
    number = len(service.get("up", ()))
    columns = [_column(service.get(key), number) for key in ("occupied", "requests", "errors", "up")]
    seconds = [second for second in zip(*columns, strict=True) if second[3]]
    if not seconds:
        raise Undetermined("the history has no second in which an instance was up")
    instances = seconds[-1][3]
    groups: dict[int, list[Point]] = {}
    for concurrency, requests, errors, up in seconds:
        if up == instances and concurrency > 0 and requests > 0 and errors <= MOST_ERRORS * requests:
            groups.setdefault(floor(log(concurrency, STEP)), []).append(Point(concurrency, requests - errors))
    kept = [group for _, group in sorted(groups.items()) if len(group) >= FEWEST_SECONDS]
    if not kept:
        raise Undetermined(
            f"no concurrency lasted for {FEWEST_SECONDS} seconds without errors with {instances:g} instances"
        )
    return HistoryPoints([_mean(group) for group in kept], sum(map(len, kept)), round(instances))


def _column(values: Sequence[float | None] | None, number: int) -> list[float]:
    """Return ``number`` values of the history; a value that is absent is 0."""
    return [value or 0.0 for value in values] if values else [0.0] * number


def _mean(group: Sequence[Point]) -> Point:
    return Point(*(sum(values) / len(group) for values in zip(*group, strict=True)))
