"""Durations, sizes, percentages and rates: conversions between text with a unit and numbers."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator
from pydantic.json_schema import WithJsonSchema

from passerelle.config.models.base import Takes
from passerelle.config.reading.wording import describe

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"B": 1, "KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII).fullmatch


def _quantity(found: object, units: dict[str, Any], example: str, what: str) -> tuple[float, str]:
    allowed = f"{what} has a unit ({', '.join(units)}), such as {example}"
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise ValueError(f"found {describe(found)}; {allowed}")
    match = _QUANTITY(str(found).strip())
    if not match:
        raise ValueError(f"found {describe(found)}; {allowed}")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"found {found} without a unit; {allowed}")
    if unit not in units:
        near = {name.lower(): name for name in units}.get(unit.lower())
        raise ValueError(f"found {describe(found)}; {allowed}" + (f"; did you mean {number}{near}?" if near else ""))
    return float(number), unit


def parse_duration(found: object) -> float:
    """Parse a duration such as ``250ms``, ``3s``, ``1.5m`` or ``1h``. Returns seconds."""
    number, unit = _quantity(found, SECONDS, "250ms or 3s", "a duration")
    seconds = number * SECONDS[unit]
    if not 0 < seconds <= 86400 * 7:
        raise ValueError(f"found {describe(found)}; a duration is more than 0s and at most 168h")
    return seconds


def parse_size(found: object) -> int:
    """Parse a size such as ``512B``, ``32KiB`` or ``1MB``. Returns bytes."""
    number, unit = _quantity(found, BYTES, "32KiB or 10MiB", "a size")
    return math.floor(number * BYTES[unit])


def parse_limit(found: object) -> int | Literal["unlimited"]:
    """Parse a size, or ``unlimited``. Returns bytes."""
    if found == "unlimited":
        return "unlimited"
    number, unit = _quantity(found, BYTES, "10MiB, or unlimited", "a size")
    return math.floor(number * BYTES[unit])


def parse_percent(found: object) -> float:
    """Parse a percentage such as ``20%``. Returns a fraction from 0 to 1."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", found.strip(), re.ASCII) if isinstance(found, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError(f"found {describe(found)}; allowed is a percentage from 0% to 100%, such as 20%")
    return float(match[1]) / 100


PERCENT = BeforeValidator(parse_percent)
Percent = Annotated[
    float,
    PERCENT,
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$", "examples": ["20%"]}),
    Takes("percentage"),
]
"""A fraction from 0 to 1."""

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h)$", "examples": ["250ms", "3s", "1m"]}),
    Takes("duration"),
]
"""Seconds."""


def _off_or_duration(found: object) -> object:
    return "off" if found in ("off", False) else parse_duration(found)


DurationOrOff = Annotated[
    float | Literal["off"],
    BeforeValidator(_off_or_duration),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h)$"}, {"const": "off"}]}),
    Takes("duration or `off`"),
]
"""Seconds, or ``off``."""

_SIZE_SCHEMA = {"type": "string", "pattern": r"^\d+(\.\d+)?(B|KB|KiB|MB|MiB|GB|GiB)$", "examples": ["32KiB", "10MiB"]}
Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA), Takes("size")]
"""Bytes."""

Limit = Annotated[
    int | Literal["unlimited"],
    BeforeValidator(parse_limit),
    WithJsonSchema({"anyOf": [_SIZE_SCHEMA, {"const": "unlimited"}]}),
    Takes("size or `unlimited`"),
]
"""Bytes, or ``unlimited``."""


class Rate(NamedTuple):
    """``number`` requests in ``seconds``."""

    number: int
    seconds: int

    def __str__(self) -> str:
        unit = {seconds: unit for unit, seconds in _PER.items()}[self.seconds]
        return f"{self.number}/{unit}"


_PER = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"(\d{1,9})\s*/\s*([A-Za-z]+)", re.ASCII).fullmatch


def parse_rate(found: object) -> Rate:
    """Parse a rate such as ``100/s`` or ``10000/d``."""
    match = _RATE(found.strip()) if isinstance(found, str) else None
    if match is None or match[2] not in _PER or int(match[1]) == 0:
        raise ValueError(f"found {describe(found)}; a rate is a number per {', '.join(_PER)}, such as 100/s")
    return Rate(int(match[1]), _PER[match[2]])


RateText = Annotated[
    Rate,
    BeforeValidator(parse_rate),
    WithJsonSchema({"type": "string", "pattern": r"^\d+/[smhd]$", "examples": ["100/s", "10000/d"]}),
    Takes("rate"),
]


def duration_text(seconds: float) -> str:
    """Format seconds as a duration: ``250ms``, ``30s``, ``5m``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit in ("h", "m"):
        if seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:g}{unit}"
    return f"{seconds:g}s"


def percent_text(fraction: float) -> str:
    """Format a fraction as a percentage: ``20%``."""
    return f"{fraction * 100:g}%"


def size_text(octets: int | None) -> str:
    """Format bytes as a size: ``32KiB``, ``10MiB``; None is ``unlimited``."""
    if octets is None:
        return "unlimited"
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        if octets and octets % BYTES[unit] == 0:
            return f"{octets // BYTES[unit]}{unit}"
    return f"{octets}B"
