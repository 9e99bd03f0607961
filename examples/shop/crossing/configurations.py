"""The configurations of the walk, from everything on the monolith to the composed services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NEW = {"user": "users", "product": "products"}
"""The resources that move, each with its new service."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the walk is. In production, the numbers are those of the defaults: minutes and hundreds."""

    rate: int = 160  # requests per second
    visitors: int = 5000
    look: float = 8.0  # seconds in which nothing changes
    comparisons: int = 1300
    first_requests: int = 15  # of the new service, in the step with 1 % of the visitors
    step: float = 5.0  # seconds of each step
    limit: float = 90.0  # seconds for a rollout, or for a rollback


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateway runs: its ports, the folder of its files, and the folder of the shop."""

    port: int
    admin: int
    folder: Path
    shop: Path


def head(place: Place, services: dict[str, str | None]) -> str:
    """Return the part of a file before its routes. ``services`` has the defect of each service, or None."""
    lines = [
        f"listen: 127.0.0.1:{place.port}",
        f"admin: 127.0.0.1:{place.admin}",
        "access_log: access.log",
        "trusted_proxies: [127.0.0.1] # visitors come through a balancer, which names their addresses",
        "services:",
    ]
    for name, defect in services.items():
        lines += [
            f"  {name}:",
            f'    app: "crossing.services:{name}()"',
            f"    cwd: {place.shop}",
            "    threads: 24",
            "    instances: 2",
            "    health: {path: /healthz}",
        ]
        if defect is not None:
            lines.append(f"    env: {{CROSSING_DEFECT: {defect}}}")
    return "\n".join(lines) + "\nroutes:\n"


def rolled_out(place: Place, pace: Pace, resources: tuple[str, ...], defect: str | None = None) -> str:
    """Return the file with which ``resources`` are compared and then moved, step by step."""
    text = head(place, {"monolith": None, **{NEW[resource]: defect for resource in resources}})
    for resource in resources:
        new = NEW[resource]
        text += f"""\
  - path: "/{resource}/{{{resource}_id}}"
    methods: [GET]
    service: monolith
    shadow: {{service: {new}, concurrency: 32}}
    split: {{weights: {{{new}: 0}}, by: "cookie:visitor"}}
    rollout:
      shadow: {{comparisons: {pace.comparisons}, differences: 0.3%}}
      steps: [{{share: 1%, requests: {pace.first_requests}}}, 5%, 25%, 50%, 100%]
      at_least: {pace.step:g}s
      requests: 20
"""
    return text + '  - {path: "/{path*}", service: monolith}\n'


def composed(place: Place) -> str:
    """Return the last file, without the monolith."""
    text = head(place, {"users": None, "products": None})
    for resource, service in NEW.items():
        text += f"  - {{path: /{resource}, service: {service}}}\n"
        text += f'  - {{path: "/{resource}/{{{resource}_id}}", service: {service}}}\n'
    text += '  - path: "/api/{user_id}/{product_id}"\n    compose:\n'
    for resource, service in NEW.items():
        path = f"/{resource}/{{{resource}_id}}"
        text += f'      {resource}: {{service: {service}, path: "{path}", pass_status: [404]}}\n'
    return text
