"""``python -m benchmarks.versions PROGRAM [SCENARIO...]``: compare another installed passerelle with this one.

PROGRAM is that of the other one, such as ``../before/.venv/bin/passerelle``. Both gateways and a peer (nginx,
or HAProxy for ``policy``) run at the same time, and the load goes to two of them in neighbouring slices of one second.
So the drift of the machine, which is larger than most changes, does not count. Each load gives a line of JSON: the CPU
time of a request with both versions, the difference with its interval of 95 %, the cost of the peer, and how much the
ratio to the peer has changed. Exit code 0 if no ratio has risen by more than ``--most``, 1 otherwise, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.__main__ import progress
from benchmarks.figures import rounded
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, Site
from benchmarks.peers.haproxy import HAProxy
from benchmarks.peers.nginx import Nginx
from benchmarks.rig.core import Rig
from benchmarks.rig.server import RigError
from benchmarks.rig.slices import Comparison, State, compare
from benchmarks.rig.wrk import Load
from benchmarks.scenarios import compose, forward, hit, policy
from benchmarks.scenarios.base import FIXED, VARYING, Bench


@dataclass(frozen=True)
class Subject:
    """What is measured: ``configure`` returns the command of a gateway or peer for a site."""

    peer: Callable[[], Any]
    configure: Callable[[Any, Site], Command]
    loads: dict[str, Load]
    kept: bool = False  # whether responses of the upstream may be stored


def subjects() -> dict[str, Subject]:
    """Return the subjects by the name of their scenario. The access log is on for all."""
    headers = policy.bearer(policy.token(policy.SHARED))
    guarded = {name: replace(load, headers=headers) for name, load in forward.LOADS.items()}
    return {
        "forward": Subject(lambda: Nginx(access_log=True), lambda peer, site: peer.forward(site), forward.LOADS),
        "hit": Subject(
            lambda: Nginx(access_log=True), lambda peer, site: peer.cached(site, hit.MEMORY), hit.LOADS, kept=True
        ),
        "compose": Subject(lambda: Nginx(access_log=True), lambda peer, site: peer.compose(site), compose.LOADS),
        "policy": Subject(HAProxy, lambda peer, site: peer.policy(site, policy.SHARED), guarded),
    }


def run(name: str, subject: Subject, program: str, pairs: int, variant: str) -> tuple[Comparison, Comparison]:
    """Compare the other gateway with this one, and the peer with this one, on freshly started servers."""
    load = subject.loads[variant]
    with Rig.on_this_machine() as rig:
        bench = Bench(rig, 1, pairs, frozenset(), progress)
        _, addresses = upstreams.start(rig, kept=subject.kept)
        peers = bench.present([subject.peer()])
        if not peers:
            raise RigError("; ".join(f"missing: {peer}: {what}" for peer, what in bench.missing.items()))
        states = {}
        for label, peer in (("other", bench.ours()), ("this", bench.ours()), ("peer", peers[0])):
            site = bench.site(f"{label}-{name}", addresses)
            command = subject.configure(peer, site)
            if label == "other":
                command = replace(command, argv=[program, *command.argv[1:]])
            server = bench.start(label, site, command, load.sample(), headers=load.headers)
            states[label] = State(label, server)
        change = compare(rig, states["other"], states["this"], load, pairs, progress)
        beside = compare(rig, states["peer"], states["this"], load, max(2, pairs // 2), progress)
        return change, beside


def summarized(name: str, variant: str, starts: Sequence[tuple[Comparison, Comparison]]) -> dict[str, Any]:
    """Return the line of one load: medians over the starts, the widest interval, and the change of the ratio."""
    changes, beside = [change for change, _ in starts], [peer for _, peer in starts]
    cost = statistics.median(found.first for found in beside)
    difference = statistics.median(found.difference for found in changes)
    return {
        "scenario": name,
        "variant": variant,
        "other_us": rounded(statistics.median(found.first for found in changes)),
        "this_us": rounded(statistics.median(found.second for found in changes)),
        "difference_us": rounded(difference),
        "low_us": rounded(min(found.low for found in changes)),
        "high_us": rounded(max(found.high for found in changes)),
        "peer_us": rounded(cost),
        "ratio_change": rounded(difference / cost),
        "starts": len(starts),
        "pairs": sum(found.pairs for found in changes),
        "errors": sum(found.errors for found in (*changes, *beside)),
        "noisy": any(found.noisy for found in changes),
    }


def main(argv: Sequence[str] | None = None) -> int:
    known = subjects()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.versions", description="Compare another installed passerelle with this one."
    )
    parser.add_argument("program", metavar="PROGRAM", help="the other program, such as ../before/.venv/bin/passerelle")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(known)} (default: all)")
    parser.add_argument("--pairs", type=int, default=8, metavar="N", help="pairs of slices in each start (default 8)")
    parser.add_argument("--starts", type=int, default=2, metavar="N", help="starts of the servers (default 2)")
    parser.add_argument(
        "--most", type=float, default=0.01, metavar="X", help="rise of the ratio that is accepted (default 0.01)"
    )
    chosen = parser.parse_args(argv)
    for name in chosen.scenarios:
        if name not in known:
            parser.error(f"unknown scenario {name!r}: choose from {', '.join(known)}")
    if min(chosen.pairs, chosen.starts) < 1:
        parser.error("--pairs and --starts must be at least 1")
    program = Path(chosen.program).absolute()
    if not program.is_file():
        parser.error(f"{chosen.program} is not a file")
    worse = False
    for name in chosen.scenarios or known:
        for variant in (VARYING, FIXED):
            progress(f"{name}, {variant}")
            try:
                starts = [run(name, known[name], str(program), chosen.pairs, variant) for _ in range(chosen.starts)]
            except (RigError, OSError) as error:
                print(f"{name} failed: {error}", file=sys.stderr)
                return 1
            line = summarized(name, variant, starts)
            print(json.dumps(line), flush=True)
            worse = worse or line["ratio_change"] > chosen.most or line["errors"] > 0
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
