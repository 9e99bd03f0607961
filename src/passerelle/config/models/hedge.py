"""Hedged requests: a second attempt at another instance."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Model, Takes
from passerelle.config.models.units import parse_duration
from passerelle.config.reading.wording import describe

_PERCENTILE = re.compile(r"p(\d{2}(?:\.\d{1,2})?)", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile of the latency: the value that ``percent`` % of the responses do not exceed."""

    percent: float

    def __str__(self) -> str:
        return f"p{self.percent:g}"


def parse_after(found: object) -> object:
    """Parse a duration, or a percentile of the latency of the route such as ``p95``."""
    if isinstance(found, Percentile):
        return found
    if isinstance(found, str) and found.startswith("p"):
        match = _PERCENTILE(found)
        if match is None or float(match[1]) < 50:
            raise ValueError(f"found {describe(found)}; allowed is a percentile from p50 to p99.99, or a duration")
        return Percentile(float(match[1]))
    return parse_duration(found)


After = Annotated[
    float | Percentile,
    BeforeValidator(parse_after),
    WithJsonSchema(
        {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h)|p\d\d(\.\d+)?)$", "examples": ["100ms", "p95"]}
    ),
    Takes("duration, or a percentile"),
]


class Hedge(Model):
    """When a `GET` or `HEAD` is also sent to a second instance. The first response is used."""

    after: After = Field(
        description="Time until the second attempt: a duration, or a percentile of the latency such as `p95`."
    )
