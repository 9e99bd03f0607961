"""The diagnosis: rules over the evidence, ranked.

The method is the USE method (utilisation, saturation and errors of each resource), with Little's law as a check of the
measurements. docs/explanation/diagnosis.md describes each rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from passerelle.diagnosis.evidence import Evidence, RouteEvidence
from passerelle.diagnosis.services import ENOUGH, diagnose_service
from passerelle.diagnosis.verdict import Verdict, ms, percent, plural

_FEW_HITS = 0.05
_LOOKUPS = 20
_TOLERANCE = 0.1  # of Little's law
_ALWAYS = 0.5  # the share of the time that a connection of a waiting client has a request in flight
_LIMITING = 0.6  # the weight from which on a cause explains why the system gives no more

_REASONS = {
    "vary": "its responses have `Vary: *`",
    "set-cookie": "its responses have Set-Cookie",
    "no-store": "its responses have Cache-Control: no-store",
    "private": "its responses have Cache-Control: private",
    "identity": "its requests have Authorization or Cookie, and the responses do not allow sharing",
    "request-no-store": "its requests have Cache-Control: no-store",
    "no-lifetime": "its responses have no lifetime and no validator",
    "status": "the status of its responses is not one that is stored",
    "too-large": "its responses are larger than the longest that is stored",
    "stream": "its responses are event streams",
}


def diagnose(evidence: Evidence) -> list[Verdict]:
    """Return what limits the system, the most likely cause first.

    The list is never empty: "nothing is saturated", "the client is the limit" and "not enough requests" are verdicts.
    """
    services = [verdict for service in evidence.services for verdict in diagnose_service(service, evidence)]
    if evidence.requests < ENOUGH and not services:
        return [_not_enough(evidence)]
    found = [*_gateway(evidence), *services, *_caches(evidence), *_machine(evidence), *_slow_clients(evidence)]
    if not any(verdict.is_bottleneck and verdict.weight >= _LIMITING for verdict in found):
        found += _client_is_the_limit(evidence)
    if not any(verdict.is_bottleneck for verdict in found):
        found.append(_nothing(evidence))
    found += _disagreements(evidence)
    return sorted(found, key=lambda verdict: (-verdict.weight * verdict.confidence, verdict.component))


def _not_enough(evidence: Evidence) -> Verdict:
    return Verdict(
        "gateway",
        "requests",
        f"not enough: {plural(round(evidence.requests), 'request')} in {evidence.seconds:.0f} s; {ENOUGH} are needed",
        {"requests": round(evidence.requests), "seconds": evidence.seconds},
        1.0,
        "send more requests, or wait",
        0.0,
        False,
    )


def _gateway(evidence: Evidence) -> Iterator[Verdict]:
    workers = evidence.workers
    busy = [worker for worker in workers if worker.wants_cpu]
    if not busy or len(busy) * 2 <= len(workers):
        return
    cpu = sum(worker.cpu for worker in busy) / len(busy)
    wait = sum(worker.wait for worker in busy) / len(busy)
    text = f"gateway: {plural(len(busy), 'worker')} at {percent(min(1.0, cpu + wait))} of a CPU each"
    if wait > 0.1:
        text += f" ({percent(cpu)} running, {percent(wait)} waiting for one)"
    step = (
        "run more workers (workers:)"
        if evidence.cpus > len(workers)
        else "there is a worker for each CPU: cache more, or run the gateway on a larger machine"
    )
    numbers = {"workers": len(busy), "cpu": cpu, "wait": wait, "rate": evidence.rate}
    estimate = None
    if evidence.rate > 0 and cpu > 0:
        most = evidence.rate / (cpu * len(busy))
        estimate = f"a worker with a whole CPU takes about {most:.0f} requests a second of this kind"
    yield Verdict("gateway", "cpu", text, numbers, 0.95, step, 1.0, estimate=estimate)


def _caches(evidence: Evidence) -> Iterator[Verdict]:
    for route in evidence.routes:
        lookups = route.lookups * evidence.seconds
        if lookups >= _LOOKUPS and route.hits < _FEW_HITS * route.lookups:
            yield _useless_cache(route)


def _useless_cache(route: RouteEvidence) -> Verdict:
    reason, count = max(route.not_stored.items(), key=lambda item: item[1], default=("", 0.0))
    share = min(1.0, sum(route.not_stored.values()) / route.lookups)
    numbers = {"hits": route.hits, "lookups": route.lookups, **route.not_stored}
    ratio = percent(route.hits / route.lookups)
    if share < 0.5:
        text = f"cache: {ratio} hits on {route.name}: responses are stored, but hardly any is requested again"
        step = "look at the key: query parameters, Vary, and the lifetime"
        return Verdict("cache", route.name, text, numbers, 0.6, step, 0.7)
    why = _REASONS.get(reason, f"its responses are not stored ({reason})")
    every = "" if count > 0.9 * sum(route.not_stored.values()) else ", among other reasons"
    text = f"cache: {ratio} hits on {route.name} because {why}{every}"
    return Verdict(
        "cache", route.name, text, numbers, 0.95, "change the responses, or remove `cache` from the route", 0.8
    )


def _machine(evidence: Evidence) -> Iterator[Verdict]:
    processes = [*evidence.workers, *(i.process for service in evidence.services for i in service.instances)]
    cpu, wait = sum(p.cpu for p in processes), sum(p.wait for p in processes)
    if evidence.cpu is None or evidence.cpu < 0.95 or wait < 0.3 or wait < cpu / 2:
        return
    others = max(0.0, evidence.cpu * evidence.cpus - cpu)
    text = (
        f"machine: {plural(evidence.cpus, 'CPU')}, {percent(evidence.cpu)} busy; the processes of passerelle wait "
        f"{percent(wait / (cpu + wait))} of the time in which they could run"
    )
    step = "run less on this machine, or use a larger one"
    if others > cpu:
        text += f"; other programs use {others:.1f} of the CPUs"
        step = "look at the other programs of this machine"
    numbers = {"cpus": evidence.cpus, "cpu": evidence.cpu, "own_cpu": cpu, "own_wait": wait}
    yield Verdict("machine", "cpu", text, numbers, 0.9, step, 0.55)


def _slow_clients(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.paused >= 1.0 and evidence.paused >= 0.2 * evidence.connections:
        text = f"clients: {evidence.paused:.1f} on average read their responses too slowly"
        numbers = {"paused": evidence.paused, "connections": evidence.connections}
        step = "nothing at the gateway: the network or the clients are slow; compress helps with large responses"
        yield Verdict("clients", "reading", text, numbers, 0.8, step, 0.5, False)


def _client_is_the_limit(evidence: Evidence) -> Iterator[Verdict]:
    if evidence.connections < 0.5:
        return
    share = evidence.busy / evidence.connections
    if share < _ALWAYS:
        return
    count = max(1, round(evidence.connections))
    cpu = max((worker.cpu for worker in evidence.workers), default=0.0)
    text = (
        f"client: the limit is its {plural(count, 'connection')}, with a request in flight {percent(min(1.0, share))} "
        f"of the time; the gateway uses {percent(cpu)} of a CPU, and no service is saturated"
    )
    numbers = {"connections": evidence.connections, "in_flight": evidence.busy, "gateway_cpu": cpu}
    time = evidence.busy / evidence.rate if evidence.rate > 0 else 0.0
    estimate = (
        f"a request takes {ms(time)}, so each further connection adds about {1 / time:.0f} a second" if time else None
    )
    step = "send more requests at the same time, over more connections"
    yield Verdict("client", "concurrency", text, numbers, 0.85, step, 0.7, False, estimate)


def _nothing(evidence: Evidence) -> Verdict:
    cpu = max((worker.cpu for worker in evidence.workers), default=0.0)
    busy = max((i.busy for s in evidence.services for i in s.instances), default=0.0)
    text = f"nothing is saturated: the busiest worker uses {percent(cpu)} of a CPU"
    if busy:
        text += f", the busiest instance {percent(busy)} of its threads"
    numbers = {"gateway_cpu": cpu, "threads": busy, "rate": evidence.rate}
    return Verdict("system", "none", text, numbers, 0.8, "nothing", 0.3, False)


def _disagreements(evidence: Evidence) -> Iterator[Verdict]:
    """Check Little's law: the mean number in flight is the rate times the mean time."""
    for service in evidence.services:
        if service.rate * evidence.seconds < ENOUGH or service.streaming > 0.5:
            continue
        sampled, summed = service.in_flight, service.busy
        if abs(sampled - summed) > _TOLERANCE * max(sampled, summed) + max(0.5, 2 * service.time / evidence.seconds):
            text = (
                f"{service.name}: the data disagree: {sampled:.1f} requests were in flight, but rate times time is "
                f"{summed:.1f}"
            )
            numbers = {"sampled": sampled, "rate_times_time": summed}
            step = "measure again under steady load: it changed, requests were cancelled, or clients sent slowly"
            yield Verdict(service.name, "measurement", text, numbers, 0.5, step, 0.2, False)
