"""Services in nginx: the instances of each and how one is picked, and how requests are sent to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from passerelle.config.models.config import Route, Service
from passerelle.export.deployment import ServiceExport
from passerelle.export.nginx_headers import CLIENT_HOST
from passerelle.export.nginx_text import duration, literal, variable, whole_seconds, word
from passerelle.export.nginx_writer import Writer

_SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_RETRIED = frozenset({500, 502, 503, 504})

Lose = Callable[..., None]
"""Reports a loss: keys below the service, and ``why``."""


def write_upstream(out: Writer, item: ServiceExport, name: str, lose: Lose) -> None:
    """Write the `upstream` block of a service."""
    service = item.service
    for index, target in enumerate(service.targets or ()):
        if target.url is not None and target.is_found:
            lose("targets", index, "url", why="nginx resolves names once, when it starts; this target is left out")
    for zone_name, zone in (service.zones or {}).items():
        if zone.priority > 0:
            why = "nginx uses the zone only while all instances of the others are down"
            lose("zones", zone_name, "priority", why=why)
        for index, target in enumerate(zone.targets):
            if target.url is not None and target.is_found:
                lose("zones", zone_name, "targets", index, "url", why="nginx resolves names once, when it starts")
    if len({instance.address.secure for instance in item.instances}) > 1:
        lose(service.source, why="nginx sends requests to all instances of a service over TLS, or to none")
    if service.eject is not None and service.eject.time != max(int(service.eject.time), 1):
        lose("eject", "time", why="nginx has whole seconds; the export rounds")
    if service.is_local and service.instances.scales:
        lose("instances", "max", why="nginx has a fixed number of instances; the export has the smallest")
    if service.is_local:
        out.comment(f"Instances of {service.app or ' '.join(service.run or ())}, which nginx does not start.")
    with out.block("upstream", name):
        backups = any(instance.backup for instance in item.instances)
        _write_policy(out, service, lose, backups)
        common = math.gcd(*(instance.weight for instance in item.instances)) or 1
        weighted = service.balance.policy not in ("round_robin",) or service.zones is not None
        for instance in item.instances:
            weight = instance.weight // common if weighted else 1
            out.add("server", str(instance.address), *_server_options(service, weight, instance.backup))
        if not item.instances:
            out.comment("No instance has a fixed address: requests fail.")
            out.add("server", "127.0.0.1:9", "down")
        out.add("keepalive", str(min(service.max_connections, 256)))
        out.add("keepalive_timeout", duration(service.keepalive))


def _write_policy(out: Writer, service: Service, lose: Lose, backups: bool) -> None:
    balance = service.balance
    if balance.policy == "ewma":
        lose("balance", "policy", why="nginx does not balance by latency; the less loaded of two random instances is")
    if backups and balance.policy in ("hash", "p2c", "ewma"):
        # These methods of nginx have no backup servers.
        if balance.policy == "hash":
            lose("balance", "policy", why="nginx has no hash with zones of several priorities")
        out.add("least_conn")
    elif balance.policy == "least_inflight":
        out.add("least_conn")
    elif balance.policy == "hash" and balance.by is not None:
        source, name = balance.by.source, balance.by.name
        found = {
            "address": "$remote_addr",
            "param": None,
            "header": variable("http_", name),
            "cookie": variable("cookie_", name),
        }[source]
        if found is None:
            lose("balance", "by", why="nginx has no variable for it; it hashes the whole path")
        out.add("hash", found or "$uri", "consistent")
    elif balance.policy in ("p2c", "ewma"):
        out.add("random", "two", "least_conn")


def _server_options(service: Service, weight: int, backup: bool) -> list[str]:
    options = [f"weight={weight}"] if weight != 1 else []
    if "max_connections" in service.model_fields_set:
        options.append(f"max_conns={service.max_connections}")
    if service.eject is None:
        options.append("max_fails=0")
    else:
        time = whole_seconds(max(service.eject.time, 1.0))
        options += [f"max_fails={service.eject.failures}", f"fail_timeout={time}"]
    return options + (["backup"] if backup else [])


def write_sending(
    out: Writer, item: ServiceExport, route: Route, name: str, path: Callable[[Path], str], lose: Lose
) -> None:
    """Write how requests of a route are sent to its service.

    ``name`` is that of the `upstream` block. ``path`` returns the absolute path of a file of the configuration.
    """
    service = item.service
    secure = any(instance.address.secure for instance in item.instances)
    out.add("proxy_pass", f"{'https' if secure else 'http'}://{name}")
    out.add("proxy_connect_timeout", duration(service.connect_timeout))
    out.add("proxy_read_timeout", duration(min(route.attempt_timeout or route.timeout, route.timeout)))
    if route.attempts == 1:
        out.add("proxy_next_upstream", "off")
    else:
        statuses = [status for status in service.retries.on_status if status in _RETRIED]
        if len(statuses) < len(service.retries.on_status):
            lose("retries", "on_status", why="nginx retries only 500, 502, 503 and 504")
        out.add("proxy_next_upstream", "error", "timeout", *(f"http_{status}" for status in sorted(set(statuses))))
        out.add("proxy_next_upstream_tries", str(route.attempts))
        out.add("proxy_next_upstream_timeout", duration(route.timeout))
    if secure:
        _write_tls(out, item, path)


def host_of(item: ServiceExport, lose: Lose) -> str:
    """Return the `Host` that instances receive, as nginx reads it."""
    service = item.service
    if service.host_name is not None:
        return literal(service.host_name)
    if service.host == "client":
        return CLIENT_HOST
    addresses = [instance.address for instance in item.instances]
    if len(addresses) != 1:
        lose("host", why="nginx does not know which instance it will pick; instances receive the host of the client")
        return CLIENT_HOST
    address = addresses[0]
    standard = address.port == (443 if address.secure else 80)
    return str(address).rpartition(":")[0] if standard else str(address)


def _write_tls(out: Writer, item: ServiceExport, path: Callable[[Path], str]) -> None:
    service = item.service
    tls = service.tls
    names = {instance.address.host for instance in item.instances}
    name = (tls.server_name if tls is not None else None) or (service.host_name or "").rpartition(":")[0]
    name = name or service.host_name or (names.pop() if len(names) == 1 else "$proxy_host")
    out.add("proxy_ssl_server_name", "on")
    out.add("proxy_ssl_name", name)
    if tls is None or tls.verify:
        authorities = tls.ca if tls is not None else None
        out.add("proxy_ssl_verify", "on")
        out.add("proxy_ssl_verify_depth", "4")
        out.add("proxy_ssl_trusted_certificate", word(path(authorities)) if authorities else _SYSTEM_AUTHORITIES)
    if tls is not None and tls.certificate is not None and tls.key is not None:
        out.add("proxy_ssl_certificate", word(path(tls.certificate)))
        out.add("proxy_ssl_certificate_key", word(path(tls.key)))
