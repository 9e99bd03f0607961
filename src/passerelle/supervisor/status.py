"""What a supervisor runs, for people and for programs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from passerelle import __version__
from passerelle.discovery.overrides import target_key
from passerelle.supervisor.instance_process import InstanceProcess
from passerelle.supervisor.report import ReportRow
from passerelle.supervisor.summary import combined_status
from passerelle.supervisor.supervised import ProcessState
from passerelle.supervisor.worker_process import WorkerProcess

if TYPE_CHECKING:
    from passerelle.supervisor.supervisor import Supervisor


def rows(supervisor: Supervisor) -> list[ReportRow]:
    """All that runs, for the start report."""
    rows = []
    for instance in supervisor.instances:
        process = instance.process
        taken = instance.up_since - process.started if instance.up_since is not None and process else None
        state = instance.state
        problem = instance.last_end if state is ProcessState.WAITING else ""
        if state is ProcessState.STARTING:
            problem = f"{supervisor.services[instance.service.name].problems.get(instance.name, 'not yet asked')}"
            problem += "; it joins as soon as it answers"
        pid = process.pid if process is not None and process.returncode is None else None
        name = "failed" if state is ProcessState.WAITING else state.value
        rows.append(ReportRow(instance.name, instance.service.name, name, instance.address, pid, taken, problem))
    for target in supervisor.targets:
        problem = target.service.problems.get(target.name, "")
        rows.append(ReportRow(target.name, target.service.name, target.state, target.address, None, None, problem))
    order = list(supervisor.services)
    rows.sort(key=lambda row: order.index(row.service))
    for worker in supervisor.workers:
        assert worker.process is not None
        rows.append(ReportRow(worker.name, "", worker.state.value, supervisor.listen, worker.process.pid, None))
    return rows


async def status(supervisor: Supervisor) -> dict[str, Any]:
    """Everything that runs, as JSON-able values; times in seconds."""
    now = supervisor.clock()
    answers = await asyncio.gather(*(worker.status() for worker in supervisor.workers))
    in_flight: dict[str, int] = {}
    for answer in answers:
        for listed in (answer or {}).get("services", {}).values():
            for seen in listed:
                in_flight[seen["name"]] = in_flight.get(seen["name"], 0) + seen["in_flight"]
    told = [answer["told"] for answer in answers if answer is not None]
    services = {}
    for name, service in supervisor.services.items():
        members = [_describe(i, in_flight, now) for i in supervisor.instances if i.service is service]
        members += [
            {
                "name": t.name,
                "address": t.address,
                "state": t.state,
                "problem": service.problems.get(t.name),
                "in_flight": in_flight.get(t.name, 0),
                "weight": t.spec.weight,
                "origin": supervisor.catalog.origin(name, target_key(t.spec)),
            }
            for t in supervisor.targets
            if t.service is service
        ]
        services[name] = {
            "source": service.config.source,
            **combined_status([of_worker[name] for of_worker in told if name in of_worker]),
            "removed": supervisor.catalog.removed(name),
            "up": sum(member["state"] == "up" for member in members),
            "instances": members,
        }
    return {
        "version": __version__,
        "state": supervisor.state,
        "config": supervisor.setup.file,
        "config_problems": list(supervisor.changes.problems),
        "listen": supervisor.listen,
        "pid": os.getpid(),
        "uptime": round(now - supervisor.begun, 3),
        "workers": [
            {**_describe(w, {}, now), "answers": answer is not None}
            for w, answer in zip(supervisor.workers, answers, strict=True)
        ],
        "services": services,
    }


def _describe(member: InstanceProcess | WorkerProcess, in_flight: dict[str, int], now: float) -> dict[str, Any]:
    process = member.process
    alive = process is not None and process.returncode is None
    described: dict[str, Any] = {
        "name": member.name,
        "state": member.state.value,
        "pid": process.pid if process is not None and alive else None,
        "restarts": member.restarts,
        "uptime": round(now - process.started, 3) if process is not None and alive else None,
        "last_end": member.last_end or None,
    }
    if isinstance(member, InstanceProcess):
        described["address"] = member.address
        described["problem"] = member.service.problems.get(member.name)
        described["in_flight"] = in_flight.get(member.name, 0)
    return described
