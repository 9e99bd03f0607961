"""The walk: each step with its command, what visitors saw meanwhile, and a report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossing import configurations
from crossing.configurations import NEW, Pace, Place
from crossing.gateway import Gateway, Trouble, run_command
from crossing.load import Figures, Visitors
from crossing.services import DEFECTS

Tell = Callable[[str], None]


def route_of(resource: str) -> str:
    """Return the name of the route of a resource."""
    return f"GET /{resource}/{{{resource}_id}}"


class Walk:
    """From everything on the monolith to the composed services, with one report for each part."""

    def __init__(self, place: Place, pace: Pace, environ: dict[str, str], tell: Tell) -> None:
        self._place = place
        self._pace = pace
        self._environ = environ
        self._tell = tell
        self._parts: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Walk, and return the report."""
        began = time.monotonic()
        place, pace = self._place, self._pace
        self._tell("1. A first file, with a route for each route of the monolith:")
        self._say(
            run_command(
                place.folder, self._environ, "migrate", "--app", "crossing.services:monolith()", "-o", "first.yaml"
            )
        )
        first = (place.folder / "first.yaml").read_text()
        lines = configurations.head(place, {"monolith": None}) + first.partition("routes:\n")[2]
        with Gateway(place, lines, self._environ) as gateway:
            with Visitors(place.port, pace.rate, pace.visitors, ("user", "user", "product", "product", "api")) as load:
                begin = time.monotonic()
                time.sleep(pace.look)
                self._report(load, "all on the monolith", begin)
                self._compared_and_moved(gateway, load)
                self._composed(gateway, load)
            total = Figures.of(load.outcomes)
        self._tell("\nIn total:")
        self._tell(table([*self._parts, {"part": "all", **asdict(total)}]))
        return {
            "seconds": round(time.monotonic() - began, 1),
            "failed": total.failed,
            "parts": self._parts,
            "total": asdict(total),
        }

    def _compared_and_moved(self, gateway: Gateway, load: Visitors) -> None:
        self._tell("\n2. The new services receive copies of the requests, and their responses are compared:")
        resources = tuple(NEW)
        begin = time.monotonic()
        gateway.write(configurations.rolled_out(self._place, self._pace, resources))
        self._say(gateway.passerelle("reload"))
        for resource in resources:
            self._say(gateway.passerelle("rollout", route_of(resource), "start"))
        self._tell("   When the responses are the same, visitors move, 1 % of them first:")
        for number, name in enumerate(("compared", *(f"{share} % moved" for share in (1, 5, 25, 50, 100)))):
            self._wait_for_step(gateway, resources, number)
            begin = self._report(load, name, begin)
        for resource in resources:
            state = gateway.rollout(route_of(resource))
            if state["status"] != "done":
                raise Trouble(f"the rollout of {route_of(resource)} ended with {state['status']}: {state['reason']}")
        self._say(gateway.passerelle("shadow", "report", expected=(0, 1)))
        self._say(gateway.passerelle("migrate", "status"))

    def _composed(self, gateway: Gateway, load: Visitors) -> None:
        self._tell("\n3. The gateway composes the page of both, and the monolith is left:")
        begin = time.monotonic()
        gateway.write(configurations.composed(self._place))
        self._say(gateway.passerelle("reload"))
        begin = self._report(load, "the last reload", begin)
        time.sleep(self._pace.look)
        self._report(load, "all on the services", begin)

    def _wait_for_step(self, gateway: Gateway, resources: tuple[str, ...], number: int) -> None:
        """Wait until the rollouts of all ``resources`` have reached the step ``number``, or have ended."""

        def is_there(state: dict[str, Any]) -> bool:
            return state["status"] not in ("shadow", "running") or bool(state["step"] >= number)

        gateway.wait(
            lambda: all(is_there(gateway.rollout(route_of(resource))) for resource in resources),
            self._pace.limit,
            "the next step of the rollouts",
        )

    def _report(self, load: Visitors, name: str, begin: float) -> float:
        """Report what visitors saw since ``begin``, and return the present time."""
        now = time.monotonic()
        figures = Figures.of(load.between(begin, now))
        self._parts.append({"part": name, **asdict(figures)})
        served = ", ".join(f"{count} by {side}" for side, count in figures.served_by.items())
        self._tell(
            f"   {name}: {figures.requests} requests, {figures.failed} failed, p50 {figures.p50:g} ms, "
            f"p99 {figures.p99:g} ms; {served}"
        )
        return now

    def _say(self, output: str) -> None:
        for line in output.rstrip().splitlines():
            self._tell(f"   | {line}")


def defective(place: Place, pace: Pace, environ: dict[str, str], defect: str, seed: int, tell: Tell) -> dict[str, Any]:
    """Roll out a service with a defect, and return when and why it was rolled back, and who saw it."""
    resource, _ = DEFECTS[defect]
    route = route_of(resource)
    began = time.monotonic()
    with Gateway(place, configurations.rolled_out(place, pace, (resource,), defect), environ) as gateway:
        with Visitors(place.port, pace.rate, pace.visitors, (resource,), seed) as load:
            gateway.passerelle("rollout", route, "start")
            gateway.wait(
                lambda: gateway.rollout(route)["status"] in ("rolled_back", "done"), pace.limit, "the rollback"
            )
            state = gateway.rollout(route)
            caught = time.monotonic()
            # Requests that were in flight at the rollback have ended by then.
            gateway.wait(lambda: len(load.between(caught + 0.5)) >= 20, 10.0, "requests after the rollback")
            later = load.between(caught + 0.5)
        outcomes = load.outcomes
    saw = {outcome.visitor for outcome in outcomes if outcome.served_by == NEW[resource]}
    report = {
        "defect": defect,
        "caught": state["status"] == "rolled_back",
        "reason": state["reason"],
        "evidence": state["evidence"],
        "step": state["step"],
        "seconds": round(caught - began, 1),
        "visitors": pace.visitors,
        "saw": len(saw),
        "failed": sum(outcome.status != 200 for outcome in outcomes),
        "after": sum(outcome.served_by == NEW[resource] for outcome in later),
    }
    word = "rolled back" if report["caught"] else "NOT CAUGHT"
    when = "before the first visitor" if state["step"] < 0 else f"in step {state['step'] + 1}"
    tell(
        f"   {defect}: {word} {when}, {report['seconds']:g} s after the start: {state['reason']}; "
        f"{len(saw)} of {pace.visitors} visitors saw it, {report['failed']} requests failed"
    )
    return report


def is_good(report: dict[str, Any]) -> bool:
    """Return whether a defect was caught before more than 1 % of the visitors saw it, and without a failed request."""
    few = report["saw"] <= report["visitors"] // 100
    return bool(report["caught"] and few and not report["failed"] and not report["after"])


@contextmanager
def fresh(folder: Path) -> Any:
    """Give an empty folder for the files of one gateway."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(parts: list[dict[str, Any]]) -> str:
    """Return the figures of all parts as a table."""
    rows = [["part", "requests", "failed", "p50 ms", "p99 ms"]]
    rows += [[str(part[key]) for key in ("part", "requests", "failed", "p50", "p99")] for part in parts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "   "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell.rjust(w)}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
