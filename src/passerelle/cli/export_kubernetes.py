"""The options of ``passerelle export kubernetes``, and the writing of its files."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from passerelle import __version__
from passerelle.cli.export_folder import write_folder
from passerelle.cli.support import exit_negative

if TYPE_CHECKING:
    from passerelle.config.problems import Finding
    from passerelle.export.deployment import Deployment
    from passerelle.export.kubernetes import Options

FOLDER = "/srv/app"
"""Where images have the folder of the configuration."""

_IMAGE = re.compile(r"[a-z0-9][a-zA-Z0-9._:/@-]{0,511}").fullmatch
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?").fullmatch
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?").fullmatch
_SCHEDULE = re.compile(r"@(hourly|daily|weekly|monthly|yearly)|[0-9*/,A-Za-z-]+( [0-9*/,A-Za-z-]+){4}").fullmatch


def options_of(deployment: Deployment, given: Mapping[str, Any]) -> Options:
    """Check the options. Raises ``click.UsageError`` with the option and what is allowed."""
    from passerelle.export.kubernetes import Options

    local = [item.name for item in deployment.services if item.service.is_local]
    images = _by_service("--service-image", given["service_images"], local, whole=True)
    one = [("--image", given["image"]), ("--backup-image", given["backup_image"])]
    for option, image in [*one, *(("--service-image", each) for each in images.values())]:
        if image is not None and not _IMAGE(image):
            raise click.UsageError(f"{option}: found {image!r}; allowed is the name of an image")
    if not given["gateway_class"] and not given["ingress"]:
        raise click.UsageError(
            "--gateway-class: none is given, and clusters name theirs as they like; allowed is one of "
            "`kubectl get gatewayclass`, or --ingress CLASS where there is no Gateway API"
        )
    for option, found, form in (
        ("--namespace", given["namespace"], _LABEL),
        ("--monitoring", given["monitoring"], _LABEL),
        ("--gateway-class", given["gateway_class"], _SUBDOMAIN),
        ("--ingress", given["ingress"], _SUBDOMAIN),
    ):
        if found is not None and not form(found):
            raise click.UsageError(f"{option}: found {found!r}; allowed are small letters, digits and dashes")
    if given["backup"] is not None and not _SCHEDULE(given["backup"]):
        raise click.UsageError(
            f"--backup: found {given['backup']!r}; allowed is a schedule of cron, such as '17 3 * * *'"
        )
    return Options(
        image=given["image"] or f"passerelle:{__version__}",
        service_images={"": f"passerelle-services:{__version__}", **images},
        gateways=given["gateways"],
        namespace=given["namespace"],
        gateway_class=given["gateway_class"] or "",
        ingress=given["ingress"],
        redis=_redis(given["redis"]),
        scale_by=given["scale_by"],
        migrations=_migrations(given["migrations"], local),
        backup=given["backup"],
        backup_image=given["backup_image"] or f"passerelle-backup:{__version__}",
        monitoring=given["monitoring"],
    )


def _by_service(option: str, given: Sequence[str], local: Sequence[str], *, whole: bool = False) -> dict[str, str]:
    """Split texts ``SERVICE=VALUE``. With ``whole``, a text may be a value for all, which is under ""."""
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        name, value = (name, value) if sign else ("", text)
        if not (name in local or (whole and not sign)):
            known = ", ".join(local) or "none"
            raise click.UsageError(f"{option}: found {text!r}; services with app or run: {known}")
        found[name] = value
    return found


def _migrations(given: Sequence[str], local: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, command in _by_service("--migrate", given, local).items():
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise click.UsageError(f"--migrate: the command of {name} cannot be split: {str(error).lower()}") from None
        if not words:
            raise click.UsageError(f"--migrate: found no command for {name}")
        found[name] = words
    return found


def _redis(text: str | None) -> str | None:
    """Check an address of Redis, in which references are allowed and a password is not."""
    from passerelle.config.models.redis import parse_redis

    if text is None:
        return None
    plain = re.sub(r"\$\{[^{}]*\}", "x", text)
    try:
        parse_redis(plain)
    except ValueError as error:
        raise click.UsageError(f"--redis: {error}") from None
    if re.search(r":(?!\$\{[^{}]*\}@)[^/@]+@", text.partition("://")[2]):
        raise click.UsageError("--redis: found a password; refer to it: redis://:${file:redis-password}@redis:6379/0")
    return text


def files_of(deployment: Deployment, options: Options) -> tuple[dict[str, str], Sequence[Finding]]:
    """Return the files of the export by their paths, and what is lost."""
    from passerelle.export import kubernetes

    return kubernetes.export(deployment, options)


def check(deployment: Deployment, options: Options, files: Mapping[str, str]) -> None:
    """Validate the files without a cluster. If they are refused, the command ends with 1."""
    from passerelle.export import kubernetes, kubernetes_check

    found = list(kubernetes_check.problems(files))
    for file in (kubernetes.cluster_file_of(deployment, options), kubernetes.backup_file_of(deployment, options)):
        if file is not None:
            found += kubernetes_check.gateway_problems(file, os.environ)
    built = kubernetes_check.kustomize_problems(files)
    if built is None:
        click.echo("overlays were not built: kubectl is not installed", err=True)
    else:
        found += built
    for problem in found:
        click.echo(problem, err=True)
    if found:
        click.echo("nothing was exported: the manifests are refused", err=True)
        exit_negative()
    click.echo("the schemas of Kubernetes, the Gateway API and the Prometheus operator accept the manifests", err=True)


def write(deployment: Deployment, files: Mapping[str, str], folder: str | None, *, force: bool) -> None:
    """Write the files, or without ``folder`` the manifests of the base to standard output."""
    if folder is not None:
        write_folder(Path(folder), files, deployment.file, force=force, own="overlays/")
        return
    manifests = [text for name, text in files.items() if name.startswith("base/") and "/kustomization." not in name]
    click.echo("---\n".join(manifests), nl=False)
