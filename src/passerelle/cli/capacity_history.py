"""``passerelle capacity --from-history``: the capacity of a service from what it has served."""

from __future__ import annotations

import click

from passerelle.cli.admin_client import request_admin
from passerelle.cli.capacity_plot import text_plot
from passerelle.cli.capacity_report import found_as_json, needed, verdict, write_plot
from passerelle.cli.support import exit_negative, print_json, print_table
from passerelle.config.models.addresses import Address
from passerelle.config.reading.wording import hint
from passerelle.diagnosis.verdict import plural
from passerelle.scaling.history_points import HistoryPoints, history_points
from passerelle.scaling.usl import Undetermined, capacity


def report_history(
    service: str, admin: Address | str | None, rate: float | None, svg: str | None, as_json: bool
) -> None:
    """Print the capacity of ``service``; end the command with 1 if its history does not determine it."""
    services = request_admin(admin, "GET", "/history").get("services", {})
    if service not in services:
        known = hint(service, services) or f"; there are: {', '.join(sorted(services)) or 'none yet'}"
        click.echo(f"the history has no service {service!r}{known}", err=True)
        exit_negative()
    history, found, problem = HistoryPoints([], 0, 0), None, ""
    try:
        history = history_points(services[service])
        found = capacity(history.points)
    except Undetermined as undetermined:
        problem = str(undetermined)
    points = history.points
    instances = (service, history.instances) if history.instances else None
    if svg is not None and points:
        write_plot(svg, points, found, f"{service}: {history.seconds} seconds of its history")
    if as_json:
        steps = [{"in_flight": round(n, 3), "requests_per_second": round(x, 2)} for n, x in points]
        values = {"service": service, "seconds": history.seconds, "instances": history.instances, "points": steps}
        print_json({**values, "problem": problem or None, **found_as_json(found, rate, instances)})
    else:
        if points:
            rows = [(f"{n:.1f}", f"{x:.0f}", f"{n / x * 1000:.1f}") for n, x in points]
            print_table(("in flight", "requests/s", "ms"), rows)
            click.echo(f"\n{text_plot(points, found)}\n")
            click.echo(f"from {history.seconds} seconds with {plural(history.instances, 'instance')} of {service}")
        for line in [*verdict(found, problem), *needed(found, rate, instances)]:
            click.echo(line)
    if found is None:
        exit_negative()
