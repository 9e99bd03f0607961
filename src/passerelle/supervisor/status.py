"""What a supervisor runs, for people and for programs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from passerelle import __version__
from passerelle.discovery.overrides import place_of
from passerelle.supervisor.instance_process import Instance
from passerelle.supervisor.report import Row
from passerelle.supervisor.summary import together
from passerelle.supervisor.supervised import State
from passerelle.supervisor.worker_process import Worker

if TYPE_CHECKING:
    from passerelle.supervisor.supervisor import Supervisor


def rows(it: Supervisor) -> list[Row]:
    """All that runs, for the start report."""
    rows = []
    for instance in it.instances:
        process = instance.process
        taken = instance.up_since - process.started if instance.up_since is not None and process else None
        state = instance.state
        problem = instance.last_end if state is State.WAITING else ""
        if state is State.STARTING:
            problem = f"{it.services[instance.service.name].problems.get(instance.name, 'not yet asked')}"
            problem += "; it joins as soon as it answers"
        pid = process.pid if process is not None and process.returncode is None else None
        name = "failed" if state is State.WAITING else state.value
        rows.append(Row(instance.name, instance.service.name, name, instance.address, pid, taken, problem))
    for target in it.targets:
        problem = target.service.problems.get(target.name, "")
        rows.append(Row(target.name, target.service.name, target.state, target.address, None, None, problem))
    order = list(it.services)
    rows.sort(key=lambda row: order.index(row.service))
    for worker in it.workers:
        assert worker.process is not None
        rows.append(Row(worker.name, "", worker.state.value, it.listen, worker.process.pid, None))
    return rows


async def status(it: Supervisor) -> dict[str, Any]:
    """Everything that runs, as JSON-able values; times in seconds."""
    now = it.clock()
    answers = await asyncio.gather(*(worker.status() for worker in it.workers))
    in_flight: dict[str, int] = {}
    for answer in answers:
        for listed in (answer or {}).get("services", {}).values():
            for seen in listed:
                in_flight[seen["name"]] = in_flight.get(seen["name"], 0) + seen["in_flight"]
    told = [answer["told"] for answer in answers if answer is not None]
    services = {}
    for name, service in it.services.items():
        members = [_describe(i, in_flight, now) for i in it.instances if i.service is service]
        members += [
            {
                "name": t.name,
                "address": t.address,
                "state": t.state,
                "problem": service.problems.get(t.name),
                "in_flight": in_flight.get(t.name, 0),
                "weight": t.spec.weight,
                "origin": it.catalog.origin(name, place_of(t.spec)),
            }
            for t in it.targets
            if t.service is service
        ]
        services[name] = {
            "source": service.config.source,
            **together([of_worker[name] for of_worker in told if name in of_worker]),
            "removed": it.catalog.removed(name),
            "up": sum(member["state"] == "up" for member in members),
            "instances": members,
        }
    return {
        "version": __version__,
        "state": it.state,
        "config": it.setup.file,
        "config_problems": list(it.changes.problems),
        "listen": it.listen,
        "pid": os.getpid(),
        "uptime": round(now - it.begun, 3),
        "workers": [
            {**_describe(w, {}, now), "answers": answer is not None}
            for w, answer in zip(it.workers, answers, strict=True)
        ],
        "services": services,
    }


def _describe(kept: Instance | Worker, in_flight: dict[str, int], now: float) -> dict[str, Any]:
    process = kept.process
    alive = process is not None and process.returncode is None
    described: dict[str, Any] = {
        "name": kept.name,
        "state": kept.state.value,
        "pid": process.pid if process is not None and alive else None,
        "restarts": kept.restarts,
        "uptime": round(now - process.started, 3) if process is not None and alive else None,
        "last_end": kept.last_end or None,
    }
    if isinstance(kept, Instance):
        described["address"] = kept.address
        described["problem"] = kept.service.problems.get(kept.name)
        described["in_flight"] = in_flight.get(kept.name, 0)
    return described
