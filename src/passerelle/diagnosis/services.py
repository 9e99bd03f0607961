"""Rules about one service: its instances, its threads, what it waits for, failures and retries."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from passerelle.diagnosis import queueing
from passerelle.diagnosis.evidence import FULL, Evidence, InstanceEvidence, ServiceEvidence
from passerelle.diagnosis.verdict import Verdict, ms, percent, plural

ENOUGH = 30
"""The least number of requests for a rule about rates or times."""
_DATABASES = frozenset({"db", "database", "sql", "postgres", "postgresql", "pg", "mysql", "sqlite", "mongo", "query"})
_WHOLE = frozenset({"total", "app", "server", "other"})  # names for the time of the service itself
_PART_SHARE = 0.5  # the share of the time from which on a part is named
_SLOW_PART = 0.02  # seconds
_SLOW = 0.05  # seconds of a call that uses no CPU, from which on what it waits for is named
_IDLE = 0.25  # the share of the time that such a call uses the CPU
_FREE_CPU = 0.3  # CPUs of the machine that must be free for another instance to help
_OUTLIER = 3.0  # times the median of the other instances
_OUTLIER_SECONDS = 0.01
_MANY_ERRORS = 0.05
_AMPLIFIED = 0.1


def diagnose_service(service: ServiceEvidence, evidence: Evidence) -> Iterator[Verdict]:
    """Yield the causes that the rules find at ``service``."""
    if service.rate * evidence.seconds < ENOUGH and not _is_stuck(service):
        return
    part = _slow_part(service)
    if part is not None:
        yield part
    busy = _cpu_bound(service, evidence) or _threads_exhausted(service, part is not None)
    if busy is not None:
        yield busy
    elif part is None and (waits := _waits_on_something(service)) is not None:
        yield waits
    yield from _queues_of_the_gateway(service, busy is not None or part is not None)
    yield from _bad_instances(service, evidence)
    yield from _failures(service)


def _is_stuck(service: ServiceEvidence) -> bool:
    """Whether requests wait for threads and none ends."""
    return any(i.threads and i.busy > 0.95 and i.waiting >= 1 for i in service.instances)


def _slow_part(service: ServiceEvidence) -> Verdict | None:
    """Find what the service itself reports as its slowest part (Server-Timing)."""
    named = {name: seconds for name, seconds in service.parts.items() if name not in _WHOLE}
    if not named or service.timed <= 0:
        return None
    name, seconds = max(named.items(), key=lambda item: item[1])
    own, whole = seconds / service.timed, service.timed_seconds / service.timed
    served = next((time for i in service.up if (time := i.service_time)), None)
    # The queue in front of the service is not its time.
    compared = min(whole, served) if served is not None and served >= own else whole
    share = min(1.0, own / compared) if compared > 0 else 0.0
    if share < _PART_SHARE or own < _SLOW_PART:
        return None
    what = "database" if name in _DATABASES else name
    step = "look at its slow queries, indexes and locks; more instances wait for the same database"
    return Verdict(
        service.name,
        what,
        f"{service.name}: its {what} takes {ms(own)[:-3]} of {ms(compared)}",
        {"server_timing": name, "part_seconds": own, "service_seconds": compared, "share": share},
        0.95 if share >= 0.8 else 0.8,
        step if what == "database" else f"look at what {service.name} does in {name!r}; more instances do the same",
        0.9,
    )


def _cpu_bound(service: ServiceEvidence, evidence: Evidence) -> Verdict | None:
    measured = [i for i in service.up if i.measured]
    busy = [i for i in measured if i.process.wants_cpu]
    if not busy or len(busy) * 2 <= len(measured):
        return None
    demand = sum(i.process.demand for i in busy) / len(busy)
    count = len(measured)
    used = (evidence.cpu or 0.0) * evidence.cpus
    text = f"{service.name}: {plural(count, 'instance')} at {percent(min(1.0, demand))} of a CPU each"
    numbers = {"instances": count, "cpu_demand": demand, "machine_cpus": evidence.cpus, "machine_cpu": evidence.cpu}
    if evidence.cpu is not None and evidence.cpus - used < _FREE_CPU:
        step = "the CPUs of this machine are full: make the code cheaper, or run instances on another machine"
        return Verdict(service.name, "cpu", text, numbers, 0.85, step, 0.85)
    more = max(1, round(count * demand / queueing.COMFORTABLE) - count)
    more = max(1, min(more, int(evidence.cpus - used) or 1))
    step = f"run {plural(more, 'more instance')} (passerelle scale), or make the code cheaper"
    estimate = f"{plural(more, 'more instance')} bring about {percent(more / count)} more throughput"
    return Verdict(service.name, "cpu", text, numbers, 0.9, step, 0.85, estimate=estimate)


def _threads_exhausted(service: ServiceEvidence, part_is_slow: bool) -> Verdict | None:
    up = [i for i in service.up if i.threads]
    if not up:
        return None
    use = sum(i.busy for i in up) / len(up)
    waiting = sum(i.waiting for i in up)
    if use < FULL or waiting < 0.1 * len(up):
        return None
    threads = sum(i.threads for i in up)
    calls = sum(i.calls for i in up)
    numbers = {"instances": len(up), "threads": threads, "utilisation": use, "queued": waiting, "p95": service.p95}
    text = f"{service.name}: {plural(len(up), 'instance')} at {use:.2f} utilisation"
    weight = 0.6 if part_is_slow else 0.85  # the threads wait for the slow part
    if calls <= 0:
        text += f"; no call has ended, and {waiting:.0f} requests wait"
        step = "find what the threads wait for: a lock, a database, another service"
        return Verdict(service.name, "threads", text, numbers, 0.9, step, 0.95)
    time = use * threads / calls
    queue = waiting / calls
    numbers.update(service_seconds=time, queue_seconds=queue)
    if service.p95 is not None:
        queue_at_p95 = min(service.p95, max(queue, service.p95 - time))
        text += f"; {ms(queue_at_p95)[:-3]} of a {ms(service.p95)} p95 are queue"
    each, load, in_flight = threads / len(up), calls * time, use * threads + waiting
    more = max(1, -(-queueing.wanted_servers(in_flight, load) // max(1, int(each))) - len(up))
    more = min(more, 3 * len(up))
    then = queueing.time_with(int(each * (len(up) + more)), in_flight, load, time)
    bring = "brings" if more == 1 else "bring"
    text += f"; {plural(more, 'more instance')} {bring} it to about {ms(then)}"
    step = f"passerelle scale {service.name}={len(up) + more}"
    estimate = f"about {ms(then)} with {plural(len(up) + more, 'instance')} (from {in_flight:.1f} requests in flight)"
    return Verdict(service.name, "threads", text, numbers, 0.9, step, weight, estimate=estimate)


def _waits_on_something(service: ServiceEvidence) -> Verdict | None:
    """Find calls that take long without using the CPU, while threads are free."""
    found = [i for i in service.up if i.measured and i.calls > 0]
    times = [time for i in found if (time := i.service_time) is not None]
    if not times:
        return None
    time = median(times)
    cpu = sum(i.process.cpu for i in found) / max(1e-9, sum(i.calls for i in found))
    if time < _SLOW or cpu > _IDLE * time or sum(i.busy for i in found) / len(found) >= FULL:
        return None
    return Verdict(
        service.name,
        "dependency",
        f"{service.name}: a call takes {ms(time)}, of which {ms(cpu)} use the CPU, while threads are free",
        {"service_seconds": time, "cpu_seconds": cpu},
        0.6,
        f"find what {service.name} waits for; a Server-Timing field (db;dur=…) in its responses names it here",
        0.7,
    )


def _queues_of_the_gateway(service: ServiceEvidence, explained: bool) -> Iterator[Verdict]:
    queued = sum(i.queued for i in service.instances)
    if queued >= 0.5 and queued >= 0.1 * service.in_flight:
        yield Verdict(
            service.name,
            "connections",
            f"{service.name}: {queued:.1f} requests on average wait for one of its max_connections",
            {"queued": queued, "in_flight": service.in_flight},
            0.8,
            "raise max_connections if the instances can take more, or run more instances",
            0.5 if explained else 0.8,
        )
    if service.waiting >= 0.5:
        yield Verdict(
            service.name,
            "concurrency limit",
            f"{service.name}: {service.waiting:.1f} requests on average wait for the adaptive limit",
            {"waiting": service.waiting},
            0.7,
            "the limit follows the latency of the service: look for what makes it slow, or run more instances",
            0.45 if explained else 0.75,
        )


def _bad_instances(service: ServiceEvidence, evidence: Evidence) -> Iterator[Verdict]:
    used = [i for i in service.up if i.rate * evidence.seconds >= ENOUGH / 3 and i.time is not None]
    if len(used) < 3:
        return
    for instance in used:
        others = [i for i in used if i is not instance]
        typical = median(i.time or 0.0 for i in others)
        time = instance.time or 0.0
        if time > _OUTLIER * typical and time - typical > _OUTLIER_SECONDS:
            numbers = {"seconds": time, "median_of_others": typical}
            text = f"{instance.name}: takes {ms(time)}, the other instances of {service.name} {ms(typical)}"
            step = f"passerelle instances drain {service.name} {instance.name}, and look at it"
            yield Verdict(instance.name, "latency", text, numbers, 0.85, step, 0.88)
            continue
        wrong, right = _error_share(instance), median(_error_share(i) for i in others)
        if wrong > _MANY_ERRORS and wrong > _OUTLIER * right:
            text = f"{instance.name}: {percent(wrong)} of its requests fail, of the others {percent(right)}"
            step = f"look at its log; passerelle instances drain {service.name} {instance.name}"
            yield Verdict(instance.name, "errors", text, {"errors": wrong, "median_of_others": right}, 0.85, step, 0.88)


def _error_share(instance: InstanceEvidence) -> float:
    return min(1.0, instance.errors / instance.rate) if instance.rate > 0 else 0.0


def _failures(service: ServiceEvidence) -> Iterator[Verdict]:
    if service.rate <= 0:
        return
    first = service.rate - service.retries
    if first > 0 and service.retries > _AMPLIFIED * first:
        share = service.retries / first
        text = f"{service.name}: retries add {percent(share)} to its requests"
        numbers = {"retries": service.retries, "requests": first}
        yield Verdict(service.name, "retries", text, numbers, 0.8, "look at why the first attempts fail", 0.65)
    share = service.errors / service.rate
    if share > _MANY_ERRORS:
        kind, count = max(service.failures.items(), key=lambda item: item[1], default=("", 0.0))
        most = f", most of them {kind}" if count > service.errors / 2 else ", most of them with a 5xx response"
        text = f"{service.name}: {percent(min(1.0, share))} of its requests fail{most}"
        numbers = {"errors": service.errors, "requests": service.rate, **service.failures}
        yield Verdict(service.name, "errors", text, numbers, 0.9, "look at the log of the service", 0.7)
