"""The screen of ``passerelle top``: a pure function of the last sample to lines of text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Sample = Mapping[str, Any]

NONE = "-"
BOLD, DIM, RED, YELLOW, REVERSE = "1", "2", "31", "33", "7"
SORTS = {"c": "configured order", "r": "requests", "e": "errors", "l": "latency", "n": "name"}
_KEYS = "q quit   sort: r requests  e errors  l latency  n name  c configured   arrows scroll"
_STATES = {"up": "", "starting": YELLOW, "draining": YELLOW, "joining": YELLOW, "retiring": YELLOW}
_NARROWEST = 12  # columns of a name
_FAILING = 0.01  # share of errors that is marked


class View(NamedTuple):
    """What the user has chosen: the order (a key of :data:`SORTS`), and the first line of the body that is shown."""

    sort: str = "c"
    offset: int = 0


class Row(NamedTuple):
    """A row of a table. ``code`` is the colour (SGR) of the row, empty for none."""

    cells: Sequence[str]
    code: str = ""


def rate(value: float | None) -> str:
    """Format a number of something a second."""
    if value is None:
        return NONE
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def milliseconds(seconds: float | None) -> str:
    """Format seconds with three significant digits, with their unit."""
    if seconds is None:
        return NONE
    if seconds >= 1:
        return f"{seconds:.1f}s"
    value = seconds * 1000
    return f"{value:.0f}ms" if value >= 100 else f"{value:.1f}ms" if value >= 10 else f"{value:.2f}ms"


def percent(part: float | None, whole: float | None) -> str:
    """Format the share of ``part`` in ``whole``; a dash if there is no whole."""
    if not whole or part is None:
        return NONE
    share = 100 * part / whole
    return f"{share:.0f}%" if share >= 10 or share == 0 else f"{share:.1f}%"


def printable(text: str) -> str:
    """Replace what a terminal would interpret."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _is_failing(values: Sample) -> bool:
    return bool(values.get("errors", 0) > _FAILING * values.get("requests", 0))


def _order(entries: Iterable[tuple[str, Sample]], sort: str) -> list[tuple[str, Sample]]:
    if sort == "n":
        return sorted(entries)
    if sort == "c":
        return list(entries)
    keys = {"r": ("requests",), "e": ("errors",), "l": ("p95", "latency")}[sort]
    return sorted(entries, key=lambda entry: -max((entry[1].get(key, 0.0) for key in keys), default=0.0))


def _table(head: Sequence[str], rows: Sequence[Row], width: int) -> list[tuple[str, str]]:
    """Return the lines of a table with their colours; the first column takes the width that is left."""
    widths = [max(map(len, column)) for column in zip(head, *(row.cells for row in rows), strict=True)]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(_NARROWEST, width - rest))

    def line(cells: Sequence[str]) -> str:
        name = cells[0] if len(cells[0]) <= widths[0] else cells[0][: widths[0] - 1] + "…"
        others = (cell.rjust(size) for cell, size in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([name.ljust(widths[0]), *others]).rstrip()

    return [(line(head), DIM), *((line(row.cells), row.code) for row in rows)]


def _head(sample: Sample, where: str, state: str, width: int) -> list[tuple[str, str]]:
    total = sample.get("total", {})
    left = f"passerelle  {printable(where)}"
    when = time.strftime("%H:%M:%S", time.localtime(sample["time"])) if "time" in sample else ""
    right = f"{when}  {state}".strip()
    left = left[: max(0, width - len(right) - 1)]
    workers = sample.get("workers", {}).values()
    cpu = sum(worker.get("cpu", 0.0) for worker in workers)
    requests = total.get("requests", 0.0)
    first = (
        f"{rate(requests)} requests/s   {percent(total.get('errors', 0), requests)} errors"
        f"   p50 {milliseconds(total.get('p50'))}   p95 {milliseconds(total.get('p95'))}"
        f"   p99 {milliseconds(total.get('p99'))}"
    )
    second = (
        f"{percent(total.get('hits'), total.get('lookups'))} cache hits   {total.get('in_flight', 0):.0f} in flight"
        f"   {rate(total.get('limited', 0.0))} rate-limited/s   {total.get('connections', 0)} connections"
        f"   {100 * cpu:.0f}% CPU"
    )
    return [
        (left.ljust(width - len(right)) + right, BOLD if state == "live" else f"{BOLD};{RED}"),
        (first, RED if _is_failing(total) else ""),
        (second, ""),
        ("", ""),
    ]


def _service_rows(services: Sample, sort: str) -> list[Row]:
    rows = []
    for name, values in _order(services.items(), sort):
        instances = values.get("instances", {})
        up, breaker = values.get("up", 0), values.get("breaker", NONE)
        code = RED if _is_failing(values) or not up or breaker == "open" else YELLOW if up < len(instances) else ""
        cells = [
            printable(name), f"{up}/{len(instances)}", rate(values.get("requests", 0.0)),
            percent(values.get("errors", 0), values.get("requests")),
            *(milliseconds(values.get(each)) for each in ("p50", "p95", "p99")),
            percent(values.get("hits"), values.get("lookups")), breaker.replace("_", "-"),
        ]  # fmt: skip
        rows.append(Row(cells, code))
    return rows


def _instance_rows(services: Sample, sort: str) -> list[Row]:
    found = [pair for values in services.values() for pair in values.get("instances", {}).items()]
    rows = []
    for name, values in _order(found, sort):
        state = values.get("state", NONE)
        cells = [
            printable(name), printable(state), rate(values.get("requests", 0.0)),
            percent(values.get("errors", 0), values.get("requests")), f"{values.get('in_flight', 0):.0f}",
            milliseconds(values.get("latency")), str(values.get("restarts", NONE)),
        ]  # fmt: skip
        rows.append(Row(cells, _STATES.get(state, RED) or (RED if _is_failing(values) else "")))
    return rows


def _route_rows(routes: Sample, sort: str) -> list[Row]:
    rows = []
    for name, values in _order(routes.items(), sort):
        cells = [
            printable(name), rate(values.get("requests", 0.0)),
            percent(values.get("errors", 0), values.get("requests")),
            *(milliseconds(values.get(each)) for each in ("p50", "p95", "p99")),
            percent(values.get("hits"), values.get("lookups")), rate(values.get("limited", 0.0)),
        ]  # fmt: skip
        rows.append(Row(cells, RED if _is_failing(values) else ""))
    return rows


def body(sample: Sample, sort: str, width: int) -> list[tuple[str, str]]:
    """Return the tables of services, instances and routes: each line, and its colour (SGR)."""
    services, routes = sample.get("services", {}), sample.get("routes", {})
    if not sample:
        return [("There is no sample yet.", "")]
    parts = [
        _table(
            ("SERVICE", "UP", "REQ/S", "ERRORS", "P50", "P95", "P99", "HITS", "BREAKER"),
            _service_rows(services, sort),
            width,
        ),
        _table(
            ("INSTANCE", "STATE", "REQ/S", "ERRORS", "IN FLIGHT", "LATENCY", "RESTARTS"),
            _instance_rows(services, sort),
            width,
        ),
    ]
    if routes:
        head = ("ROUTE", "REQ/S", "ERRORS", "P50", "P95", "P99", "HITS", "LIMITED/S")
        parts.append(_table(head, _route_rows(routes, sort), width))
    lines = [line for part in parts for line in (*part, ("", ""))]
    return lines[:-1] if routes else [*lines, ("No request has arrived yet.", DIM)]


def screen(
    sample: Sample, where: str, state: str, view: View, width: int, height: int | None, *, colour: bool
) -> list[str]:
    """Return the lines of the screen, at most ``width`` columns wide and ``height`` high (None for all lines).

    ``where`` names the gateway, ``state`` is ``live`` or what is wrong.
    """
    lines = _head(sample, where, state, width)
    content = body(sample, view.sort, width)
    if height is not None:
        room = max(1, height - len(lines) - 1)
        offset = min(view.offset, max(0, len(content) - room))
        shown = content[offset : offset + room]
        left = len(content) - offset - len(shown)
        lines += shown + [("", "")] * (room - len(shown))
        keys = f"{left} more below   {_KEYS}" if left else _KEYS
        lines.append((keys.ljust(width), REVERSE if colour else ""))
    else:
        lines += content
    return [_painted(text[:width], code if colour else "") for text, code in lines[:height]]


def _painted(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and text else text
