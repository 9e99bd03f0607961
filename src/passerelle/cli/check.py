"""``passerelle check``: report all errors in the configuration."""

from __future__ import annotations

from dataclasses import asdict

import click

from passerelle.cli.plugin_check import plugin_findings
from passerelle.cli.support import (
    config_argument,
    exit_negative,
    json_option,
    print_json,
    print_problems,
    read_report,
)


@click.command(short_help="Report all errors in the configuration.")
@config_argument
@click.option(
    "--elsewhere",
    is_flag=True,
    help="Check CONFIG for another machine: files and folders that are missing here are only warnings.",
)
@json_option
def check(config: str | None, elsewhere: bool, as_json: bool) -> None:
    """Report all errors in CONFIG, one line each.

    Each line has the form file:line:column: key: what was found; what is allowed. The exit code is 0 if the file has no
    errors, and 1 if it has. Warnings go to stderr and do not change the exit code. The command starts nothing, creates
    nothing and contacts no address. It imports the modules of plugins in another process.

    The files and folders that a start needs (certificates, keys, the folders of logs and stores) are checked on this
    machine, with the permissions of the current user.

    \b
    Examples:
      passerelle check
      passerelle check deploy/gateway.yaml --json
      passerelle check deploy/gateway.yaml --elsewhere
    """
    path, report = read_report(config, elsewhere=elsewhere)
    found, errors = report.config, report.errors
    if found is not None and not elsewhere and report.locate is not None:
        errors = tuple(map(report.locate, plugin_findings(found)))
        found = None if errors else found
    if as_json:
        print_json(
            {
                "file": path,
                "ok": found is not None,
                "services": len(found.services) if found else None,
                "routes": len(found.routes) if found else None,
                "errors": [asdict(problem) for problem in errors],
                "warnings": [asdict(problem) for problem in report.warnings],
            }
        )
    else:
        print_problems(errors)
        print_problems(report.warnings, "warning: ", err=True)
        if found:
            counts = f"{_count(len(found.services), 'service')}, {_count(len(found.routes), 'route')}"
            click.echo(f"{path}: {click.style('ok', fg='green')} ({counts})")
    if found is None:
        exit_negative()


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
