"""The status of a gateway, for the admin port and for the start report."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

from passerelle import __version__
from passerelle.discovery.overrides import target_key
from passerelle.supervisor.active_config import ActiveConfig
from passerelle.supervisor.fleet import Fleet
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.report import ReportRow
from passerelle.supervisor.supervised import ProcessState
from passerelle.supervisor.worker_process import WorkerProcess


def gateway_status(
    state: str,
    active: ActiveConfig,
    listen: str,
    uptime: float,
    workers: list[dict[str, Any]],
    services: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Return the response of ``/status``, as JSON-able values; ``uptime`` in seconds."""
    return {
        "version": __version__,
        "state": state,
        "config": active.file,
        "config_problems": list(active.problems),
        "listen": listen,
        "pid": os.getpid(),
        "uptime": round(uptime, 3),
        "workers": workers,
        "services": services,
    }


def service_status(
    source: str, snapshots: Iterable[dict[str, Any]], removed: list[str], instances: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the part of ``/status`` for a service; ``snapshots`` has the state of the service in each worker."""
    return {
        "source": source,
        **_combined(snapshots),
        "removed": removed,
        "up": sum(instance["state"] == "up" for instance in instances),
        "instances": instances,
    }


def _combined(snapshots: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Count the workers by the state of their circuit breaker, and sum their concurrency limits."""
    breaker: Counter[str] = Counter()
    concurrency: Counter[str] = Counter()
    for snapshot in snapshots:
        if snapshot["breaker"] is not None:
            breaker[snapshot["breaker"]] += 1
        concurrency.update(snapshot["concurrency"] or {})
    return {"breaker": dict(breaker) or None, "concurrency": dict(concurrency) or None}


async def fleet_status(fleet: Fleet) -> dict[str, Any]:
    """Return the response of ``/status`` for a supervisor."""
    now = fleet.clock()
    reports = await asyncio.gather(*(worker.status() for worker in fleet.workers))
    in_flight: Counter[str] = Counter()
    for report in reports:
        for instances in (report or {}).get("services", {}).values():
            for instance in instances:
                in_flight[instance["name"]] += instance["in_flight"]
    snapshots = [report["snapshots"] for report in reports if report is not None]
    services = {}
    for name, service in fleet.services.items():
        instances = [
            {
                **_process_status(i, now),
                "address": i.address,
                "problem": service.problems.get(i.name),
                "in_flight": in_flight[i.name],
            }
            for i in fleet.instances
            if i.service is service
        ]
        instances += [
            {
                "name": t.name,
                "address": t.address,
                "state": t.state,
                "problem": service.problems.get(t.name),
                "in_flight": in_flight[t.name],
                "weight": t.spec.weight,
                "origin": fleet.catalog.origin(name, target_key(t.spec)),
            }
            for t in fleet.targets
            if t.service is service
        ]
        services[name] = service_status(
            service.config.source,
            (of_worker[name] for of_worker in snapshots if name in of_worker),
            fleet.catalog.removed(name),
            instances,
        )
        if (scaling := fleet.scaling.get(name)) is not None:
            services[name]["scaling"] = scaling.status()
    workers = [
        {**_process_status(worker, now), "answers": report is not None}
        for worker, report in zip(fleet.workers, reports, strict=True)
    ]
    return gateway_status(fleet.state, fleet.active, fleet.listen, now - fleet.created, workers, services)


def _process_status(member: InstanceProcess | WorkerProcess, now: float) -> dict[str, Any]:
    process = member.process
    alive = process is not None and process.returncode is None
    return {
        "name": member.name,
        "state": member.state.value,
        "pid": process.pid if process is not None and alive else None,
        "restarts": member.restarts,
        "uptime": round(now - process.started, 3) if process is not None and alive else None,
        "last_end": member.last_end or None,
    }


def report_rows(fleet: Fleet) -> list[ReportRow]:
    """Return the rows of the start report."""
    rows = []
    for instance in fleet.instances:
        process = instance.process
        taken = instance.up_since - process.started if instance.up_since is not None and process else None
        state = instance.state
        problem = instance.last_end if state is ProcessState.WAITING else ""
        if state is ProcessState.STARTING:
            problem = instance.service.problems.get(instance.name, "not probed yet")
            problem += "; it receives requests as soon as it is up"
        pid = process.pid if process is not None and process.returncode is None else None
        shown = "failed" if state is ProcessState.WAITING else state.value
        rows.append(ReportRow(instance.name, instance.service.name, shown, instance.address, pid, taken, problem))
    for target in fleet.targets:
        problem = target.service.problems.get(target.name, "")
        rows.append(ReportRow(target.name, target.service.name, target.state, target.address, None, None, problem))
    order = list(fleet.services)
    rows.sort(key=lambda row: order.index(row.service))
    for worker in fleet.workers:
        assert worker.process is not None
        rows.append(ReportRow(worker.name, "", worker.state.value, fleet.listen, worker.process.pid, None))
    return rows
