"""What every scenario is given, and how it hands over what it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from benchmarks.figures import Figure
from benchmarks.peers.base import Command, Peer, Site
from benchmarks.peers.passerelle import Passerelle
from benchmarks.rig import wrk
from benchmarks.rig.core import Rig
from benchmarks.rig.pairs import Cell, Run, in_turn
from benchmarks.rig.server import RigError, Server, fetch

OURS = "ours"
AnyPeer = TypeVar("AnyPeer", bound=Peer)


@dataclass
class Bench:
    """One run of one scenario: its length, who takes part, and the raw runs that it leaves for the report.

    ``seconds`` is the length of one run of a headline; what is only shown beside it runs ``brief`` seconds.
    ``wanted`` narrows the peers by name; empty means all.
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
        """Those wanted and installed; the others of the wanted are told of as missing."""
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
        """A gateway of ours, not started, with an admin port of its own."""
        gateway = Passerelle(self.rig.port(), access_log)
        self.versions[gateway.name] = gateway.version()
        return gateway

    def site(self, name: str, upstreams: Sequence[str]) -> Site:
        return Site(self.rig.subfolder(name), self.rig.port(), upstreams)

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
        """Start a server under test, on its CPU or ``both``, and wait until it answers ``ready`` (with ``headers``).

        ``answer`` is the JSON that it must be answered with, so that all who are compared do the same work.
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

    def in_turn(self, cells: Sequence[Cell]) -> Mapping[str, list[Run]]:
        """Measure the cells ``pairs`` times in turn and keep every run."""
        runs = in_turn(self.rig, cells, self.pairs, self.progress)
        for label, each in runs.items():
            self.keep(label, [asdict(run) | {"us": run.us, "rps": run.rps} for run in each])
        return runs

    def keep(self, label: str, rows: list[dict[str, Any]]) -> None:
        """Leave raw figures for the report."""
        self.runs.setdefault(label, []).extend(rows)


def peer_names(peers: Iterable[Peer]) -> list[str | None]:
    """The peers that ours is set beside: one ``None`` when there are none, so that ours is shown alone."""
    return [peer.name for peer in peers] or [None]


class Scenario(Protocol):
    """``peers`` are the names that it can be compared with; ``run`` finds the figures, the headline first."""

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def peers(self) -> Sequence[str]: ...
    def run(self, bench: Bench) -> Iterable[Figure]: ...
