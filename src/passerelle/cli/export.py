"""``passerelle export``: configurations for other programs.

The file is longer than 400 lines because the options of all targets are declared in one place.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from passerelle.cli.export_folder import write_folder
from passerelle.cli.options import parsed_by
from passerelle.cli.support import Commands, config_argument, exit_negative, print_problems, read_text
from passerelle.config.models.addresses import Address, parse_listen

if TYPE_CHECKING:
    from passerelle.config.problems import Finding
    from passerelle.export.checkers import Checker
    from passerelle.export.deployment import Deployment
    from passerelle.export.pipeline import Project


@click.group(cls=Commands, short_help="Write configurations for other programs.")
def export() -> None:
    """Write configurations for other programs: nginx, HAProxy, systemd, Prometheus, Compose, Kubernetes,
    pipelines.

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


@export.command(short_help="HAProxy in front of gateways.")
@_options
@click.option(
    "--gateways",
    metavar="HOST:PORT,…",
    callback=lambda context, parameter, found: _addresses(context, parameter, found),
    help="The gateways behind HAProxy; by default one, at the address of CONFIG.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=parsed_by(parse_listen),
    help="The address of HAProxy; by default port 80 (443 with TLS).",
)
def haproxy(gateways: Sequence[Address], listen: Address | None, **common: Any) -> None:
    """Write a haproxy.cfg: HAProxy in front of gateways, which still apply the whole file.

    \b
    Examples:
      passerelle export haproxy --gateways 10.0.0.1:8080,10.0.0.2:8080 -o /etc/haproxy --check
    """
    from passerelle.export import haproxy as target
    from passerelle.export.checkers import HAPROXY

    deployment = _read(common["config"], common["folder"])
    text, losses = target.export(deployment, gateways, listen)
    _finish(deployment, "haproxy.cfg", text, losses, HAPROXY, common)


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
    """Write passerelle.service, a unit of systemd that runs the services and the gateway, with few rights, and
    passerelle.socket, whose sockets stay open while the service restarts.

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
    files = {target.SERVICE: text}
    if (sockets := target.socket_unit(deployment)) is not None:
        files[target.SOCKET] = sockets
    _finish_all(deployment, files, losses, [(SYSTEMD_ANALYZE, target.SERVICE)], common)


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


@export.command(short_help="Manifests for a Kubernetes cluster.")
@_options
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image of gateways; by default passerelle with the tag of this version.",
)
@click.option(
    "--service-image",
    "service_images",
    multiple=True,
    metavar="[SERVICE=]IMAGE",
    help="The image of a service, or of all; by default passerelle-services with the tag of this version.",
)
@click.option(
    "--gateways", type=click.IntRange(1, 1000), default=2, show_default=True, metavar="N", help="Number of gateways."
)
@click.option("--namespace", metavar="NAME", help="Creates this namespace, and puts everything into it.")
@click.option("--gateway-class", metavar="NAME", help="Class of the Gateway, one of `kubectl get gatewayclass`.")
@click.option("--ingress", metavar="CLASS", help="An Ingress of this class in place of Gateway and HTTPRoute.")
@click.option("--redis", metavar="URL", help="The Redis of the cluster, in place of that of CONFIG.")
@click.option(
    "--scale-by",
    type=click.Choice(["in-flight", "cpu"]),
    default="in-flight",
    show_default=True,
    help="What the number of instances follows: the requests in flight that Prometheus has, or the use of the CPU.",
)
@click.option(
    "--migrate",
    "migrations",
    multiple=True,
    metavar="SERVICE=COMMAND",
    help="A job that prepares the database of a service; may be repeated.",
)
@click.option("--backup", metavar="SCHEDULE", help="A job that runs `passerelle backup`, such as '17 3 * * *'.")
@click.option(
    "--backup-image",
    metavar="IMAGE",
    help="The image of that job; by default passerelle-backup with the tag of this version.",
)
@click.option(
    "--monitoring", default="monitoring", show_default=True, metavar="NAMESPACE", help="The namespace of Prometheus."
)
def kubernetes(**common: Any) -> None:
    """Write manifests for Kubernetes with overlays for kustomize: gateways, services, routes, limits on the network.

    Without -o, the manifests are written to standard output. Existing overlays are kept, unless --force is given.

    \b
    Examples:
      passerelle export kubernetes --gateway-class eg -o deploy --check
      passerelle export kubernetes --ingress traefik --image registry.example/shop:7 -o deploy
    """
    from passerelle.cli import export_kubernetes

    common["folder"] = common["folder"] or export_kubernetes.FOLDER
    deployment = _read(common["config"], common["folder"])
    options = export_kubernetes.options_of(deployment, common)
    files, losses = export_kubernetes.files_of(deployment, options)
    _report_losses(deployment, losses, common["accept_losses"])
    if common["check"]:
        export_kubernetes.check(deployment, options, files)
    export_kubernetes.write(deployment, files, common["output"], force=common["force"])


@export.command(short_help="Gateways and services as containers, with databases and monitoring.")
@_options
@click.option(
    "--gateways", type=click.IntRange(1, 100), default=2, show_default=True, metavar="N", help="Gateways behind nginx."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    help="The port of nginx on the machine; by default 80, or 443 with TLS.",
)
@click.option("--image", default="passerelle", show_default=True, metavar="NAME", help="The image of gateways.")
@click.option(
    "--service-image",
    default="passerelle-services",
    show_default=True,
    metavar="NAME",
    help="The image of services, with the folder of CONFIG in /srv/app.",
)
@click.option(
    "--backup-image", default="passerelle-backup", show_default=True, metavar="NAME", help="The image of backups."
)
@click.option(
    "--subnet",
    default="10.213.84.0/24",
    show_default=True,
    metavar="NETWORK",
    callback=lambda context, parameter, found: _subnet(context, parameter, found),
    help="The network of nginx and the gateways, which have fixed addresses; services have the next one.",
)
@click.option(
    "--database",
    "databases",
    multiple=True,
    metavar="SERVICE=VARIABLE",
    callback=lambda context, parameter, found: _pairs(context, parameter, found),
    help="A service that reads the URL of its own PostgreSQL from this variable, if its env does not have it.",
)
@click.option(
    "--migrate",
    "migrations",
    multiple=True,
    metavar="SERVICE=COMMAND",
    callback=lambda context, parameter, found: _pairs(context, parameter, found),
    help="A command that prepares the database of a service before its instances start.",
)
def compose(**common: Any) -> None:
    """Write a folder for Compose: gateways behind nginx, the services with their replicas, a PostgreSQL for each
    service that declares one, Redis, Prometheus, Grafana, a collector of traces, migrations, and a job for backups.

    A service declares a PostgreSQL with a variable (NAME_)DATABASE_URL in its env, or with --database. The gateways get
    a file of their own, gateway/gateway.yaml; what differs in it is listed.

    \b
    Examples:
      passerelle export compose -o deploy --check
      passerelle export compose -o deploy --database user=USERS_DATABASE_URL --migrate 'user=python3 -m users.migrate'
    """
    from passerelle.export import compose as target
    from passerelle.export.checkers import COMPOSE_SPEC, NGINX, PROMTOOL

    if common["output"] is None:
        raise click.UsageError("give the folder to write to with -o")
    deployment = _read(common["config"], common["folder"])
    local = [item.name for item in deployment.services if item.service.is_local]
    for option in ("databases", "migrations"):
        for name in common[option]:
            if name not in local:
                raise click.UsageError(f"found the service {name!r}; allowed: {', '.join(local) or 'none'}")
    options = target.Options(
        image=common["image"],
        service_image=common["service_image"],
        backup_image=common["backup_image"],
        gateways=common["gateways"],
        port=common["port"],
        subnet=common["subnet"],
        databases=common["databases"],
        migrations={name: shlex.split(words) for name, words in common["migrations"].items()},
    )
    folder = target.export(deployment, options)
    for finding in folder.changes if not folder.losses or common["accept_losses"] else ():
        print_problems([deployment.locate(finding)], "in containers: ", err=True)
    checks = [(COMPOSE_SPEC, "compose.yaml"), (PROMTOOL, "prometheus/passerelle.rules.yml")]
    if deployment.config.tls is None:  # otherwise nginx reads the certificate, which may be on another machine
        checks.append((NGINX, "nginx/nginx.conf"))
    if common["check"] and not folder.reads_back():
        raise click.ClickException("nothing was exported: compose.yaml does not mean what was to be written")
    _finish_all(deployment, folder.files, folder.losses, checks, common)


def _subnet(context: click.Context, parameter: click.Parameter, found: str) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(found)
    except ValueError:
        network = None
    if network is None or network.prefixlen > 24 or int(network.broadcast_address) + network.num_addresses >= 2**32:
        raise click.BadParameter(f"found {found!r}; allowed is a network such as 10.1.2.0/24", context, parameter)
    return network


def _pairs(context: click.Context, parameter: click.Parameter, found: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in found:
        name, sign, value = each.partition("=")
        try:
            words = shlex.split(value)
        except ValueError:
            words = []
        if not sign or not words or (parameter.name == "databases" and not re.fullmatch(r"[A-Za-z_]\w*", value, re.A)):
            raise click.BadParameter(f"found {each!r}; allowed is {parameter.metavar}", context, parameter)
        pairs[name] = value
    return pairs


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
    if config.versions:
        services = ", ".join(config.versions)
        click.echo(f"{name}: an export has one version of a service; found versions of: {services}", err=True)
        exit_negative()
    return Deployment(config, text, name, Path(folder) if folder is not None else Path(name).absolute().parent)


def _finish(
    deployment: Deployment,
    name: str,
    text: str,
    losses: Sequence[Finding],
    checker: Checker,
    common: dict[str, Any],
) -> None:
    """List the losses, validate the only file of the export, and write it."""
    _finish_all(deployment, {name: text}, losses, [(checker, name)], common)


def _finish_all(
    deployment: Deployment,
    files: Mapping[str, str],
    losses: Sequence[Finding],
    checks: Sequence[tuple[Checker, str]],
    common: dict[str, Any],
) -> None:
    """List the losses, validate the export, and write its files."""
    _report_losses(deployment, losses, common["accept_losses"])
    if common["check"]:
        for checker, name in checks:
            _check(checker, name, files[name])
    if common["output"] is None:
        click.echo("".join(files.values()), nl=False)
    else:
        write_folder(Path(common["output"]), files, deployment.file, force=common["force"])


def _report_losses(deployment: Deployment, losses: Sequence[Finding], accepted: bool) -> None:
    """List the losses. Unless they are accepted, the command ends with 1."""
    problems = sorted(map(deployment.locate, losses), key=lambda problem: (problem.line, problem.column, problem.key))
    print_problems(problems, "lost: ", err=True)
    if problems and not accepted:
        click.echo("nothing was exported; --accept-losses exports the rest", err=True)
        exit_negative()


def _check(checker: Checker, name: str, text: str) -> None:
    found = checker.find()
    if found is None:
        click.echo(f"not validated: {checker.program} is not installed", err=True)
        return
    report = checker.run(found, os.path.basename(name), text)
    if report is not None:
        click.echo(report, err=True)
        click.echo(f"nothing was exported: {checker.program} refuses {name}", err=True)
        exit_negative()
    click.echo(f"{checker.program} accepts {name}", err=True)
