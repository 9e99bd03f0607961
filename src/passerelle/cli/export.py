"""``passerelle export``: configurations for other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from passerelle.cli.starting import parsed_by
from passerelle.cli.support import Commands, config_argument, exit_negative, print_problems, read_text
from passerelle.config.models.addresses import Address, parse_listen

if TYPE_CHECKING:
    from passerelle.config.problems import Finding
    from passerelle.export.checkers import Checker
    from passerelle.export.deployment import Deployment
    from passerelle.export.pipeline import Project

_MARK = "Exported by passerelle from "


@click.group(cls=Commands, short_help="Write configurations for other programs.")
def export() -> None:
    """Write configurations for other programs: nginx, systemd, Prometheus, GitHub, GitLab.

    What a program cannot express is listed with its place in the file, and nothing is exported (exit code 1) unless
    --accept-losses is given. The same file gives the same bytes.
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all targets."""
    folder = click.option(
        "--folder",
        metavar="FOLDER",
        help="Where the folder of CONFIG is when the export is used; by default where it is now.",
    )
    output = click.option("-o", "--output", metavar="FOLDER", help="Write the file to FOLDER instead of stdout.")
    force = click.option("--force", is_flag=True, help="With -o: replace a file that was not exported.")
    losses = click.option("--accept-losses", is_flag=True, help="Export even if something is lost.")
    check = click.option("--check", is_flag=True, help="Validate the export with the target's own program.")
    for option in (check, losses, force, output, folder, config_argument):
        function = option(function)
    return function


@export.command(short_help="nginx in front of gateways, or in place of one.")
@_options
@click.option(
    "--gateways",
    metavar="HOST:PORT,…",
    callback=lambda context, parameter, found: _addresses(context, parameter, found),
    help="The gateways behind nginx; by default one, at the address of CONFIG.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=parsed_by(parse_listen),
    help="The address of nginx; by default port 80 (443 with TLS), with --instead the address of CONFIG.",
)
@click.option("--instead", is_flag=True, help="nginx in place of the gateway, for what nginx can do.")
def nginx(gateways: Sequence[Address], listen: Address | None, instead: bool, **common: Any) -> None:
    """Write an nginx.conf: nginx in front of gateways, which still apply the whole file.

    With --instead, nginx takes the place of the gateway, with one upstream per service. Routes that nginx cannot serve,
    or only without a guard, respond 501.

    \b
    Examples:
      passerelle export nginx --gateways 10.0.0.1:8080,10.0.0.2:8080 -o /etc/nginx --check
      passerelle export nginx gateway.yaml --instead --accept-losses
    """
    from passerelle.export import nginx_front, nginx_place
    from passerelle.export.checkers import NGINX

    if instead and gateways:
        raise click.UsageError("--gateways has no effect with --instead")
    deployment = _read(common["config"], common["folder"])
    if instead:
        text, losses = nginx_place.export(deployment, listen)
    else:
        text, losses = nginx_front.export(deployment, gateways, listen)
    _finish(deployment, "nginx.conf", text, losses, NGINX, common)


@export.command(short_help="A unit that runs the services and the gateway.")
@_options
@click.option(
    "--program",
    default="/usr/local/bin/passerelle",
    show_default=True,
    metavar="PATH",
    help="The absolute path of passerelle on that machine.",
)
@click.option("--user", default="passerelle", show_default=True, metavar="NAME", help="The user that runs it.")
def systemd(program: str, user: str, **common: Any) -> None:
    """Write passerelle.service: a unit of systemd that runs the services and the gateway, with few rights.

    \b
    Examples:
      passerelle export systemd --folder /etc/passerelle -o /etc/systemd/system --check
    """
    from passerelle.export import systemd as target
    from passerelle.export.checkers import SYSTEMD_ANALYZE

    if not os.path.isabs(program):
        raise click.UsageError(f"--program: found {program!r}; allowed is an absolute path")
    if not user.replace("-", "").replace("_", "").isalnum() or not user.isascii():
        raise click.UsageError(f"--user: found {user!r}; allowed is the name of a user")
    deployment = _read(common["config"], common["folder"])
    for path in (program, os.fspath(deployment.folder), deployment.file):
        if not target.is_allowed(path):
            raise click.UsageError(f"found the path {path!r}; a unit of systemd has no quotes or backslashes in paths")
    text, losses = target.export(deployment, program, user)
    _finish(deployment, "passerelle.service", text, losses, SYSTEMD_ANALYZE, common)


@export.command("prometheus-rules", short_help="Alerting rules for Prometheus.")
@_options
def prometheus_rules(**common: Any) -> None:
    """Write passerelle.rules.yml: alerting rules for Prometheus.

    \b
    Examples:
      passerelle export prometheus-rules -o /etc/prometheus --check
    """
    from passerelle.export import prometheus_rules as target
    from passerelle.export.checkers import PROMTOOL

    deployment = _read(common["config"], common["folder"])
    text, losses = target.export(deployment)
    _finish(deployment, "passerelle.rules.yml", text, losses, PROMTOOL, common)


def _project_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of pipelines."""
    python = click.option("--python", default="3.13", show_default=True, metavar="VERSION", help="Version of Python.")
    install = click.option(
        "--install",
        default="pip install -r requirements.txt",
        show_default=True,
        metavar="COMMAND",
        help="Installs the project, with passerelle.",
    )
    test = click.option(
        "--test", default="python -m pytest", show_default=True, metavar="COMMAND", help="Runs the tests."
    )
    for option in (test, install, python):
        function = option(function)
    return function


@export.command(short_help="A workflow of GitHub Actions for the project.")
@_options
@_project_options
def github(python: str, install: str, test: str, **common: Any) -> None:
    """Write gateway.yml, a workflow of GitHub Actions: checks, tests, image, rollout in stages, rollback.

    The executable deploy/run of the project puts an image into service: it receives IMAGE (with its digest) and STAGE
    (staging, canary or production), and ends with 0 once the stage serves.

    \b
    Examples:
      passerelle export github -o .github/workflows --check
      passerelle export github --install "pip install -e .[test]" --test "make test"
    """
    from passerelle.export import github as target
    from passerelle.export.checkers import GITHUB

    deployment = _read(common["config"], common["folder"])
    text, losses = target.export(deployment, _project(python, install, test))
    _finish(deployment, "gateway.yml", text, losses, GITHUB, common)


@export.command(short_help="A pipeline of GitLab for the project.")
@_options
@_project_options
def gitlab(python: str, install: str, test: str, **common: Any) -> None:
    """Write .gitlab-ci.yml, a pipeline of GitLab: checks, tests, image, rollout in stages, rollback.

    The executable deploy/run of the project puts an image into service: it receives IMAGE (with its digest) and STAGE
    (staging, canary or production), and ends with 0 once the stage serves.

    \b
    Examples:
      passerelle export gitlab -o . --check
    """
    from passerelle.export import gitlab as target
    from passerelle.export.checkers import GITLAB

    deployment = _read(common["config"], common["folder"])
    text, losses = target.export(deployment, _project(python, install, test))
    _finish(deployment, ".gitlab-ci.yml", text, losses, GITLAB, common)


def _project(python: str, install: str, test: str) -> Project:
    from passerelle.export.pipeline import Project

    if not re.fullmatch(r"3\.\d{1,2}", python):
        raise click.UsageError(f"--python: found {python!r}; allowed is a version such as 3.13")
    return Project(python, install, test)


def _addresses(context: click.Context, parameter: click.Parameter, found: str | None) -> Sequence[Address]:
    if found is None:
        return ()
    one = parsed_by(parse_listen)
    return tuple(one(context, parameter, each.strip()) for each in found.split(","))


def _read(given: str | None, folder: str | None) -> Deployment:
    """Read the configuration, which may be for another machine. If it has errors, the command ends with 1."""
    from passerelle.export.deployment import Deployment

    if folder is not None and not os.path.isabs(folder):
        raise click.UsageError(f"--folder: found {folder!r}; allowed is an absolute path")
    name, text, config = read_text(given)
    return Deployment(config, text, name, Path(folder) if folder is not None else Path(name).absolute().parent)


def _finish(
    deployment: Deployment,
    name: str,
    text: str,
    losses: Sequence[Finding],
    checker: Checker,
    common: dict[str, Any],
) -> None:
    """List the losses, validate the export, and write it."""
    problems = sorted(map(deployment.locate, losses), key=lambda problem: (problem.line, problem.column, problem.key))
    print_problems(problems, "lost: ", err=True)
    if problems and not common["accept_losses"]:
        click.echo("nothing was exported; --accept-losses exports the rest", err=True)
        exit_negative()
    if common["check"]:
        _check(checker, name, text)
    if common["output"] is None:
        click.echo(text, nl=False)
    else:
        _write(Path(common["output"]), name, text, common["force"])


def _check(checker: Checker, name: str, text: str) -> None:
    found = checker.find()
    if found is None:
        click.echo(f"not validated: {checker.program} is not installed", err=True)
        return
    report = checker.run(found, name, text)
    if report is not None:
        click.echo(report, err=True)
        click.echo(f"nothing was exported: {checker.program} refuses {name}", err=True)
        exit_negative()
    click.echo(f"{checker.program} accepts {name}", err=True)


def _write(folder: Path, name: str, text: str, force: bool) -> None:
    """Write a file to a folder, all of it or nothing. A file that was not exported is not replaced."""
    path = folder / name
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not force and _MARK not in _first_line(path):
            click.echo(f"{path} exists and was not exported by passerelle; --force replaces it", err=True)
            exit_negative()
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
    click.echo(f"wrote {path}", err=True)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1024).decode("utf-8", "replace")
