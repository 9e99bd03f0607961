"""Scenario ``plugins``: what a plugin of each form adds to the cost of a forwarded request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.figures import CPU_US, Figure
from benchmarks.peers import upstreams
from benchmarks.rig.slices import State, compare
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import Bench

LOAD = Load("/user/{}", varying=True)
PAIRS = 3  # slices for each of the pairs of the command line
MODULE = """
import asyncio
from passerelle.plugins import ResponseChange

async def at_once(request):
    request.headers.get("x-key")

async def later(request):
    request.headers.get("x-key")
    await asyncio.sleep(0)

def in_thread(request):
    request.headers.get("x-key")

async def fields(request, response):
    return ResponseChange(set_headers={"X-Filtered": "1"})

async def body(request, response):
    return ResponseChange(body=response.body + b"!")
"""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "async def, nothing awaited": {"guard": "bench_plugins:at_once"},
    "async def, one await": {"guard": "bench_plugins:later"},
    "def, in a thread": {"guard": "bench_plugins:in_thread"},
    "response, fields": {"response": "bench_plugins:fields"},
    "response, body": {"response": "bench_plugins:body", "body": "64KiB"},
}


class Plugins:
    """The same gateway without a plugin, and with one plugin of each form."""

    name = "plugins"
    about = "cost of a plugin, by its form"
    peers: tuple[str, ...] = ()

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        site = bench.site("plain", addresses)
        plain = State("plain", bench.start("plain", site, bench.ours().forward(site), LOAD.sample(), upstreams.USER))
        for number, (variant, plugin) in enumerate(VARIANTS.items()):
            site = bench.site(f"plugin-{number}", addresses)
            site.write("bench_plugins.py", MODULE)
            command = bench.ours().forward(site, more={"plugins": {"p": plugin}}, on_route={"plugins": "p"})
            expected = upstreams.USER if "body" not in plugin else None
            server = bench.start(f"plugin-{number}", site, command, LOAD.sample(), expected)
            found = compare(bench.rig, plain, State(variant, server), LOAD, PAIRS * bench.pairs, bench.progress)
            yield Figure(
                self.name,
                variant,
                CPU_US,
                found.difference,
                pairs=found.pairs,
                errors=found.errors,
                noisy=found.noisy,
                more={"low": found.low, "high": found.high, "without_us": found.first, "with_us": found.second},
            )
