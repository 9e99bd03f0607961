"""Description of the machine that the figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

HIGH_LOAD = 0.5  # one-minute load average before the rig itself starts


def parse_cpu_model(text: str) -> str:
    """Return the CPU's name from the text of ``/proc/cpuinfo``, or ``unknown``."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"


def describe() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": parse_cpu_model(cpuinfo.read_text()) if cpuinfo.exists() else "unknown",
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load() -> dict[str, Any]:
    """Return the machine's load before the measurements; on a busy machine, requests per second are not reliable."""
    averages = os.getloadavg()
    return {"load_average": [round(value, 2) for value in averages], "load_average_high": averages[0] > HIGH_LOAD}
