"""Scenario ``policy``: verify a token, apply a rate limit, count, log, and then forward."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterable
from typing import Protocol

from benchmarks.figures import Figure, Target, cpu_figure
from benchmarks.peers import upstreams
from benchmarks.peers.base import Command, Peer, Site
from benchmarks.peers.envoy import ISSUER, Envoy
from benchmarks.peers.haproxy import HAProxy
from benchmarks.rig import wrk
from benchmarks.rig.pairs import Cell
from benchmarks.rig.server import RigError, fetch
from benchmarks.rig.wrk import Load
from benchmarks.scenarios.base import FIXED, OURS, VARYING, Bench, peer_names

SHARED = "known-to-all-who-take-part-in-this-benchmark"  # no quotes or commas: HAProxy's file cannot express them
TARGETS: dict[tuple[str, str | None], Target] = {
    (FIXED, "haproxy"): Target(1.4),
    (FIXED, "envoy"): Target(0.6),
    (VARYING, "haproxy"): Target(1.3),
    (VARYING, "envoy"): Target(0.6),
}


class Guard(Peer, Protocol):
    """Forwards and logs ``/user/ID`` for holders of a valid HS256 token, within a limit that is not reached."""

    def policy(self, site: Site, secret: str) -> Command: ...


def token(secret: str, lifetime: float = 3600.0) -> str:
    """Return a token (RFC 7519) that is valid for ``lifetime`` seconds, signed with HS256."""
    claims = {"sub": "user_42", "iss": ISSUER, "exp": int(time.time() + lifetime)}
    signed = b".".join(_coded(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return (signed + b"." + _coded(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


def _coded(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")


class Policy:
    """The same token in every request, as a client sends it; all servers log, and refuse a wrong token."""

    name = "policy"
    about = "JWT + rate limit + access log, then forward"
    peers = ("haproxy", "envoy")

    def run(self, bench: Bench) -> Iterable[Figure]:
        _, addresses = upstreams.start(bench.rig)
        headers = bearer(token(SHARED))
        loads = {VARYING: Load("/user/{}", varying=True, headers=headers), FIXED: Load("/user/42", headers=headers)}
        contestants: list[Guard] = bench.present([HAProxy(), Envoy()])
        cells = []
        for peer in (bench.ours(), *contestants):
            site = bench.site(peer.name, addresses)
            server = bench.start(peer.name, site, peer.policy(site, SHARED), loads[FIXED].path, headers=headers)
            wrong = (token("x" * 40), token(SHARED, -3600.0))
            refused = [fetch(site.port, loads[FIXED].path, bearer(each))[0] for each in wrong]
            if refused != [401, 401]:
                raise RigError(
                    f"{peer.name} answered {refused} to a token signed by others and to one that has expired"
                )
            cells += [Cell(f"{variant} {peer.name}", server, load, bench.brief) for variant, load in loads.items()]
        runs = bench.in_turn(bench.headline_first(cells, VARYING + " ", ""))
        for variant in loads:
            for name in peer_names(contestants):
                theirs = runs[f"{variant} {name}"] if name else ()
                target = TARGETS.get((variant, name))
                yield cpu_figure(self.name, variant, runs[f"{variant} {OURS}"], name, theirs, target)


def bearer(text: str) -> dict[str, str]:
    """Return the load's fields with this token."""
    return {**wrk.BROWSER, "Authorization": f"Bearer {text}"}
