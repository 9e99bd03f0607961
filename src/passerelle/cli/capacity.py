"""``passerelle capacity``: predict the peak throughput of a running gateway, from a load test or from its history."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from passerelle.cli.admin_client import admin_option
from passerelle.cli.capacity_report import found_as_json, needed, verdict, write_plot
from passerelle.cli.support import config_path, exit_negative, json_option, print_json, print_table, read_config

if TYPE_CHECKING:
    from passerelle.cli.closed_loop import ClosedLoop, Measurement
    from passerelle.config import Config
    from passerelle.config.models.addresses import Address
    from passerelle.scaling.usl import Capacity

SAFE = ("GET", "HEAD")
LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MOST_ERRORS = 0.01  # share of the requests of a step; beyond, the measurement ends
DECLINE = 0.85  # a step with less than this share of the best throughput ends the measurement
FEWEST_STEPS = 5
_OF_LOAD = ("method", "headers", "instances", "most", "seconds", "listen")


@click.command(options_metavar="[OPTIONS]", short_help="Measure a route and predict its peak throughput.")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] PATH")
@click.option(
    "--from-history", "service", metavar="SERVICE", help="Use what SERVICE has served in the last ten minutes instead."
)
@click.option("--method", default="GET", show_default=True, help="GET or HEAD.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header field to send.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Wanted requests per second.")
@click.option(
    "--instances", type=click.IntRange(1), metavar="N", help="Instances that run; by default the number in the file."
)
@click.option(
    "--most",
    type=click.IntRange(4, LEVELS[-1]),
    default=64,
    show_default=True,
    metavar="N",
    help="Highest number of clients.",
)
@click.option(
    "--seconds", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, metavar="S", help="Time of each step."
)
@click.option("--listen", metavar="HOST:PORT", help="Address of the gateway, if it is not that of the file.")
@click.option("--svg", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write a plot to FILE.")
@admin_option
@json_option
@click.pass_context
def capacity(
    context: click.Context,
    arguments: tuple[str, ...],
    service: str | None,
    method: str,
    headers: tuple[str, ...],
    rate: float | None,
    instances: int | None,
    most: int,
    seconds: float,
    listen: str | None,
    svg: str | None,
    admin: Address | str | None,
    as_json: bool,
) -> None:
    """Measure how many requests per second PATH can carry, with more and more clients.

    The gateway must run on this machine, at a loopback address. Clients send GET or HEAD requests, each one after the
    other. The Universal Scalability Law is fitted to the steps. The exit code is 1 if they do not determine it.

    With --from-history, no request is sent: the law is fitted to what a service has served.

    \b
    Examples:
      passerelle capacity /user/1
      passerelle capacity gateway.yaml /user/1 --rate 2000 --svg capacity.svg
      passerelle capacity --from-history user --rate 2000
    """
    if service is not None:
        _refuse_options(context, arguments)
        from passerelle.cli.capacity_history import report_history

        report_history(service, admin, rate, svg, as_json)
        return
    if not arguments:
        raise click.UsageError("a PATH is missing, or --from-history SERVICE")
    if len(arguments) > 2:
        raise click.UsageError(f"found {len(arguments)} arguments; allowed is [CONFIG] PATH")
    if method not in SAFE:
        raise click.UsageError(f"found the method {method!r}; allowed are GET and HEAD: others may change data")
    config = read_config(config_path(arguments[0] if len(arguments) == 2 else None))
    address = _address(config, listen)
    route = _route(config, method, arguments[-1], headers)
    steps = _measure(config, address, _request(method, arguments[-1], address, headers), most, seconds)
    if not steps[0].statuses:
        problem = steps[0].problem or f"no response within {seconds:g} s"
        click.echo(f"no response from a gateway at {address}: {problem}; is it running?", err=True)
        exit_negative()
    _report(route, steps, rate, _instances(route, instances), f"{method} {arguments[-1]}", svg, as_json)


def _refuse_options(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Refuse what has no meaning without a load test."""
    given = [name for name in _OF_LOAD if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if arguments or given:
        what = f"--{given[0].rstrip('s')}" if given else f"the argument {arguments[0]!r}"
        raise click.UsageError(f"--from-history sends no requests: {what} has no meaning beside it")


def _address(config: Config, given: str | None) -> Address:
    """Return the address of the gateway. :raises click.UsageError: unless it is a loopback address with a port."""
    from passerelle.config.models.addresses import Address, parse_listen

    try:
        address = parse_listen(given) if given is not None else config.address
    except ValueError as error:
        raise click.UsageError(f"--listen: {error}") from None
    assert isinstance(address, Address)
    loopback = address.host == "localhost"
    with contextlib.suppress(ValueError):
        loopback = ipaddress.ip_address(address.host).is_loopback
    if not loopback:
        raise click.UsageError(
            f"the gateway listens at {address}; a measurement is a load test, which is allowed at a loopback address"
            " only, such as 127.0.0.1"
        )
    if address.port == 0:
        raise click.UsageError("the port in the file is 0; give the address of the running gateway with --listen")
    return address


def _route(config: Config, method: str, path: str, headers: tuple[str, ...]) -> dict[str, Any]:
    """Return the route that the requests match, as `passerelle explain` describes it."""
    from passerelle.cli.explain import explained

    result = explained(config, method, path, headers)
    if result["status"] is not None:
        click.echo(f"{method} {path} is rejected with {result['status']}: {result['reason']}", err=True)
        exit_negative()
    route: dict[str, Any] = result["route"]
    return route


def _request(method: str, target: str, address: Address, headers: Sequence[str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1"]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append(f"Host: {address}")
    lines += headers
    if any(set(line) & set("\r\n") for line in lines):
        raise click.UsageError("found a line break in a header or in PATH")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _instances(route: dict[str, Any], given: int | None) -> tuple[str, int] | None:
    """Return the only service of the route and the number of its instances; None if it is not known."""
    if len(route["services"]) != 1:
        return None
    (service,) = route["services"].values()
    number = given or (service["instances"] if service["max_instances"] is None else None)
    return (service["name"], number) if number else None


def _measure(config: Config, address: Address, request: bytes, most: int, seconds: float) -> list[Measurement]:
    from passerelle.cli.closed_loop import ClosedLoop, without_verification

    levels = [level for level in LEVELS if level <= most]

    async def run() -> list[Measurement]:
        load = ClosedLoop(address.host, address.port, request, without_verification() if config.tls else None)
        try:
            with click.progressbar(length=len(levels), label="measuring", file=sys.stderr) as bar:
                return await _steps(load, levels, seconds, lambda: bar.update(1))
        finally:
            load.close()

    return asyncio.run(run())


async def _steps(
    load: ClosedLoop, levels: Sequence[int], seconds: float, progress: Callable[[], None]
) -> list[Measurement]:
    """Measure with each number of clients, until requests fail or the throughput clearly declines."""
    steps: list[Measurement] = []
    for level in levels:
        found = await load.measure(level, seconds / 4, seconds)
        steps.append(found)
        progress()
        best = max(step.throughput for step in steps)
        if found.errors > MOST_ERRORS * (found.served + found.errors) or not found.served:
            break
        if len(steps) > FEWEST_STEPS and found.throughput < DECLINE * best:
            break
    return steps


def _report(
    route: dict[str, Any],
    steps: Sequence[Measurement],
    rate: float | None,
    instances: tuple[str, int] | None,
    title: str,
    svg: str | None,
    as_json: bool,
) -> None:
    from passerelle.cli.capacity_plot import text_plot
    from passerelle.scaling.usl import CpuUse, Point, Undetermined, cpu_limit
    from passerelle.scaling.usl import capacity as fitted
    from passerelle.system import process_stats

    last = steps[-1]
    failing = not last.served or last.errors > MOST_ERRORS * (last.served + last.errors)
    good = steps[:-1] if failing else steps
    points = [Point(step.concurrency, step.throughput) for step in good if step.served]
    uses = [CpuUse(step.throughput, step.cpus) for step in good if step.served and step.cpus is not None]
    found, problem = None, ""
    try:
        found = fitted(points, limit=cpu_limit(uses, process_stats.cpus()))
    except Undetermined as undetermined:
        problem = str(undetermined)
    if failing:
        refused = {status: count for status, count in last.statuses.items() if status >= 400}
        reason = f"status {max(refused, key=refused.__getitem__)}" if refused else last.problem
        why = reason or "no response in the time of the step"
        notes = [f"requests fail at {last.clients} clients ({why}): the measurement ended there"]
    else:
        notes = []
    if route["cache"] is not None:
        notes.append("the route is cached: stored responses are measured, not the service")
    if svg is not None and points:
        write_plot(svg, points, found, title)
    if as_json:
        print_json(_as_json(route, steps, found, problem, notes, rate, instances))
    else:
        _print_table(steps)
        if points:
            click.echo(f"\n{text_plot(points, found)}\n")
        for line in [*verdict(found, problem), *needed(found, rate, instances), *notes]:
            click.echo(line)
    if found is None:
        exit_negative()


def _print_table(steps: Sequence[Measurement]) -> None:
    head = ("clients", "in flight", "requests/s", "ms", "errors")
    rows = []
    for step in steps:
        time = f"{step.concurrency / step.throughput * 1000:.1f}" if step.throughput else "-"
        rows.append((f"{step.clients}", f"{step.concurrency:.1f}", f"{step.throughput:.0f}", time, f"{step.errors}"))
    print_table(head, rows)


def _as_json(
    route: dict[str, Any],
    steps: Sequence[Measurement],
    found: Capacity | None,
    problem: str,
    notes: list[str],
    rate: float | None,
    instances: tuple[str, int] | None,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "route": route["label"],
        "steps": [
            {
                "clients": step.clients,
                "in_flight": round(step.concurrency, 3),
                "requests_per_second": round(step.throughput, 2),
                "errors": step.errors,
            }
            for step in steps
        ],
        "problem": problem or None,
        "notes": notes,
    }
    return result | found_as_json(found, rate, instances)
