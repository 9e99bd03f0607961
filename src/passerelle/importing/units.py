"""Durations, sizes and addresses of other programs, as passerelle writes them."""

from __future__ import annotations

import ipaddress
import re

_NGINX_TIME = re.compile(r"(\d+)(ms|s|m|h|d|w|M|y)?").fullmatch
_GO_TIME = re.compile(r"(\d{1,12}+(?:\.\d{1,9}+)?+)(ms|s|m|h)").match
_SIZE = re.compile(r"(\d+)([kKmMgG]?)").fullmatch
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "M": 2_592_000, "y": 31_536_000}
_LONGEST = 64
_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def duration(seconds: float) -> str:
    """Write a duration in the largest unit that needs no fraction."""
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(round(seconds * 1000), 1)}ms"


def nginx_seconds(text: str) -> float | None:
    """Return a time of nginx in seconds; None if it is not one, or 0, which switches things off."""
    match = _NGINX_TIME(text)
    seconds = int(match[1]) * _SECONDS[match[2] or "s"] if match is not None else 0
    return seconds or None


def go_seconds(text: object) -> float | None:
    """Return a duration of Go such as `1m30s` in seconds, or a plain number of them; None if it is neither, or 0."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text) or None
    if not isinstance(text, str):
        return None
    if len(text) > _LONGEST:
        return None
    if text.isdigit():
        return float(text) or None
    seconds = 0.0
    while text:
        match = _GO_TIME(text)
        if match is None:
            return None
        seconds += float(match[1]) * _SECONDS[match[2]]
        text = text[match.end() :]
    return seconds or None


def size(text: str) -> int | None:
    """Return a size of nginx in bytes."""
    match = _SIZE(text)
    return int(match[1]) * _UNITS[match[2].lower()] if match is not None else None


def size_text(number: int) -> str:
    """Write a size in the largest unit that needs no fraction."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if number >= factor and number % factor == 0:
            return f"{number // factor}{unit}"
    return f"{number}B"


def network(text: str) -> str | None:
    """Return an address or a network; None if ``text`` is neither."""
    try:
        return str(ipaddress.ip_network(text, strict=False)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError:
        return None
