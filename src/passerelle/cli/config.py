"""Commands about the file: ``check``, ``routes``, ``schema``; and ``version``."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from passerelle import __version__
from passerelle.cli.support import (
    config_argument,
    exit_negative,
    json_option,
    print_json,
    print_problems,
    print_table,
    read_config,
    read_report,
)

if TYPE_CHECKING:
    from passerelle.config import Config, Route

_NAME = re.compile(r"[A-Za-z0-9._-]+").match


@click.command()
@config_argument
@click.option(
    "--elsewhere",
    is_flag=True,
    help="CONFIG is for another machine: only warn of files and folders that this one lacks.",
)
@json_option
def check(config: str | None, elsewhere: bool, as_json: bool) -> None:
    """Say everything that is wrong with CONFIG, a line each.

    Every line is file:line:column: key: what was found and what is allowed. Exit 0 if the file is right, 1 if it is
    not. Warnings go to stderr and change nothing. Nothing is started or made, and no address is asked.

    The files and folders that a start needs (certificates, keys, where logs and stores are written) are looked for on
    this machine, as this user.

    \b
    Examples:
      passerelle check
      passerelle check deploy/gateway.yaml --json
      passerelle check deploy/gateway.yaml --elsewhere
    """
    path, report = read_report(config, elsewhere=elsewhere)
    found = report.config
    if as_json:
        print_json(
            {
                "file": path,
                "ok": found is not None,
                "services": len(found.services) if found else None,
                "routes": len(found.routes) if found else None,
                "errors": [asdict(problem) for problem in report.errors],
                "warnings": [asdict(problem) for problem in report.warnings],
            }
        )
    else:
        print_problems(report.errors)
        print_problems(report.warnings, "warning: ", err=True)
        if found:
            counts = f"{_count(len(found.services), 'service')}, {_count(len(found.routes), 'route')}"
            click.echo(f"{path}: {click.style('ok', fg='green')} ({counts})")
    if found is None:
        exit_negative()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


@click.command()
@config_argument
@json_option
def routes(config: str | None, as_json: bool) -> None:
    """Print the route table of CONFIG, the most specific route first.

    That is the order in which routes win; the order of the file means nothing.

    \b
    Examples:
      passerelle routes
      passerelle routes gateway.yaml --json
    """
    from passerelle.config import rule_of
    from passerelle.config.models.units import duration_text, size_text
    from passerelle.routing.router import specificity

    found = read_config(config)
    order = sorted(enumerate(found.routes), key=lambda pair: specificity(rule_of(pair[1])))
    if as_json:
        print_json([_as_json(found, index, route) for index, route in order])
        return
    rows = []
    for index, route in order:
        accepted = route.accepted
        rows.append(
            (
                route.host or "*",
                "*" if accepted is None else ",".join(route.methods or sorted(m.decode() for m in accepted)),
                route.path,
                _answered_by(route),
                route.rewrite or "",
                duration_text(route.timeout),
                str(route.attempts),
                size_text(found.body_limit(route)),
                f"routes[{index}]",
            )
        )
    print_table(("HOST", "METHODS", "PATH", "SERVICE", "REWRITE", "TIMEOUT", "ATTEMPTS", "BODY", "KEY"), rows)


def _answered_by(route: Route) -> str:
    if route.compose is not None:
        return " + ".join(f"{key}: {part.service}" for key, part in route.compose.items())
    if route.login is not None:
        return f"login: {route.login.service}"
    return route.service or "logout"


def _as_json(config: Config, index: int, route: Route) -> dict[str, object]:
    from passerelle.config.describe import describe_part, describe_route

    accepted = route.accepted
    return {
        "index": index,
        "host": route.host,
        "methods": None if accepted is None else sorted(method.decode() for method in accepted),
        "path": route.path,
        "service": route.service,
        "compose": {key: describe_part(route, part) for key, part in route.compose.items()} if route.compose else None,
        "rewrite": route.rewrite,
        **describe_route(config, route),
    }


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    Editors complete and check the file with it: save it and put this line at the top of gateway.yaml.

    \b
    Examples:
      passerelle schema > passerelle.schema.json
      # yaml-language-server: $schema=passerelle.schema.json
    """
    from passerelle.config.schema import json_schema

    print_json(json_schema())


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of passerelle and of what it runs on."""
    parts = {"passerelle": __version__, "python": platform.python_version()}
    for requirement in importlib.metadata.requires("passerelle") or ():
        found = _NAME(requirement)
        if found is not None and "extra ==" not in requirement:
            parts[found.group()] = _installed(found.group())
    if as_json:
        print_json(parts)
        return
    width = max(map(len, parts))
    for name, number in parts.items():
        click.echo(f"{name.ljust(width)}  {number}")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
