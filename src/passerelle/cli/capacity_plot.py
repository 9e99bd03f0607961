"""A plot of measured and fitted throughput, as text and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log10

from passerelle.scaling.usl import Capacity, Point

_MOST_BEYOND = 2.0  # the curve ends at this multiple of the highest measured concurrency


def _range(points: Sequence[Point], found: Capacity | None) -> tuple[float, float]:
    right = max(point.concurrency for point in points)
    top = max(point.throughput for point in points)
    if found is not None:
        at = found.law.peak_concurrency
        right = min(max(right, at * 1.2), right * _MOST_BEYOND) if at < inf else right * _MOST_BEYOND
        top = max(top, found.peak.high)
    return right * 1.02, top * 1.08


def text_plot(points: Sequence[Point], found: Capacity | None, width: int = 64, height: int = 16) -> str:
    """Return a plot of ``height`` lines: ``o`` for measurements, ``·`` for the law, ``-`` for its peak."""
    right, top = _range(points, found)
    rows = [[" "] * width for _ in range(height)]

    def mark(x: float, y: float, sign: str) -> None:
        column, row = int(x / right * (width - 1)), height - 1 - int(y / top * (height - 1))
        if 0 <= row < height and 0 <= column < width:
            rows[row][column] = sign

    if found is not None:
        for column in range(width):
            x = right * column / (width - 1)
            mark(x, found.peak.value, "-")
            mark(x, found.law.throughput(x), "·")
    for point in points:
        mark(point.concurrency, point.throughput, "o")
    labels = {0: f"{top:,.0f}", height - 1: "0"}
    lines = [f"{labels.get(row, ''):>9} |{''.join(cells).rstrip()}" for row, cells in enumerate(rows)]
    lines.append(" " * 10 + "+" + "-" * width)
    lines.append(" " * 11 + "0" + f"{right:.0f} requests in flight".rjust(width - 1))
    return "requests/s\n" + "\n".join(lines)


def svg_plot(points: Sequence[Point], found: Capacity | None, title: str, used: int | None = None) -> str:
    """Return the plot as SVG. With ``used``, only the first ``used`` points were fitted; the others are hollow."""
    right, top = _range(points, found)
    left, bottom, wide, high = 70.0, 270.0, 500.0, 220.0

    def x(value: float) -> str:
        return f"{left + value / right * wide:.1f}"

    def y(value: float) -> str:
        return f"{bottom - value / top * high:.1f}"

    end_x, end_y = left + wide, bottom - high
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 320" font-family="sans-serif" font-size="12">',
        "<style>.ink{fill:#222}.axis{stroke:#555}.grid{stroke:#ddd}</style>",
        '<rect width="600" height="320" fill="#fff"/>',
        f'<text class="ink" x="{left}" y="28" font-size="14">{_escaped(title)}</text>',
    ]
    for value in _ticks(top):
        parts.append(f'<line class="grid" x1="{left}" x2="{end_x}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="ink" x="{left - 6}" y="{y(value)}" text-anchor="end" dy="4">{value:,g}</text>')
    for value in _ticks(right):
        parts.append(f'<text class="ink" x="{x(value)}" y="{bottom + 16}" text-anchor="middle">{value:,g}</text>')
    parts.append(f'<path class="axis" fill="none" d="M{left},{end_y}V{bottom}H{end_x}"/>')
    parts.append(f'<text class="ink" x="{left + wide / 2}" y="306" text-anchor="middle">requests in flight</text>')
    parts.append(f'<text class="ink" x="{left}" y="{end_y - 8}">requests/s</text>')
    if found is not None:
        low, high_edge = y(found.peak.low), y(found.peak.high)
        band = float(low) - float(high_edge)
        parts.append(f'<rect x="{left}" y="{high_edge}" width="{wide}" height="{band:.1f}" fill="#06c" opacity=".12"/>')
        curve = " ".join(f"{x(right * n / 100)},{y(found.law.throughput(right * n / 100))}" for n in range(101))
        parts.append(f'<polyline points="{curve}" fill="none" stroke="#06c" stroke-width="2"/>')
    for number, point in enumerate(points):
        fill = "#c30" if used is None or number < used else "#fff"
        place = f'cx="{x(point.concurrency)}" cy="{y(point.throughput)}"'
        parts.append(f'<circle {place} r="4" fill="{fill}" stroke="#c30"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ticks(most: float) -> list[float]:
    step = 10.0 ** int(log10(most) if most >= 1 else 0)
    while most / step > 6:
        step *= 2
    while most / step < 3:
        step /= 2
    return [step * n for n in range(int(most / step) + 1)]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
