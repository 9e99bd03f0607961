"""Interface of scenarios: what they receive, and how they return results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeVar

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers.base import Command, Peer, Site
from benchmarks.peers.passerelle import Passerelle
from benchmarks.rig import wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import Cell, Run, in_turn
from benchmarks.rig.server import RigError, Server, fetch
from benchmarks.rig.wrk import Load

OURS = "ours"
FIXED, VARYING = "10hdr", "varying"  # variants of the load: the same request repeatedly, and a new one each time
BOTH_LOG = ", both log"
AnyPeer = TypeVar("AnyPeer", bound=Peer)


@dataclass
class Bench:
    """One run of a scenario: its length, the participating peers, and the raw runs for the report.

    ``seconds`` is the length of one run of a headline; secondary figures use ``brief`` seconds. ``wanted`` selects
    peers by name; empty means all.
    """

    rig: Rig
    seconds: int
    pairs: int
    wanted: frozenset[str]
    progress: Callable[[str], None]
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def brief(self) -> int:
        return max(1, self.seconds // 3)

    def present(self, peers: Iterable[AnyPeer]) -> list[AnyPeer]:
        """Return the selected peers that are installed, and report the missing ones."""
        found = []
        for peer in peers:
            if self.wanted and peer.name not in self.wanted:
                continue
            lacking = peer.missing()
            if lacking is None:
                self.versions[peer.name] = peer.version()
                found.append(peer)
            else:
                self.missing[peer.name] = lacking
                self.progress(f"missing: {peer.name}: {lacking}")
        return found

    def ours(self, *, access_log: bool = True) -> Passerelle:
        """Return a gateway of passerelle, not started, with its own admin port."""
        gateway = Passerelle(self.rig.port(), access_log)
        self.versions[gateway.name] = gateway.version()
        return gateway

    def site(self, name: str, upstreams: Sequence[str]) -> Site:
        """Return a place for the server ``name``, in a folder whose name has no blank, which some files cannot hold."""
        return Site(self.rig.subfolder(name.replace(",", "").replace(" ", "-")), self.rig.port(), upstreams)

    def start(
        self,
        name: str,
        site: Site,
        command: Command,
        ready: str,
        answer: str | None = None,
        headers: Mapping[str, str] = wrk.BROWSER,
        *,
        both: bool = False,
    ) -> Server:
        """Start a server under test on its CPU, or on ``both``, and wait until it responds to ``ready`` (with
        ``headers``).

        ``answer`` is the required JSON response, so that all compared servers do the same work.
        """
        self.progress(f"starting {name}")
        server = self.rig.start(
            name, command.argv, site.port, site.folder, ready=ready, headers=headers, both=both, env=command.env
        )
        if answer is not None:
            _, body = fetch(site.port, ready, headers)
            if json.loads(body) != json.loads(answer):
                raise RigError(f"{name} answered {ready} with {body!r} instead of {answer}")
        return server

    def with_and_without_logs(
        self,
        name: str,
        addresses: Sequence[str],
        loads: Mapping[str, Load],
        answer: str,
        peers: Mapping[str, Sequence[Peer]],
        configure: Callable[[Any, Site], Command],
        target: Callable[[str, str | None], Target | None],
    ) -> Iterable[Figure]:
        """Measure every load, with access logs on both sides and without, and yield the figures of scenario ``name``.

        The variants of ``loads`` are :data:`VARYING` (the headline, with logs), :data:`FIXED` and perhaps others.
        ``peers`` are those of each suffix, :data:`BOTH_LOG` or empty. ``configure`` returns the command of a peer, or
        of passerelle; ``target`` the bound for a variant beside a peer.
        """
        cells = []
        for suffix, contestants in peers.items():
            tested: list[Peer] = [self.ours(access_log=suffix == BOTH_LOG), *contestants]
            for peer in tested:
                label = peer.name + suffix
                site = self.site(label, addresses)
                server = self.start(label, site, configure(peer, site), loads[FIXED].sample(), answer)
                cells += [Cell(f"{variant} {label}", server, load, self.brief) for variant, load in loads.items()]
        runs = self.in_turn(self.headline_first(cells, VARYING + " ", BOTH_LOG))
        for variant in (VARYING, *(each for each in loads if each != VARYING)):
            for suffix, contestants in peers.items():
                ours = runs[f"{variant} {OURS}{suffix}"]
                for peer_name in peer_names(contestants):
                    theirs = runs[f"{variant} {peer_name}{suffix}"] if peer_name else ()
                    bound = target(variant, peer_name)
                    yield cpu_figure(name, variant + suffix, ours, peer_name, theirs, bound)

    def headline_first(self, cells: Iterable[Cell], prefix: str, suffix: str) -> list[Cell]:
        """Order ``cells`` so that those of the headline, by their label, are adjacent and come first.

        They last the whole ``seconds``, so that the pairs of a headline are pairs.
        """
        ordered: list[Cell] = []
        others: list[Cell] = []
        for cell in cells:
            if cell.label.startswith(prefix) and cell.label.endswith(suffix):
                ordered.append(replace(cell, seconds=self.seconds))
            else:
                others.append(cell)
        return ordered + others

    def in_turn(self, cells: Sequence[Cell]) -> Mapping[str, list[Run]]:
        """Measure the cells ``pairs`` times in turn and keep every run."""
        runs = in_turn(self.rig, cells, self.pairs, self.progress)
        for label, each in runs.items():
            self.keep(label, [asdict(run) | {"us": run.us, "rps": run.rps} for run in each])
        return runs

    def keep(self, label: str, rows: list[dict[str, Any]]) -> None:
        """Keep raw figures for the report."""
        self.runs.setdefault(label, []).extend(rows)


def peer_names(peers: Iterable[Peer]) -> list[str | None]:
    """Return the names of the peers, or a single ``None`` without peers, so that passerelle is shown alone."""
    return [peer.name for peer in peers] or [None]


class Scenario(Protocol):
    """A scenario: ``peers`` are the names of possible peers; ``run`` yields the figures, the headline first."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def peers(self) -> Sequence[str]: ...
    def run(self, bench: Bench) -> Iterable[Figure]: ...
