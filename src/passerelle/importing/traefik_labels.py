"""Labels of Compose files as the dynamic configuration that Traefik reads from them."""

from __future__ import annotations

from typing import Any

from passerelle.importing.documents import Table
from passerelle.importing.draft import Draft


def dynamic_of_labels(path: str, services: Table, draft: Draft) -> Table:
    """Return the dynamic configuration that the labels of the services of a Compose file state."""
    content = Table()
    for name in services:
        service = services.table(name)
        if service.read("labels") is None:
            continue
        labels = list(_labels(service))
        routers: dict[str, int] = {}
        ports: dict[str, tuple[str, int]] = {}
        for key, value, line in labels:
            steps = key.split(".")
            if steps[:1] != ["traefik"] or len(steps) < 2:
                continue
            if steps[1].lower() in ("enable", "docker", "constraint-label"):
                continue
            lowered = [step.lower() for step in steps]
            if lowered[1:3] == ["http", "routers"] and len(steps) > 4:
                routers.setdefault(steps[3], line)
            if lowered[1:3] == ["http", "services"] and lowered[4:] == ["loadbalancer", "server", "port"]:
                ports[steps[3]] = value, line
                continue
            _set(content, steps[1:], value, line)
        if not ports and routers:
            port = _first_port(service)
            if port is None:
                draft.skip(path, services.line_of(name), f"services.{name}", "no port is known; write its service")
            else:
                ports[name] = port, services.line_of(name)
        for service_name, (port, line) in ports.items():
            server = Table(line)
            server.put("url", f"http://{name}:{port}", line)
            _set(content, ["http", "services", service_name, "loadBalancer", "servers"], [server], line)
        default = next(iter(ports), name)
        for router, line in routers.items():
            table = content.table("http").table("routers").table(router)
            if table.read("service") is None:
                table.put("service", default, line)
    return content


def _labels(service: Table) -> list[tuple[str, str, int]]:
    labels = service.read("labels")
    line = service.line_of("labels")
    if isinstance(labels, Table):
        return [(key, str(labels.read(key)), labels.lines[key]) for key in list(labels)]
    found = []
    for number, each in enumerate(labels if isinstance(labels, list) else []):
        key, equals, value = str(each).partition("=")
        if equals:
            found.append((key.strip(), value.strip(), line + 1 + number))
    return found


def _first_port(service: Table) -> str | None:
    for key in ("expose", "ports"):
        found = service.read(key)
        for each in found if isinstance(found, list) else []:
            port = str(each).removesuffix("/tcp").rpartition(":")[2]
            if port.isdecimal():
                return port
    return None


def _set(table: Table, steps: list[str], value: Any, line: int) -> None:
    for step in steps[:-1]:
        known = next((key for key in table if key.lower() == step.lower()), None)
        inner = table[known] if known is not None else None
        if not isinstance(inner, Table):
            inner = Table(line)
            table.put(step, inner, line)
        table = inner
    table.put(steps[-1], value, line)
