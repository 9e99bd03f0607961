"""``passerelle migrate``: a first configuration from the routes of a monolith, and the progress since."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from passerelle.cli.admin_client import admin_option, try_admin
from passerelle.cli.options import parsed_by
from passerelle.cli.support import (
    Commands,
    config_argument,
    exit_negative,
    json_option,
    print_json,
    print_problems,
    print_table,
    read_config,
)
from passerelle.config.models.addresses import Address, parse_url
from passerelle.config.models.units import parse_duration
from passerelle.config.models.values import parse_app

if TYPE_CHECKING:
    from passerelle.migration.gateway_file import Monolith
    from passerelle.migration.survey import Survey

_MOST_LISTED = 100  # routes
_STATES = ("monolith", "shadowed", "moving", "services")


def _checked_url(context: click.Context, parameter: click.Parameter, word: str | None) -> str | None:
    """Return the word itself, as the file has it."""
    parsed_by(parse_url)(context, parameter, word)
    return word


@click.group(cls=Commands, invoke_without_command=True, short_help="Write a first configuration for a monolith.")
@click.option("--app", metavar="MODULE:ATTR", callback=parsed_by(parse_app), help="Its Flask application.")
@click.option("--python", metavar="PROGRAM", help="The interpreter of the application; by default that of passerelle.")
@click.option(
    "--import-timeout",
    metavar="DURATION",
    default="60s",
    show_default=True,
    callback=parsed_by(parse_duration),
    help="How long the application may take to be imported.",
)
@click.option("--openapi", metavar="FILE", type=click.Path(path_type=Path), help="Its OpenAPI 3 document.")
@click.option(
    "--log",
    "logs",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An access log of it: JSON of passerelle, or the common or combined format. Repeat it for several.",
)
@click.option("--address", metavar="URL", callback=_checked_url, help="The address at which it runs.")
@click.option(
    "-o", "--output", metavar="FILE", default="gateway.yaml", show_default=True, help="The file; - is stdout."
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@json_option
@click.pass_context
def migrate(
    context: click.Context,
    app: str | None,
    python: str | None,
    import_timeout: float,
    openapi: Path | None,
    logs: tuple[Path, ...],
    address: str | None,
    output: str,
    force: bool,
    as_json: bool,
) -> None:
    """Write a first configuration for a monolith: everything goes to it, with a route for each of its routes.

    The routes come from its Flask application (--app), its OpenAPI document (--openapi) or, without either, from the
    paths of an access log (--log). A log also shows which routes are busy, and which ones clients use together. Routes
    that are safe to shadow are marked, and the others have the reason why not.

    \b
    Examples:
      passerelle migrate --app shop:app
      passerelle migrate --openapi openapi.yaml --log access.log --address http://127.0.0.1:5000
      passerelle migrate --log access.log --log access.log.1.gz --address http://10.0.0.5:8000 -o first.yaml
      passerelle migrate status
    """
    if context.invoked_subcommand is not None:
        return
    if app is not None and openapi is not None:
        raise click.UsageError("--app and --openapi exclude each other")
    if app is None and openapi is None and not logs:
        raise click.UsageError("give the routes: --app, --openapi or --log")
    if python is not None and app is None:
        raise click.UsageError("--python has no effect without --app")
    if address is None and (app is None or python is not None):
        raise click.UsageError("give the address of the monolith, such as --address http://127.0.0.1:5000")
    if as_json and output == "-":
        raise click.UsageError("--json and -o - exclude each other")
    if output != "-" and not force:
        _refuse_existing(output)
    survey, origin = _survey(app, python or sys.executable, import_timeout, openapi, logs)
    text = _text(survey, _monolith(app, address, output), origin)
    if output == "-":
        click.echo(text, nl=False)
    else:
        _write(Path(output), text, force=force)
    if as_json:
        print_json({"file": output, **survey.to_json()})
    else:
        _print(survey, origin, err=output == "-")
        if output != "-":
            click.echo(f"\nwrote {output}")


@migrate.command(short_help="Show how many routes are on services.")
@config_argument
@click.option("--monolith", metavar="SERVICE", help="The service that is the monolith; by default it is `monolith`.")
@admin_option
@json_option
def status(config: str | None, monolith: str | None, admin: Address | str | None, as_json: bool) -> None:
    """Show how many routes of CONFIG are on services, and how many have a shadow.

    The route for everything else does not count. If a gateway runs, its comparisons are shown as well.
    """
    from passerelle.migration.progress import monolith_of, progress_of, summary

    loaded = read_config(config)
    try:
        name = monolith_of(loaded, monolith)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    admin = admin or (loaded.admin.listen if loaded.admin is not None else "off")
    report = try_admin(admin, "/shadow") if any(route.shadow is not None for route in loaded.routes) else {}
    splits = try_admin(admin, "/split") if loaded.splits and report is not None else {}
    weights = {route: split["weights"] for route, split in ((splits or {}).get("routes") or {}).items()}
    is_known = report is not None and splits is not None
    found = progress_of(loaded, name, (report or {}).get("routes", {}), weights)
    if as_json:
        routes = [
            {
                "route": each.route,
                "services": list(each.services),
                "state": each.state,
                "share": each.share,
                "compared": each.compared,
                "differing": each.differing,
                "verdict": each.verdict,
            }
            for each in found
        ]
        states = {state: sum(each.state == state for each in found) for state in _STATES}
        print_json({"monolith": name, "counts": states, "gateway": is_known, "routes": routes})
        return
    click.echo(summary(found))
    if not is_known:
        click.echo("no gateway responds at the admin address, so only the file is known", err=True)
    rows = [
        [
            each.route,
            f"{each.share:.1%} moved" if each.state == "moving" else each.state,
            " + ".join(each.services),
            each.verdict or "",
        ]
        for each in sorted(found, key=lambda each: _STATES.index(each.state))
    ]
    if rows:
        print_table(["ROUTE", "STATE", "SERVICE", "COMPARISON"], rows, wrap="COMPARISON")


def _survey(
    app: str | None, python: str, limit: float, openapi: Path | None, logs: tuple[Path, ...]
) -> tuple[Survey, str]:
    """Read the sources, and return what they have and their names."""
    from passerelle.migration import survey as sources
    from passerelle.migration.found_routes import SourceError

    try:
        if app is not None:
            survey, origin = sources.from_application(app, python, Path.cwd(), limit), app
        elif openapi is not None:
            survey, origin = sources.from_openapi(openapi), str(openapi)
        else:
            survey, origin = sources.from_logs(logs), ", ".join(map(str, logs))
        if logs:
            sources.add_traffic(survey, logs)
    except SourceError as error:
        raise click.ClickException(str(error)) from None
    return survey, origin


def _monolith(app: str | None, address: str | None, output: str) -> Monolith:
    from passerelle.migration.gateway_file import Monolith

    if address is not None:
        return Monolith(target=address)
    return Monolith(app=app, folder=os.path.relpath(Path.cwd(), Path(output).absolute().parent))


def _text(survey: Survey, monolith: Monolith, origin: str) -> str:
    """Return the text of the file. It is checked first: a table of routes can be too complex."""
    from passerelle.config import inspect_bytes
    from passerelle.migration.gateway_file import write_file

    requests = survey.traffic.requests if survey.traffic is not None else None
    text = write_file(monolith, survey.routes, requests, origin)
    report = inspect_bytes(text.encode(), "gateway.yaml", folder=Path.cwd(), elsewhere=True)
    if report.config is None:
        click.echo("the gateway cannot have this table of routes:", err=True)
        print_problems(report.errors[:20], err=True)
        exit_negative()
    return text


def _refuse_existing(output: str) -> None:
    if os.path.lexists(output):
        click.echo(f"{output} exists; --force replaces it, and -o names another file", err=True)
        exit_negative()


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write the file, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            if force:
                temporary.replace(path)
                return
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)  # unlike a rename, it fails if the file exists by now
                return
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    _refuse_existing(str(path))


def _print(survey: Survey, origin: str, *, err: bool) -> None:
    """Print the routes, which are used together, and what was not read."""
    from passerelle.migration.found_routes import why_not_shadowed

    traffic, summary = survey.traffic, survey.summary
    click.echo(f"{len(survey.routes)} routes of {origin}", err=err)
    if summary is not None:
        click.echo(f"{summary.requests} requests in {summary.lines} lines", err=err)
    partners: dict[int, str] = {}
    for pair in survey.together:
        for number, other in ((pair.first, pair.second), (pair.second, pair.first)):
            partners.setdefault(number, f"{survey.routes[other].label} {pair.share:.0%}")
    rows = []
    for number, route in enumerate(survey.routes[:_MOST_LISTED]):
        why = why_not_shadowed(route)
        busy = str(traffic.requests[number]) if traffic is not None else ""
        methods = ",".join(route.methods) or "*"
        shadow = "yes" if why is None else f"no: {why}"
        rows.append([methods, (route.host or "") + route.path, busy, partners.get(number, ""), shadow])
    if rows:
        print_table(["METHODS", "PATH", "REQUESTS", "TOGETHER WITH", "SHADOW"], rows, wrap="SHADOW", err=err)
    if len(survey.routes) > len(rows):
        click.echo(f"… and {len(survey.routes) - len(rows)} more (--json lists all)", err=err)
    for refused in survey.refused:
        click.echo(f"left to the last route: {refused.source}: {refused.why}", err=True)
    if summary is not None and traffic is not None:
        _print_rest(survey)


def _print_rest(survey: Survey) -> None:
    """Print to stderr which lines of the logs are not in the counts of routes."""
    traffic, summary = survey.traffic, survey.summary
    assert traffic is not None and summary is not None
    if survey.left_out:
        click.echo(f"{survey.left_out} requests have rarer routes, which are left to the last route", err=True)
    elif traffic.unmatched:
        click.echo(f"{traffic.unmatched} requests match only the last route, for everything else", err=True)
    if traffic.not_found:
        click.echo(f"{traffic.not_found} requests match no route, and the monolith refused them too", err=True)
    if summary.unreadable:
        reasons = ", ".join(f"{count} {why}" for why, count in summary.unreadable.most_common())
        total = summary.unreadable.total()
        click.echo(f"{total} line{'s were' if total > 1 else ' was'} not read: {reasons}", err=True)
        for example in summary.examples:
            click.echo(f"  {example}", err=True)
