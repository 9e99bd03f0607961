"""What changes in a file whose gateway moves into a container: the steps that Compose and Kubernetes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from passerelle.config.models.access_log import split_target
from passerelle.config.models.addresses import Address
from passerelle.config.models.application import ONLY_WITH_APP
from passerelle.config.models.config import Config
from passerelle.config.models.target import Target
from passerelle.config.problems import Loc
from passerelle.config.reading.substitute import references
from passerelle.export.config_tree import is_loopback, texts
from passerelle.export.secret_places import POSSIBLE_SECRETS, SECRETS, has_password, is_one_of, may_be_secret

LOCAL_KEYS = frozenset({"app", "run", *ONLY_WITH_APP, "instances", "env", "cwd", "grace"})
"""The keys of a service that concern its processes."""
FRESH = "5s"
"""How long the addresses of a name are used, unless the file states it: the DNS of containers states 10 minutes."""

_LOWEST_PORT, _LISTEN_PORT, _ADMIN_PORT = 1024, 8080, 9900


def listen_port(config: Config, other: int = _LISTEN_PORT) -> int:
    """Return the port for clients: that of the file, or ``other`` where the file has one that needs privileges."""
    port = config.address.port
    return port if port >= _LOWEST_PORT else other


def admin_section(config: Config, given: object, listen: int) -> tuple[dict[str, Any], int] | None:
    """Return the section of the admin port without its token, and the port; None if the file has none.

    ``given`` is the section of the file. Probes need two pages without a token.
    """
    found = config.admin
    if found is None:
        return None
    port = found.listen.port if found.listen.port >= _LOWEST_PORT else _ADMIN_PORT
    port = port if port != listen else port + 1
    section = dict(given) if isinstance(given, dict) else {}
    section["listen"] = f"0.0.0.0:{port}"
    if missing := [page for page in ("healthz", "readyz") if page not in found.open]:
        section["open"] = [*found.open, *missing]
    return section, port


def with_targets(section: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return a service that something else starts: its section without the keys of processes."""
    kept = {key: value for key, value in section.items() if key not in LOCAL_KEYS}
    return {"targets": [target], **kept}


def is_local_log(config: Config) -> bool:
    """Whether the access log goes to a file or socket of this machine, which a container does not have."""
    log = config.access_log
    if isinstance(log, Path) or log.startswith(("journald", "syslog+unix")):
        return True
    return log.startswith("syslog+") and is_loopback(split_target(log)[1])


def without_backups(data: dict[str, Any]) -> bool:
    """Remove the section of backups, whose secrets are none of the gateway's. Returns whether there was one."""
    return data.pop("backup", None) is not None


def loopback_targets(config: Config, name: str) -> Iterator[tuple[Loc, Address]]:
    """Yield the targets of a service on the machine of the gateway, with their places."""
    service = config.services[name]
    place: Loc = ("services", name)
    groups: list[tuple[Loc, Sequence[Target]]] = [((*place, "targets"), service.targets or ())]
    groups += [((*place, "zones", key, "targets"), zone.targets) for key, zone in (service.zones or {}).items()]
    for owner, targets in groups:
        for index, target in enumerate(targets):
            if target.url is not None and (is_loopback(target.url.host) or target.url.is_socket):
                yield (*owner, index), target.url


def loopback_urls(config: Config) -> Iterator[Loc]:
    """Yield the places of other URLs on the machine of the gateway."""
    jwt, tracing, alerts = config.jwt, config.tracing, config.alerts
    urls: dict[Loc, object] = {
        ("jwt", "jwks"): jwt.jwks if jwt is not None else None,
        ("oidc", "issuer"): config.oidc.issuer if config.oidc is not None else None,
        ("tracing", "endpoint"): tracing.endpoint if tracing is not None else None,
        ("alerts", "webhook", "url"): alerts.webhook.url if alerts is not None and alerts.webhook else None,
    }
    for loc, url in urls.items():
        if isinstance(url, str) and is_loopback(urlsplit(url).hostname or ""):
            yield loc


def literal_secrets(data: Any) -> Iterator[tuple[Loc, str]]:
    """Yield what stands in the file and may be a secret, with its place. A reference is none."""
    for loc, text in list(texts(data)):
        if has_password(text) or (
            not references(text)
            and (is_one_of(loc, SECRETS) or (is_one_of(loc, POSSIBLE_SECRETS) and may_be_secret(str(loc[-1]), text)))
        ):
            yield loc, text
