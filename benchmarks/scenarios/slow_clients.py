"""Scenario ``slow``: the effect on other clients of five hundred that never finish their request head (slow loris)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, replace

from benchmarks.figures import Figure, Target
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, Site
from benchmarks.peers.nginx import Nginx
from benchmarks.rig.pairs import Cell, Run, median_ratio
from benchmarks.rig.slow import SlowClients
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import OURS, Bench

COUNT = 500
LOAD = Load("/user/42", connections=16)
TARGET = Target(1.2)


class Slow:
    """The same server and load, in turn without and with the slow clients; a run with them is as long as the limit."""

    name = "slow"
    about = "500 slow-loris connections: the p99 of other clients, with and without"
    peers = ("nginx",)

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        site = bench.site(OURS, addresses)
        yield measure(bench, OURS, site, bench.ours().forward(site), TARGET)
        for peer in bench.present([Nginx()]):
            site = bench.site(peer.name, addresses)
            yield measure(bench, peer.name, site, peer.forward(site), None)


def measure(bench: Bench, name: str, site: Site, command: Command, target: Target | None) -> Figure:
    """Measure one server, ``pairs`` times without and with slow clients."""
    server = bench.start(name, site, command, LOAD.path)
    alone, beside = (Cell(f"{name} {label}", server, LOAD, bench.seconds) for label in ("alone", "beside slow ones"))
    alone.warm_up(bench.rig)
    runs: dict[str, list[Run]] = {alone.label: [], beside.label: []}
    refused = 0
    for number in range(1, bench.pairs + 1):
        runs[alone.label].append(alone.measure(bench.rig))
        with SlowClients(server.port, COUNT, LOAD.path) as slow:
            runs[beside.label].append(beside.measure(bench.rig))
        refused += slow.refused
        last = [each[-1].p99_us for each in runs.values()]
        bench.progress(
            f"{number}/{bench.pairs} {name}: p99 {last[0]:,.0f} us alone, {last[1]:,.0f} us beside slow ones"
        )
    bench.rig.stop(server)
    for label, each in runs.items():
        bench.keep(label, [asdict(run) for run in each])
    without, with_them = ([run.p99_us for run in each] for each in runs.values())
    every = [run for each in runs.values() for run in each]
    figure = Figure(
        Slow.name,
        f"{name}, {COUNT} slow",
        "p99_us",
        statistics.median(with_them),
        f"{name} alone",
        statistics.median(without),
        median_ratio(with_them, without),
        bench.pairs,
        sum(run.errors for run in every),
        any(run.noisy for run in every),
        target,
    )
    return replace(figure, more={"refused": refused, **_throughput(runs)})


def _throughput(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Return requests per second, as the median of each."""
    names = ("alone_rps", "beside_rps")
    return {name: statistics.median(run.rps for run in each) for name, each in zip(names, runs.values(), strict=True)}
